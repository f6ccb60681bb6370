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
from annotator.models.heads import DinoiserHeads, to_grid
from annotator.training.crops import CropRecipe, Crops, PhotoCrops, ahead
from annotator.training.loop import Report, random_of, train

OBJECT = 0.5
"""FOUND's cut."""
HELD_SEED = 1_000_000


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

    def to(self, device: str) -> Taught:
        return Taught(self.intermediate.to(device), self.alike.to(device), self.objects.to(device))


Batches = Callable[[int], Taught]
"""Step -> its crops; the same whenever it is asked for."""
Watch = Callable[[int, DinoiserHeads, float, float], None]
"""Steps done, the heads so far, and the losses of g and of h in the last step."""


def train_heads(
    batches: Batches,
    width: int,
    recipe: HeadsRecipe,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    minutes: float = math.inf,
    report: Report | None = None,
    watch: Watch | None = None,
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

    losses: list[Tensor] = []

    def loss_at(step: int) -> Tensor:
        taught = batches(step).to(device)
        losses[:] = affinity_loss(heads, taught, recipe), objectness_loss(heads, taught)
        return losses[0] + losses[1]

    def rate_at(step: int) -> float:
        return recipe.decay if step >= recipe.decay_from else 1.0

    def tell(step: int, loss: float) -> None:
        if report:
            report(step, loss)
        if watch:
            watch(step, heads, float(losses[0].detach()), float(losses[1].detach()))

    done = train(heads, optimiser, loss_at, rate_at, recipe, checkpoint=checkpoint, minutes=minutes, report=tell)
    return heads.eval().requires_grad_(False) if done else None


def affinity_loss(heads: DinoiserHeads, taught: Taught, recipe: HeadsRecipe) -> Tensor:
    """L_c: binary cross-entropy of A^phi against D = A^xi > gamma, mean over all pairs of patches."""
    cosines, together = _pairs(heads, taught, recipe.gamma)
    logits = recipe.scale * (cosines.clamp(min=0) - recipe.offset)
    return F.binary_cross_entropy_with_logits(logits, together.float())


def objectness_loss(heads: DinoiserHeads, taught: Taught) -> Tensor:
    """L_m: binary cross-entropy of h against FOUND's masks."""
    logits = heads.bkg_decoder(F.normalize(taught.intermediate.float(), dim=1))[:, 0]
    return F.binary_cross_entropy_with_logits(logits, taught.objects.float())


@torch.no_grad()
def agreement(heads: DinoiserHeads, taught: Taught, gamma: float) -> tuple[float, float]:
    """How well A^phi finds the teacher's D, over all pairs of two patches of a crop.

    -> average precision (of equal cosines none comes first), and what chance would reach: the share of pairs in D.
    """
    cosines, together = _pairs(heads, taught, gamma)
    first, second = torch.triu_indices(cosines.shape[1], cosines.shape[1], 1, device=cosines.device)
    scores, order = cosines[:, first, second].flatten().sort(descending=True)
    hits = together[:, first, second].flatten()[order].cpu().double().cumsum(dim=0)  # not every device has float64
    scores = scores.cpu()
    last = torch.ones_like(scores, dtype=torch.bool)  # of its equals
    last[:-1] = scores[1:] != scores[:-1]
    found = torch.arange(1, len(scores) + 1, device=scores.device)[last]
    precision, recall = hits[last] / found, hits[last] / hits[-1].clamp(min=1)
    gained = recall.diff(prepend=recall.new_zeros(1))
    return float((precision * gained).sum()), float(hits[-1] / len(scores))


def _pairs(heads: DinoiserHeads, taught: Taught, gamma: float) -> tuple[Tensor, Tensor]:
    """-> B x P x P each: cosines of g, and the teacher's D (bool)."""
    own = F.normalize(heads.affinity_features(taught.intermediate.float()).flatten(2), dim=1)
    teacher = taught.alike.float().flatten(2)
    return own.mT @ own, teacher.mT @ teacher > gamma


@torch.inference_mode()
def teach(images: Tensor, clip: DenseClip, dino: Dino, found: Found) -> Taught:
    """images: B x 3 x H x W RGB in [0, 1]."""
    intermediate = clip.dense(images).intermediate
    attention = dino.last_attention(images)
    values = F.normalize(attention.as_map(attention.values), dim=1)
    alike = F.normalize(to_grid(values, intermediate), dim=1)
    objects = to_grid(found.objectness(images)[:, None], intermediate)[:, 0] > OBJECT
    return Taught(intermediate, alike, objects)


def live_batches(
    clip: DenseClip, dino: Dino, found: Found, photos: PhotoCrops, recipe: HeadsRecipe, workers: int = 0
) -> Batches:
    """New crops in every step, through all three networks as they come. workers: threads that draw crops ahead."""
    draw = ahead(lambda step: photos.draw(recipe.batch, random_of(recipe.seed, step)), workers)

    def batch(step: int) -> Taught:
        return _plain(teach(draw(step).images().to(clip.device), clip, dino, found))

    return batch


def kept_batches(kept: Taught, recipe: HeadsRecipe) -> Batches:
    """From features made once and for all; every step draws its batch of them."""

    def batch(step: int) -> Taught:
        chosen = torch.randint(len(kept.intermediate), (recipe.batch,), generator=random_of(recipe.seed, step))
        return Taught(kept.intermediate[chosen], kept.alike[chosen], kept.objects[chosen])

    return batch


def keep(clip: DenseClip, dino: Dino, found: Found, photos: PhotoCrops, crops: int, recipe: HeadsRecipe) -> Taught:
    """So many crops through all three networks, in float16 on the CPU; `taught.keep_on_disk` is for more of them."""
    draw = kept_crops(photos, crops, recipe)
    drawn = (draw(number) for number in range(math.ceil(crops / recipe.batch)))
    parts = [teach(part.images().to(clip.device), clip, dino, found) for part in drawn]
    return Taught(
        torch.cat([part.intermediate.half().cpu() for part in parts]),
        torch.cat([part.alike.half().cpu() for part in parts]),
        torch.cat([part.objects.cpu() for part in parts]),
    )


def kept_crops(photos: PhotoCrops, crops: int, recipe: HeadsRecipe, workers: int = 0) -> Callable[[int], Crops]:
    """Number of a batch -> the crops of it that are kept."""

    def draw(number: int) -> Crops:
        start = number * recipe.batch
        return photos.draw(max(min(recipe.batch, crops - start), 1), random_of(recipe.seed + 1, start))

    return ahead(draw, workers)


def held_crops(photos: PhotoCrops, crops: int) -> Crops:
    """Not trained on, whatever the seed: to measure with."""
    return photos.draw(crops, random_of(HELD_SEED, 0))


def _plain(taught: Taught) -> Taught:
    """Copies that gradients may be taken with, which tensors made under inference mode are not."""
    return Taught(taught.intermediate.clone(), taught.alike.clone(), taught.objects.clone())
