"""From photos to the embedded pack's weights, one step after the other; a step whose result exists is skipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from annotator.models.mini_clip import MiniText, MiniTower, Stem
from annotator.models.mini_dino import MiniDino
from annotator.models.packs import read_pack
from annotator.models.sources import locate
from annotator.models.weights import read_state
from annotator.training.embedded import photos
from annotator.training.embedded.bank import Bank
from annotator.training.embedded.clip import Recipe, train_clip
from annotator.training.embedded.dino import fit_dino
from annotator.training.embedded.heads import (
    NO_LABEL,
    intermediate_of,
    keys_of,
    shards_in,
    token_labels,
    train_found,
    train_heads,
)
from annotator.training.embedded.text import build as build_text

STEM_PREFIXES = ("conv1.stem.", "patch_embed.proj.stem.")
DINO_SHARDS, FOUND_SHARDS, HEADS_SHARDS = 6, 14, 10
HEADS_STEPS = 350
STUFF_CELLS = Path(__file__).with_name("stuff_cells.npz")
"""Centres of feature clusters, some of them named by hand (see the model card)."""
State = dict[str, Tensor]


def rebuild(data: Path, out: Path, minutes: float = math.inf, say: Callable[[str], None] = print) -> None:
    """Writes mini_clip, mini_dino, found and heads (.safetensors, float16) to `out`.

    data:    a folder with `coco`, `voc` and `photos`; docs/embedded-pack.md says what is in them.
    minutes: for each of the two rounds of training the tower; unlimited, a round has 900 steps.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = read_pack("embedded").role("clip", labeler="").files
    stem = read_state(locate("clip.stem", files["clip.stem"]).path, "plain")
    minilm = locate("clip.text", files["clip.text"]).path.parent

    bank_file = out / "names.pt"
    if not bank_file.exists():
        say("names: embedding")
        torch.save(build_text(MiniText(minilm), data / "photos/pool/index.csv"), bank_file)
    state = torch.load(bank_file, weights_only=True)

    cache = out / "cache"
    if not (cache / "complete").exists():
        unlabelled, labelled = photos.gather(data)
        say(f"features: {len(unlabelled)} unlabelled and {len(labelled)} labelled photos")
        network = Stem().load(stem)
        cells = photos.StuffClusters(STUFF_CELLS, state["gen"])
        photos.store(photos.views(unlabelled, labelled), network, cells, state["weak"], cache)
        (cache / "complete").touch()

    def save_tower(file: Path) -> Callable[[MiniTower], None]:
        def save(tower: MiniTower) -> None:
            text = {"text.projection.weight": state["W"], "text.projection.bias": state["bias"]}
            write({f"visual.{name}": tensor for name, tensor in tower.state_dict().items()} | text, file)

        return save

    first, second = out / "first_round.safetensors", out / "mini_clip.safetensors"
    recipe = Recipe(steps=900, minutes=minutes)
    again = replace(recipe, learning_rate=6e-4, self_from=0.0, seed=7)  # from the average of the first round
    if not first.exists():
        train_clip(cache, Bank(state), stem, recipe, save_tower(first))
    if not second.exists():
        train_clip(cache, Bank(state), stem, again, save_tower(second), tower_state(first))

    vit = fit_dino(shards_in(cache, DINO_SHARDS), stem)
    write(vit.state_dict(), out / "mini_dino.safetensors")
    decoder = found_from_masks(vit, cache)
    write(decoder.state_dict(), out / "found.safetensors")
    say("heads: training")
    tower = MiniTower()
    tower.load_state_dict(tower_state(second), strict=False)
    tower.conv1.stem.load(stem)
    write(heads_state(tower.eval(), vit, decoder, cache), out / "heads.safetensors")


def write(state: State, file: Path) -> None:
    """float16, without the stem; the file is there whole or not at all."""
    kept = {k: v.half().contiguous() for k, v in state.items() if not any(p in k for p in STEM_PREFIXES)}
    part = file.with_suffix(".part")
    save_file(kept, part)
    part.replace(file)


def tower_state(file: Path) -> State:
    return {k.removeprefix("visual."): v.float() for k, v in load_file(file).items() if k.startswith("visual.")}


def found_from_masks(vit: MiniDino, cache: Path) -> torch.nn.Conv2d:
    """Not FOUND's own recipe: foreground is what COCO and VOC train masks name (see the model card)."""
    keys, targets = [], []
    for file in shards_in(cache, FOUND_SHARDS):
        shard = torch.load(file, weights_only=True)
        shard = {k: v[(shard["labels"] != NO_LABEL).flatten(1).any(dim=1)] for k, v in shard.items()}
        labels = token_labels(shard["labels"])
        keys.append(keys_of(vit, shard))
        targets.append(torch.where(labels == NO_LABEL, -1.0, (labels > 0).float()))
    return train_found(torch.cat(keys), torch.cat(targets))


@torch.no_grad()
def heads_state(tower: MiniTower, vit: MiniDino, decoder: torch.nn.Conv2d, cache: Path) -> State:
    """Affinity from mini-dino and, where there are masks, from them; objectness from FOUND's decoder and masks."""
    intermediate: list[Tensor] = []
    teacher: list[Tensor] = []
    all_labels: list[Tensor] = []
    objectness: list[Tensor] = []
    for file in shards_in(cache, HEADS_SHARDS):
        shard = torch.load(file, weights_only=True)
        keys, labels = keys_of(vit, shard), token_labels(shard["labels"])  # keys and values are the same here
        masked = (labels != NO_LABEL).flatten(1).any(dim=1)[:, None, None]
        from_masks = torch.where(labels == NO_LABEL, -1.0, (labels > 0).float())
        objectness.append(torch.where(masked, from_masks, decoder(keys)[:, 0].sigmoid()))
        intermediate.append(intermediate_of(tower, shard).half())
        teacher.append(F.normalize(keys, dim=1).half())
        all_labels.append(labels)
    with torch.enable_grad():
        heads = train_heads(
            torch.cat(intermediate), torch.cat(teacher), torch.cat(all_labels), torch.cat(objectness), steps=HEADS_STEPS
        )
    return heads.state_dict()
