"""FOUND's decoder by its own recipe (Siméoni et al., CVPR 2023): no labels, on any self-supervised ViT.

The training-free masks of photos (what is unlike the patch that is attended least), drawn to the photos' edges, teach
a 1 x 1 convolution on keys; then its own cut predictions do, drawn to the edges likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.dino import Dino, LastAttention
from annotator.models.found import SEED_SIMILARITY, similarity_to_seed
from annotator.training.bilateral import BilateralOptions, BilateralSolver
from annotator.training.crops import CropRecipe, PhotoCrops, Pixels
from annotator.training.loop import Report, random_of, train

CUT = 0.5


@dataclass(frozen=True)
class FoundRecipe:
    """seed_steps:  so long the training-free masks teach.
    self_from:   from this step on the decoder's own refined predictions teach.
    self_weight: of their loss, beside that of the masks.

    least_agreement: where refining leaves less IoU with a mask than this, the mask is kept as it was.
    solver_stride:   photos are averaged over so many pixels before the solver sees them, and so are its cells.
    """

    steps: int = 500
    batch: int = 50
    crops: CropRecipe = field(default_factory=lambda: CropRecipe(side=224, scales=(0.1, 3.0), blur=0.5))
    learning_rate: float = 5e-2
    decay: float = 0.95
    decay_every: int = 50
    seed_steps: int = 100
    self_from: int = 100
    self_weight: float = 1.5
    least_agreement: float = 0.5
    solver: BilateralOptions = field(default_factory=BilateralOptions)
    solver_stride: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Seeded:
    """One crop as the decoder is trained on it.

    keys: D x h x w; known: h x w bool, tokens that show the photo.
    seeds: h x w in [0, 1], the share of each token that the refined training-free mask covers.
    """

    keys: Tensor
    known: Tensor
    seeds: Tensor
    solver: BilateralSolver


Batches = Callable[[int], Sequence[Seeded]]
"""Step -> its crops; the same whenever it is asked for."""
Watch = Callable[[int, nn.Conv2d, float], None]
"""Steps done, the decoder so far, and the loss of the last step."""


def train_found(
    batches: Batches,
    width: int,
    recipe: FoundRecipe,
    *,
    checkpoint: Path | None = None,
    minutes: float = math.inf,
    report: Report | None = None,
    watch: Watch | None = None,
) -> nn.Conv2d | None:
    """-> the decoder (named as published: `weight`, `bias`), or None when stopped after `minutes`; see `loop.train`.

    width: D of the keys.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(recipe.seed)
        decoder = nn.Conv2d(width, 1, kernel_size=1)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=recipe.learning_rate)

    def loss_at(step: int) -> Tensor:
        batch = batches(step)
        logits = decoder(torch.stack([one.keys for one in batch]).float())[:, 0]  # B x h x w
        known = torch.stack([one.known for one in batch])
        loss = torch.zeros(())
        if step < recipe.seed_steps:
            seeds = torch.stack([one.seeds for one in batch])
            loss = loss + F.binary_cross_entropy_with_logits(logits[known], seeds[known])
        if step >= recipe.self_from:
            own = [refined(logit > 0, one.solver, recipe) for logit, one in zip(logits, batch, strict=True)]
            loss = loss + recipe.self_weight * F.binary_cross_entropy_with_logits(
                logits[known], torch.stack(own)[known]
            )
        return loss

    def rate_at(step: int) -> float:
        return recipe.decay ** (step // recipe.decay_every)

    def tell(step: int, loss: float) -> None:
        if report:
            report(step, loss)
        if watch:
            watch(step, decoder, loss)

    done = train(decoder, optimiser, loss_at, rate_at, recipe, checkpoint=checkpoint, minutes=minutes, report=tell)
    return decoder.eval().requires_grad_(False) if done else None


def live_batches(dino: Dino, photos: PhotoCrops, recipe: FoundRecipe) -> Batches:
    """New crops of the photos in every step, through `dino` as they come."""

    def batch(step: int) -> list[Seeded]:
        return seeded_crops(dino, photos, recipe.batch, recipe, random_of(recipe.seed, step))

    return batch


def kept_batches(
    dino: Dino,
    photos: PhotoCrops,
    crops: int,
    recipe: FoundRecipe,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Batches:
    """So many crops, through `dino` once and for all (in float16); every step draws its batch of them.

    progress: told how many of how many are made.
    """
    kept: list[Seeded] = []
    while len(kept) < crops:
        random = random_of(recipe.seed + 1, len(kept))
        for one in seeded_crops(dino, photos, min(recipe.batch, crops - len(kept)), recipe, random):
            kept.append(replace(one, keys=one.keys.half()))
        progress(len(kept), crops)

    def batch(step: int) -> list[Seeded]:
        return [kept[i] for i in torch.randint(crops, (recipe.batch,), generator=random_of(recipe.seed, step)).tolist()]

    return batch


@torch.inference_mode()
def seeded_crops(
    dino: Dino, photos: PhotoCrops, count: int, recipe: FoundRecipe, random: torch.Generator
) -> list[Seeded]:
    """Crops with their keys and training-free masks."""
    crops = photos.draw(count, random)
    device = next(dino.parameters()).device
    attention = dino.last_attention(crops.images().to(device))
    keys = attention.as_map(attention.keys).cpu()
    shown = torch.from_numpy(crops.shown)[:, None].float()
    known = F.adaptive_avg_pool2d(shown, attention.grid)[:, 0] > CUT
    similarity = similarity_to_seed(_without_border(attention, known.flatten(1).to(device)))
    masks = (similarity <= SEED_SIMILARITY).view(-1, *attention.grid).cpu()
    seeded = []
    for key, mask, token, photo in zip(keys, masks, known, crops.photos, strict=True):
        solver = _solver(photo, recipe)
        seeded.append(Seeded(key.clone(), token.clone(), refined(mask & token, solver, recipe), solver))
    return seeded


def _without_border(attention: LastAttention, known: Tensor) -> LastAttention:
    """Tokens beyond the photo (B x P False) get their head's mean attention, so that none of them is the seed."""
    shown = known[:, None].float()
    mean = (attention.class_attention * shown).sum(dim=2, keepdim=True) / shown.sum(dim=2, keepdim=True).clamp(min=1)
    return replace(attention, class_attention=torch.where(known[:, None], attention.class_attention, mean))


def refined(mask: Tensor, solver: BilateralSolver, recipe: FoundRecipe) -> Tensor:
    """h x w bool -> h x w in [0, 1]: the share of each token inside the mask as the solver draws it to the edges."""
    coarse = F.interpolate(mask[None, None].float(), size=solver.shape, mode="bilinear", align_corners=False)[0, 0]
    before = coarse.numpy() > CUT
    after = solver.solve(coarse.numpy()) > CUT
    agrees = np.sum(before & after) >= recipe.least_agreement * np.sum(before | after)
    chosen = torch.from_numpy(after if agrees else before)
    return F.adaptive_avg_pool2d(chosen[None, None].float(), (mask.shape[0], mask.shape[1]))[0, 0]


def _solver(photo: Pixels, recipe: FoundRecipe) -> BilateralSolver:
    stride = recipe.solver_stride
    height, width = photo.shape[0] // stride * stride, photo.shape[1] // stride * stride
    blocks = photo[:height, :width].reshape(height // stride, stride, width // stride, stride, 3)
    small = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    return BilateralSolver(small, replace(recipe.solver, spatial=recipe.solver.spatial / stride))


@torch.no_grad()
def looked_at(decoder: nn.Conv2d, held: Sequence[Seeded]) -> tuple[float, float]:
    """-> the share of the photos' tokens that are objects to the decoder (near 0 or 1: it has drifted), and the IoU of
    these objects with the training-free masks."""
    found = torch.cat([(decoder(one.keys[None].float())[0, 0] > 0)[one.known] for one in held])
    seeds = torch.cat([one.seeds[one.known] > CUT for one in held])
    return float(found.float().mean()), float((found & seeds).sum() / (found | seeds).sum().clamp(min=1))


def decoder_state(decoder: nn.Conv2d) -> dict[str, Tensor]:
    """As FOUND publishes it and `load_found` reads it."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in decoder.state_dict().items()}
