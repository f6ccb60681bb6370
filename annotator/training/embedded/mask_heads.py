"""FOUND's decoder and CLIP-DINOiser's heads with the help of masks, on cached features; the embedded pack's weights.

`annotator.training.embedded.heads` fits both without any labels, by the papers' recipes; docs/embedded-pack.md has the
figures of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.heads import DinoiserHeads
from annotator.models.mini_clip import MiniTower, StemFeatures
from annotator.models.mini_dino import WIDTH, Components, MiniDino
from annotator.training.embedded.cache import looks
from annotator.training.embedded.photos import NO_LABEL
from annotator.training.embedded.tower import trunk

FOUND_GRID, HEADS_GRID = 20, 28  # tokens of the views that are read
AT_ONCE = 32
Progress = Callable[[float], None]


@dataclass(frozen=True)
class FoundRecipe:
    steps: int = 400
    batch: int = 50
    learning_rate: float = 5e-2
    seed: int = 0


@dataclass(frozen=True)
class HeadsRecipe:
    """views: read at most. The logit of a pair is `sharpness` x (cosine - gamma): 0 where the labeler cuts."""

    views: int = 3072
    steps: int = 500
    plain: int = 8
    masked: int = 12
    window: int = 14
    gamma: float = 0.2
    sharpness: float = 10.0
    affinity_rate: float = 1e-3
    objectness_rate: float = 3e-2
    seed: int = 0


@torch.no_grad()
def train_found(cache: Path, vit: MiniDino, recipe: FoundRecipe) -> nn.Conv2d:
    """The 1 x 1 convolution on keys; an object is what a mask names."""
    views = _views(cache, FOUND_GRID, masked_only=True)
    read = [(_map(vit.qkv(*features)[1][:, 1:]), labels) for features, labels in views]
    keys, labels = torch.cat([k for k, _ in read]), torch.cat([known for _, known in read])
    torch.manual_seed(recipe.seed)
    decoder = nn.Conv2d(WIDTH, 1, kernel_size=1)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 50, 0.7)
    with torch.enable_grad():
        for _ in range(recipe.steps):
            chosen = torch.randint(len(keys), (recipe.batch,))
            loss = object_loss(decoder(keys[chosen].float())[:, 0], labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return decoder.requires_grad_(False)


@torch.no_grad()
def train_heads(
    cache: Path, tower: MiniTower, components: Components, recipe: HeadsRecipe, progress: Progress = lambda share: None
) -> DinoiserHeads:
    """g and h. Patches belong together where masks say so, and where they are silent, where principal components of
    the stem's features do: finer than mini-dino's values, which find a whole scene alike."""
    intermediate, alike, labels, count = [], [], [], 0
    for features, known in _views(cache, HEADS_GRID):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, read = trunk(tower, tower.conv1.tokens(features)[0])
        intermediate.append(_map(read))
        mixed = components.mix(features[0]).flatten(2).mT
        alike.append(_map(F.normalize(F.layer_norm(mixed, mixed.shape[-1:]), dim=-1)))
        labels.append(known)
        count += len(known)
        progress(min(count / recipe.views, 1) / 2)
        if count >= recipe.views:
            break
    with torch.enable_grad():
        return _fit(torch.cat(intermediate), torch.cat(alike), torch.cat(labels), recipe, progress)


def _fit(intermediate: Tensor, alike: Tensor, labels: Tensor, recipe: HeadsRecipe, progress: Progress) -> DinoiserHeads:
    torch.manual_seed(recipe.seed)
    heads = DinoiserHeads(intermediate.shape[1])
    rates = [recipe.affinity_rate, recipe.objectness_rate]
    groups = [{"params": list(part.parameters())} for part in (heads.obj_proj, heads.bkg_decoder)]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=recipe.steps, pct_start=0.1)
    known = (labels != NO_LABEL).flatten(1).any(dim=1)
    kinds = ((~known, recipe.plain), (known, recipe.masked))
    for step in range(recipe.steps):
        drawn = [(of := kind.nonzero()[:, 0])[torch.randint(len(of), (n,))] for kind, n in kinds]
        chosen = torch.cat(drawn)
        y, x = torch.randint(HEADS_GRID - recipe.window + 1, (2,)).tolist()
        window = (..., slice(y, y + recipe.window), slice(x, x + recipe.window))
        features, label = intermediate[chosen][window].float(), labels[chosen][window]
        similar = F.normalize(heads.affinity_features(features).flatten(2), dim=1)
        logits = recipe.sharpness * (similar.mT @ similar - recipe.gamma)
        together = _together(alike[chosen][window].float().flatten(2), label.flatten(1), recipe.gamma)
        loss = F.binary_cross_entropy_with_logits(logits, together)
        loss = loss + object_loss(heads.bkg_decoder(F.normalize(features, dim=1))[:, 0], label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress(0.5 + (step + 1) / recipe.steps / 2)
    return heads.eval().requires_grad_(False)


def object_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """B x h x w each; labels: 0 background, 255 unknown."""
    known = labels != NO_LABEL
    return F.binary_cross_entropy_with_logits(logits[known], (labels > 0).float()[known])


def _together(alike: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """B x C x P, normalised, and B x P -> B x P x P in {0, 1}; masks speak of pairs with an object in them."""
    teacher = (alike.mT @ alike > gamma).float()
    known = labels != NO_LABEL
    pairs = known[:, :, None] & known[:, None] & ((labels > 0)[:, :, None] | (labels > 0)[:, None])
    return torch.where(pairs, (labels[:, :, None] == labels[:, None]).float(), teacher)


def _views(cache: Path, grid: int, masked_only: bool = False) -> Iterator[tuple[list[StemFeatures], Tensor]]:
    """Batches of stem features and B x h x w labels at the middle of each token, from views of grid x grid tokens."""
    for file in sorted(cache.glob("*.pt")):
        shard = torch.load(file, weights_only=True, mmap=True)
        if shard["stuff"].shape[-1] != grid:
            continue
        rows = torch.arange(len(shard["voc"]))
        if masked_only:
            rows = rows[(shard["labels"] != NO_LABEL).flatten(1).any(dim=1)]
        for part in rows.split(AT_ONCE):
            yield looks(shard, part), shard["labels"][part][:, 2::4, 2::4].long()


def _map(tokens: Tensor) -> Tensor:
    """B x P x C -> B x C x h x w of a square grid, float16."""
    side = math.isqrt(tokens.shape[1])
    return tokens.half().mT.unflatten(2, (side, side))
