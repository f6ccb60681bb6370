"""From photos to the embedded pack's weights, one stage after the other.

A stage whose result exists is skipped, and one that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from annotator.files import replacing
from annotator.models.mini_clip import MiniText, MiniTower, Stem
from annotator.models.mini_dino import MiniDino
from annotator.models.packs import read_pack
from annotator.models.sources import locate
from annotator.models.weights import read_state
from annotator.training.embedded import clip, dino, language, mask_heads, photos
from annotator.training.embedded.bank import Bank
from annotator.training.embedded.card import write_card
from annotator.training.embedded.dino_views import Views, fit_components
from annotator.training.embedded.text import build as build_text

WHITENING = 0.5
"""Of the components that teach the affinity head."""
STEM_PARTS = ("conv1.stem.", "patch_embed.proj.stem.")
State = dict[str, Tensor]
Report = Callable[[str, float, str], None]
"""Stage, share done, detail."""


@dataclass(frozen=True)
class Recipes:
    """What the stages do; the defaults are those of the committed weights."""

    clip: clip.Recipe = field(default_factory=clip.Recipe)
    dino: dino.DinoRecipe = field(default_factory=dino.DinoRecipe)
    found: mask_heads.FoundRecipe = field(default_factory=mask_heads.FoundRecipe)
    heads: mask_heads.HeadsRecipe = field(default_factory=mask_heads.HeadsRecipe)
    language: language.Recipe = field(default_factory=language.Recipe)


def rebuild(data: Path, out: Path, report: Report, recipes: Recipes | None = None, device: str = "cpu") -> None:
    """Writes mini_clip, mini_dino, found and heads (.safetensors, float16), language/ and card.md to `out`.

    data: a folder with `coco`, `voc` and `photos`; docs/embedded-pack.md says what is in them.
    The phrase bank needs a pack to embed with and has its own command, `annotate train phrases`.
    """
    recipes = recipes or Recipes()
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    files = read_pack("embedded").role("clip", labeler="").files
    stem = read_state(locate("clip.stem", files["clip.stem"]).path, "plain")

    bank_file = work / "names.pt"
    if not bank_file.exists():
        report("names", 0.0, "embedding")
        minilm = locate("clip.text", files["clip.text"]).path.parent
        with replacing(bank_file) as opened:
            torch.save(build_text(MiniText(minilm), data / "photos/pool/index.csv"), opened)
    report("names", 1.0, "")
    names = torch.load(bank_file, weights_only=True)

    cache = work / "features"
    _store_features(data, cache, stem, names, report, device)

    checkpoint = work / "clip.pt"
    tower_file = out / "mini_clip.safetensors"
    if not tower_file.exists():
        tower = clip.train_clip(
            cache,
            Bank(names, device=device),
            stem,
            recipes.clip,
            checkpoint,
            lambda share, losses: report("clip", share, " ".join(f"{k} {v:.2f}" for k, v in losses.items())),
            device,
        )
        text = {"text.projection.weight": names["W"], "text.projection.bias": names["bias"]}
        write({f"visual.{name}": tensor for name, tensor in tower.state_dict().items()} | text, tower_file)
    report("clip", 1.0, "")

    dino_file = out / "mini_dino.safetensors"
    if not dino_file.exists():
        steps = recipes.dino.steps
        vit = dino.train_dino(
            cache,
            stem,
            recipes.dino,
            checkpoint=work / "dino.pt",
            report=lambda step, loss: report("dino", step / steps, f"loss {loss:.2f}"),
        )
        assert vit is not None
        write(vit.state_dict(), dino_file)
    report("dino", 1.0, "")
    vit = MiniDino()
    vit.load_state_dict(_read(dino_file), strict=False)
    vit.eval().requires_grad_(False)

    if not (out / "found.safetensors").exists():
        write(mask_heads.train_found(cache, vit, recipes.found).state_dict(), out / "found.safetensors")
    report("found", 1.0, "")
    if not (out / "heads.safetensors").exists():
        tower = MiniTower()
        tower.load_state_dict(_read(tower_file, "visual."), strict=False)
        tower.conv1.stem.load(stem)
        tower.eval().requires_grad_(False)
        components = fit_components(list(Views(cache).spread(dino.SAMPLE)), WHITENING)
        trained = mask_heads.train_heads(
            cache, tower, components, recipes.heads, lambda share: report("heads", share, "")
        )
        write(trained.state_dict(), out / "heads.safetensors")
    report("heads", 1.0, "")

    if not (out / "language/model.safetensors").exists():
        measured = {int(photo.stem) for photo in (data / "coco/val2017").glob("*.jpg")}
        corpus = language.read_corpus(
            data / "coco/annotations/captions_val2017.json", recipes.language, held_out=measured
        )
        language.train_language(
            corpus,
            out / "language",
            recipes.language,
            math.inf,
            device,
            lambda step, loss: report("language", step / recipes.language.steps, f"loss {loss:.2f}"),
        )
    report("language", 1.0, "")
    weights = [*sorted(out.glob("*.safetensors")), out / "language/model.safetensors"]
    trained_tower = torch.load(checkpoint, weights_only=True, map_location="cpu")
    write_card(out / "card.md", *photos.gather(data), recipes.clip, trained_tower, weights)


def _store_features(
    data: Path, cache: Path, stem: State, names: dict[str, Tensor], report: Report, device: str
) -> None:
    cache.mkdir(exist_ok=True)
    unlabelled, labelled = photos.gather(data)
    shards = photos.plan(unlabelled, labelled)
    network = Stem().load(stem).to(device)
    cells = photos.StuffClusters(photos.STUFF_CELLS_FILE, names["gen"])  # type: ignore[arg-type]
    for number, shard in enumerate(shards):
        report("features", number / len(shards), f"{len(unlabelled) + len(labelled):,} photos")
        file = cache / f"{number:03d}.pt"
        if not file.exists():
            views = list(photos.views(shard, unlabelled, labelled))
            photos.store(views, network, cells, names["weak"], file)  # type: ignore[arg-type]
    report("features", 1.0, "")


def write(state: State, file: Path) -> None:
    """float16, without the stem; the file is there whole or not at all."""
    kept = {k: v.cpu().half().contiguous() for k, v in state.items() if not any(p in k for p in STEM_PARTS)}
    with replacing(file) as opened:
        opened.write(save(kept))


def _read(file: Path, prefix: str = "") -> State:
    return {k.removeprefix(prefix): v.float() for k, v in load_file(file).items() if k.startswith(prefix)}
