"""What a labeler is, and the list of those known.

A labeler is a class with the protocol below, registered by decorator:

    @dataclass(frozen=True)
    class MineParameters:
        gamma: Share = 0.2  # of `annotator.limits`; or Annotated[float, Limits(0, 5)]

    @register(LabelerSpec("mine", needs_vocabulary=True, paper="...", roles=("clip",)), MineParameters)
    class Mine:
        def __init__(self, networks: Networks, parameters: MineParameters) -> None: ...

Packages of third parties name such a class in the entry-point group `annotator.labelers`; they may keep
defaults in their parameters, the tool's own labelers have them in `configs/labelers/NAME.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from annotator.config import parameters_from
from annotator.prediction import Prediction
from annotator.registry import Registry
from annotator.vocabulary import Vocabulary

if TYPE_CHECKING:
    from annotator.models.packs import Networks

Image = NDArray[np.uint8]
"""H x W x 3 RGB."""
Size = tuple[int, int]
"""(height, width)."""

BUILT_IN = ("maskclip", "dinoiser", "diy", "zeroguide")


@dataclass(frozen=True)
class LabelerSpec:
    """What the tool must know before it builds a labeler.

    roles: networks it may ask the pack for; which of them it does ask for depends on its parameters.
    """

    name: str
    needs_vocabulary: bool
    paper: str
    roles: tuple[str, ...]
    needs_background: bool = False


class Labeler(Protocol):
    """What an implementer promises and may rely on.

    It never downloads, reads files or writes: its networks are handed in. `prepare` is called once, before
    the first `label`, with None exactly where the spec needs no vocabulary.

    `working_side`: photos may be handed over shrunk, as long as their short side is at least this; None asks
    for full size. The prediction then still has the size named in `sizes`.
    """

    spec: LabelerSpec

    @property
    def working_side(self) -> int | None: ...

    def prepare(self, vocabulary: Vocabulary | None) -> None: ...

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        """Photos in, as many predictions out, in the same order, whatever the batch size.

        images: H x W x 3 uint8 RGB each, of any sizes.
        sizes:  (height, width) that each prediction must have; the images' own where None.
        """
        ...


@dataclass(frozen=True)
class Registration:
    spec: LabelerSpec
    build: Callable[[Any, Any], Labeler]
    parameters: type


_labelers: Registry[Registration] = Registry(
    "labeler", "annotator.labelers", {name: f"labelers.{name}" for name in BUILT_IN}
)
Built = TypeVar("Built", bound=Callable[[Any, Any], Any])


def register(spec: LabelerSpec, parameters: type) -> Callable[[Built], Built]:
    """Class decorator."""

    def add(build: Built) -> Built:
        _labelers.add(spec.name, Registration(spec, build, parameters))
        build.spec = spec  # type: ignore[attr-defined]
        return build

    return add


def available() -> list[str]:
    """Names of all labelers, built in and from installed packages, without importing any."""
    return _labelers.names()


def find(name: str) -> Registration:
    """Imports and returns the labeler of that name."""
    return _labelers.find(name)


def default_parameters(name: str) -> dict[str, Any]:
    """The values in configs/labelers/NAME.yaml; empty for a third party's labeler."""
    return yaml.safe_load(text) if (text := parameters_text(name)) else {}


def parameters_text(name: str) -> str:
    """That file as it stands, comments included: it is the labeler's help."""
    file = resources.files("configs") / "labelers" / f"{name}.yaml"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def resolve_parameters(name: str, given: Mapping[str, Any] | None = None) -> Any:
    """The labeler's parameters with `given` put over the defaults, checked by name and type."""
    defaults = default_parameters(name)
    return parameters_from(find(name).parameters, {**defaults, **(given or {})}, f"labeler {name}")


def build(name: str, networks: Networks, given: Mapping[str, Any] | None = None) -> Labeler:
    """A labeler of that name over these networks."""
    return find(name).build(networks, resolve_parameters(name, given))
