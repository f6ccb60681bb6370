"""The networks that a labeler gets, each built from its weights when it is first asked for."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotator.characters import refuse_control
from annotator.errors import AnnotatorError, WeightsError
from annotator.limits import Limits
from annotator.models.compat import prepare_torchvision
from annotator.models.devices import (
    CROPS_AT_ONCE,
    PHOTOS_AT_ONCE,
    SEGMENTS_AT_ONCE,
    WINDOWS_AT_ONCE,
    decode_workers,
    kind_of,
)
from annotator.models.sources import Source, hold_to_hash, locate
from annotator.models.weights import State, read_state
from annotator.wording import shown

if TYPE_CHECKING:
    from torch import nn

    from annotator.models.backbone import Precision
    from annotator.models.clip import DenseClip
    from annotator.models.dino import Dino
    from annotator.models.found import Found
    from annotator.models.heads import DinoiserHeads
    from annotator.models.language import LanguageModel
    from annotator.models.phrases import PhraseBank
    from annotator.models.sentence import SentenceModel

REASON_LENGTH = 200
Used = dict[str, dict[str, str]]
"""Slot -> source, file (its name) and sha256 of what was loaded for it."""


@dataclass(frozen=True)
class WeightFile:
    """A file of a role, found and checked; its tensors are read when asked for."""

    path: Path
    sha256: str
    format: str

    def state(self) -> State:
        return read_state(self.path, self.format)


OpenWeights = Callable[[str], AbstractContextManager[WeightFile]]
"""Slot -> its file, for as long as a network is built from it."""


@dataclass(frozen=True)
class Role:
    """One network: its architecture and, per slot, the file that fills it (alternatives, the best first).

    architecture: a name that open_clip or timm knows, or an open_clip configuration.
    """

    name: str
    architecture: Any = None
    mean: tuple[Annotated[float, Limits(-1000, 1000)], ...] = ()
    std: tuple[Annotated[float, Limits(0, 1000, above=True)], ...] = ()
    licence: str = ""
    files: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, str | dict | None):
            raise ValueError(f"architecture: expected a name, but found {shown(self.architecture)}")
        if isinstance(self.architecture, str):
            refuse_control(self.architecture, "architecture")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, 3):
                raise ValueError(f"{name}: expected three numbers, but found {len(getattr(self, name))}")


class Networks:
    """The networks of one labeler; the first access to one loads it, and it is kept.

    load:              role -> its network and the files it was built from.
    device, precision: where and how to run them; the weights themselves stay float32.
    pack:              the pack's name.
    """

    def __init__(
        self,
        load: Callable[[str], tuple[nn.Module, Used]],
        device: str = "cpu",
        precision: Precision = "fp32",
        pack: str = "",
    ) -> None:
        self.device = device
        self.precision = precision
        self.pack = pack
        self.photos_at_once = PHOTOS_AT_ONCE[kind_of(device)]
        self.windows_at_once = WINDOWS_AT_ONCE[kind_of(device)]
        self.crops_at_once = CROPS_AT_ONCE[kind_of(device)]
        self.segments_at_once = SEGMENTS_AT_ONCE
        self.decode_workers = decode_workers(device)
        self.compiled = False  # to be set before the first network is asked for
        self._load = load
        self._loaded: dict[str, nn.Module] = {}
        self._used: Used = {}

    @classmethod
    def of(cls, *, device: str = "cpu", precision: Precision = "fp32", **networks: nn.Module) -> Networks:
        """From modules in memory: `Networks.of(clip=..., heads=...)`."""

        def load(role: str) -> tuple[nn.Module, Used]:
            if role not in networks:
                raise WeightsError(
                    f"expected a network for {role!r}, but found {', '.join(networks) or 'none'}; add it"
                )
            return networks[role], {}

        return cls(load, device, precision)

    @property
    def clip(self) -> DenseClip:
        return self._get("clip")

    @property
    def dino(self) -> Dino:
        return self._get("dino")

    @property
    def found(self) -> Found:
        return self._get("found")

    @property
    def heads(self) -> DinoiserHeads:
        return self._get("heads")

    @property
    def lm(self) -> LanguageModel:
        return self._get("lm")

    @property
    def sentence(self) -> SentenceModel:
        return self._get("sentence")

    @property
    def phrases(self) -> PhraseBank:
        return self._get("phrases")

    @contextmanager
    def inference(self) -> Iterator[None]:
        """To run them in: no gradients, and no float32 number rounded (see `annotator.models.fp32`)."""
        import torch

        from annotator.models.fp32 import exact_fp32

        with exact_fp32(), torch.inference_mode():
            yield

    def halve_batches(self) -> bool:
        """Lets the networks see half as many windows, crops and segments at a time; False where it is one already.

        For a device that has run out of memory. Masks then are the same but for rounding: how many images a network
        sees at once can change the order in which it adds up.
        """
        import torch

        before = (self.windows_at_once, self.crops_at_once, self.segments_at_once)
        self.windows_at_once, self.crops_at_once, self.segments_at_once = (max(number // 2, 1) for number in before)
        if kind_of(self.device) == "cuda":
            torch.cuda.empty_cache()
        return max(before) > 1

    def used(self) -> Used:
        """What has been loaded so far, for the run's manifest; nothing for modules in memory."""
        return dict(self._used)

    def _get(self, role: str) -> Any:
        if role not in self._loaded:
            from annotator.models.backbone import Backbone

            network, used = self._load(role)
            for module in network.modules():
                if isinstance(module, Backbone):
                    module.precision = self.precision
                    if self.compiled:
                        module.compile_blocks()
            self._loaded[role] = network.to(self.device)
            self._used.update(used)
        return self._loaded[role]


def build(role: Role, weights: OpenWeights) -> nn.Module:
    """The network for a role, filled."""
    if role.name not in _BUILDERS:
        raise WeightsError(
            f"expected one of {', '.join(_BUILDERS)} to build, but found {role.name!r}; it is only stored"
        )
    try:
        return _BUILDERS[role.name](role, weights)
    except (AnnotatorError, RuntimeError, OSError, ImportError):
        raise
    except Exception as error:  # a library may answer an architecture that is none with anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:REASON_LENGTH]}"
        raise WeightsError(
            f"{role.name}: expected an architecture that can be built from the pack's files, but found "
            f"{shown(role.architecture)} ({reason}); check the pack"
        ) from error


def weights_from_files(role: Role, given: Mapping[str, Path], used: Used) -> OpenWeights:
    """Finds and reads a role's files. An error while building names the file and the mend; success holds a file
    of unknown hash to the one it has now."""

    @contextmanager
    def weights(slot: str) -> Iterator[WeightFile]:
        if slot not in role.files:
            named = ", ".join(role.files) or "none"
            raise WeightsError(f"{slot}: expected a pack that names its file, but of {role.name} it names {named}")
        located = locate(slot, role.files[slot], given.get(slot))
        try:
            yield WeightFile(located.path, located.sha256, located.source.format)
        except WeightsError as error:
            raise WeightsError(f"{located.path}: {error}; give the right file with --weights {slot}=FILE") from None
        hold_to_hash(located)
        used[slot] = {"source": located.origin, "file": located.path.name, "sha256": located.sha256}

    return weights


def _build_clip(role: Role, weights: OpenWeights) -> nn.Module:
    if role.architecture == "mini-clip":
        from annotator.models.mini_clip import load_mini_clip

        with weights("clip") as own, weights("clip.stem") as stem, weights("clip.text") as text:
            weights_id = f"{own.sha256} {text.sha256}"
            return load_mini_clip(own.state(), stem.state(), text.path.parent, weights_id)
    from annotator.models.clip import load_open_clip

    with weights("clip") as file:
        return load_open_clip(_known_architecture(role), file.state(), role.mean, role.std, weights_id=file.sha256)


def _build_dino(role: Role, weights: OpenWeights) -> nn.Module:
    return _dino(role, weights, "dino", "dino.stem")


def _build_found(role: Role, weights: OpenWeights) -> nn.Module:
    from annotator.models.found import load_found

    backbone = _dino(role, weights, "found.backbone", "found.stem")
    with weights("found") as file:
        return load_found(backbone, file.state())


def _dino(role: Role, weights: OpenWeights, slot: str, stem_slot: str) -> Dino:
    if role.architecture == "mini-dino":
        from annotator.models.mini_dino import load_mini_dino

        with weights(slot) as own, weights(stem_slot) as stem:
            return load_mini_dino(own.state(), stem.state())
    from annotator.models.dino import load_timm_dino

    with weights(slot) as file:
        return load_timm_dino(role.architecture, file.state())


def _build_heads(role: Role, weights: OpenWeights) -> nn.Module:
    from annotator.models.heads import load_heads

    with weights("heads") as file:
        return load_heads(file.state())


def _build_lm(role: Role, weights: OpenWeights) -> nn.Module:
    from annotator.models.language import load_language_model

    beside = _companions(role, weights)
    with weights("lm") as file:
        return load_language_model(file.path, beside, file.sha256)


def _build_sentence(role: Role, weights: OpenWeights) -> nn.Module:
    from annotator.models.sentence import load_sentence_model

    beside = _companions(role, weights)
    with weights("sentence") as file:
        return load_sentence_model(file.path, beside, file.sha256)


def _companions(role: Role, weights: OpenWeights) -> dict[str, Path]:
    """The small files that go with a role's weights, by their names; all of them are JSON."""
    found = {}
    for slot in role.files:
        if slot.startswith(f"{role.name}/"):
            with weights(slot) as file:
                found[slot.removeprefix(f"{role.name}/")] = file.path
                _check_json(file.path)
    return found


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"expected JSON, but it is damaged or something else ({reason})") from None


def _build_phrases(role: Role, weights: OpenWeights) -> nn.Module:
    from annotator.models.phrases import load_phrases

    with weights("phrases") as file:
        return load_phrases(file.state())


_BUILDERS: dict[str, Callable[[Role, OpenWeights], nn.Module]] = {
    "clip": _build_clip,
    "dino": _build_dino,
    "found": _build_found,
    "heads": _build_heads,
    "lm": _build_lm,
    "sentence": _build_sentence,
    "phrases": _build_phrases,
}


def _known_architecture(role: Role) -> Any:
    """The architecture's name; an open_clip configuration gets one, since open_clip builds by name only."""
    if role.name != "clip" or isinstance(role.architecture, str):
        return role.architecture
    prepare_torchvision()
    import open_clip

    configuration = json.dumps(role.architecture, sort_keys=True)
    name = f"configured-{hashlib.sha256(configuration.encode()).hexdigest()[:12]}"
    if name not in open_clip.list_models():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.json"
            file.write_text(configuration, encoding="utf-8")
            open_clip.add_model_config(file)
    return name
