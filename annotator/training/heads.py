"""CLIP-DINOiser's two heads by the paper's recipe: DINO's affinities teach g, FOUND's masks teach h. No labels.

Only g and h get gradients; CLIP, DINO and FOUND run under inference mode, live or once and for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.models.clip import DenseClip
from annotator.models.dino import Dino
from annotator.models.found import Found
from annotator.models.heads import DinoiserHeads
from annotator.training.crops import CropRecipe, PhotoCrops
from annotator.training.loop import Report, random_of, train

OBJECT = 0.5
"""FOUND's cut."""


@dataclass(frozen=True)
class HeadsRecipe:
    """gamma: patches whose teacher features are more similar than this belong together.

    affinity_rate, objectness_rate: learning rates of g and of h; both times `decay` from `decay_from` on.
    scale, offset: the logit of a pair is scale * (max(cosine, 0) - offset); the paper's is the cosine as it is.
    """

    steps: int = 6000
    batch: int = 16
    photos: int = 1000
    crops: CropRecipe = field(default_factory=lambda: CropRecipe(side=448, jitter=0.5))
    gamma: float = 0.2
    affinity_rate: float = 5e-5
    objectness_rate: float = 1e-2
    decay: float = 0.1
    decay_from: int = 5000
    scale: float = 1.0
    offset: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Taught:
    """What CLIP sees and what the teachers say, on CLIP's grid of patches.

    intermediate: B x D x h x w, as `DenseClip.dense` gives them.
    alike: B x C x h x w, L2-normalised; their cosines are the teacher's affinity A^xi.
    objects: B x h x w bool.
    """

    intermediate: Tensor
    alike: Tensor
    objects: Tensor


Batches = Callable[[int], Taught]
"""Step -> its crops; the same whenever it is asked for."""


def train_heads(
    batches: Batches,
    width: int,
    recipe: HeadsRecipe,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    minutes: float = math.inf,
    report: Report | None = None,
) -> DinoiserHeads | None:
    """-> the heads, or None when stopped after `minutes`; see `loop.train`. width: D of the intermediate features."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(recipe.seed)
        heads = DinoiserHeads(width).to(device)
    groups = [
        {"params": list(heads.obj_proj.parameters()), "lr": recipe.affinity_rate},
        {"params": list(heads.bkg_decoder.parameters()), "lr": recipe.objectness_rate},
    ]
    optimiser = torch.optim.AdamW(groups)

    def loss_at(step: int) -> Tensor:
        taught = batches(step)
        return affinity_loss(heads, taught, recipe) + objectness_loss(heads, taught)

    def rate_at(step: int) -> float:
        return recipe.decay if step >= recipe.decay_from else 1.0

    done = train(heads, optimiser, loss_at, rate_at, recipe, checkpoint=checkpoint, minutes=minutes, report=report)
    return heads.eval().requires_grad_(False) if done else None


def affinity_loss(heads: DinoiserHeads, taught: Taught, recipe: HeadsRecipe) -> Tensor:
    """L_c: binary cross-entropy of A^phi against D = A^xi > gamma, mean over all pairs of patches."""
    own = F.normalize(heads.affinity_features(taught.intermediate.float()).flatten(2), dim=1)
    teacher = taught.alike.float().flatten(2)
    together = (teacher.mT @ teacher > recipe.gamma).float()  # D, B x P x P
    logits = recipe.scale * ((own.mT @ own).clamp(min=0) - recipe.offset)
    return F.binary_cross_entropy_with_logits(logits, together)


def objectness_loss(heads: DinoiserHeads, taught: Taught) -> Tensor:
    """L_m: binary cross-entropy of h against FOUND's masks."""
    logits = heads.bkg_decoder(F.normalize(taught.intermediate.float(), dim=1))[:, 0]
    return F.binary_cross_entropy_with_logits(logits, taught.objects.float())


@torch.inference_mode()
def teach(images: Tensor, clip: DenseClip, dino: Dino, found: Found) -> Taught:
    """images: B x 3 x H x W RGB in [0, 1]."""
    intermediate = clip.dense(images).intermediate
    attention = dino.last_attention(images)
    values = F.normalize(attention.as_map(attention.values), dim=1)
    alike = F.normalize(_to_grid(values, intermediate), dim=1)
    objects = _to_grid(found.objectness(images)[:, None], intermediate)[:, 0] > OBJECT
    return Taught(intermediate, alike, objects)


def live_batches(clip: DenseClip, dino: Dino, found: Found, photos: PhotoCrops, recipe: HeadsRecipe) -> Batches:
    """New crops in every step, through all three networks as they come."""

    def batch(step: int) -> Taught:
        crops = photos.draw(recipe.batch, random_of(recipe.seed, step))
        return _plain(teach(crops.images().to(clip.device), clip, dino, found))

    return batch


def kept_batches(kept: Taught, recipe: HeadsRecipe) -> Batches:
    """From features made once and for all; every step draws its batch of them."""

    def batch(step: int) -> Taught:
        chosen = torch.randint(len(kept.intermediate), (recipe.batch,), generator=random_of(recipe.seed, step))
        return Taught(kept.intermediate[chosen], kept.alike[chosen], kept.objects[chosen])

    return batch


def keep(clip: DenseClip, dino: Dino, found: Found, photos: PhotoCrops, crops: int, recipe: HeadsRecipe) -> Taught:
    """So many crops through all three networks, in float16 on the CPU."""
    parts = []
    for start in range(0, crops, recipe.batch):
        drawn = photos.draw(min(recipe.batch, crops - start), random_of(recipe.seed + 1, start))
        parts.append(teach(drawn.images().to(clip.device), clip, dino, found))
    return Taught(
        torch.cat([part.intermediate.half().cpu() for part in parts]),
        torch.cat([part.alike.half().cpu() for part in parts]),
        torch.cat([part.objects.cpu() for part in parts]),
    )


def _to_grid(features: Tensor, like: Tensor) -> Tensor:
    """Bilinearly to the grid of patches of `like`, where it differs."""
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _plain(taught: Taught) -> Taught:
    """Copies that gradients may be taken with, which tensors made under inference mode are not."""
    return Taught(taught.intermediate.clone(), taught.alike.clone(), taught.objects.clone())
