"""FOUND's decoder and CLIP-DINOiser's heads for the embedded pack, by the trainers that fit any networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.dino import Dino
from annotator.models.heads import DinoiserHeads
from annotator.models.mini_clip import IMAGE_MEAN, IMAGE_STD, MiniTower
from annotator.models.mini_dino import WIDTH, MiniDino
from annotator.training import found, heads
from annotator.training.crops import CropRecipe, PhotoCrops
from annotator.training.embedded.dino_views import Views
from annotator.training.embedded.tower import trunk

FOUND = found.FoundRecipe(
    steps=300,
    seed_steps=300,
    self_from=50,
    crops=CropRecipe(side=320, scales=(1.0, 1.7)),
    learning_rate=1e-2,
    solver_stride=4,
)
"""Without the training-free masks, self-training drifts on these keys until everything or nothing is an object."""
FOUND_CROPS = 1000
HEADS = heads.HeadsRecipe(steps=600, affinity_rate=1e-3, objectness_rate=3e-2, decay_from=400, scale=10.0, offset=0.2)
"""The pairs' logit is 0 where the labeler cuts, at a cosine of 0.2."""
HEADS_VIEWS = 1000
AT_ONCE = 16


def fit_found(vit: MiniDino, photos: Sequence[Path], crops: int = FOUND_CROPS) -> nn.Conv2d:
    """photos: files without labels."""
    dino = Dino(vit, IMAGE_MEAN, IMAGE_STD)
    batches = found.kept_batches(dino, PhotoCrops(photos, FOUND.crops), crops, FOUND)
    decoder = found.train_found(batches, WIDTH, FOUND)
    assert decoder is not None
    return decoder


def fit_heads(
    tower: MiniTower, vit: MiniDino, decoder: nn.Conv2d, cache: Path, views: int = HEADS_VIEWS
) -> DinoiserHeads:
    """cache: a folder of stem features; views with labels are not looked at."""
    taught = taught_views(tower, vit, decoder, Views(cache, stride8=True), views)
    fitted = heads.train_heads(heads.kept_batches(taught, HEADS), taught.intermediate.shape[1], HEADS)
    assert fitted is not None
    return fitted


@torch.no_grad()
def taught_views(tower: MiniTower, vit: MiniDino, decoder: nn.Conv2d, views: Views, count: int) -> heads.Taught:
    """What `heads.teach` says of photos, from cached features; in float16, on the grid of the views."""
    parts: list[tuple[Tensor, ...]] = []
    count = min(count, len(views))
    chosen = [index * len(views) // count for index in range(count)]
    for start in range(0, len(chosen), AT_ONCE):
        features = views.read(chosen[start : start + AT_ONCE])
        grid = (features.stride16.shape[2], features.stride16.shape[3])
        tokens = tower.conv1.mix(features, tower.conv1.stem.classify(features.stride32))
        _, keys, values = (part[:, 1:].mT.unflatten(2, grid) for part in vit.qkv(features))
        intermediate = trunk(tower, tokens)[1].mT.unflatten(2, grid)
        parts.append((intermediate.half(), F.normalize(values, dim=1).half(), decoder(keys)[:, 0] > 0))
    return heads.Taught(*(torch.cat(part) for part in zip(*parts, strict=True)))
