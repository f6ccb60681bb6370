"""Trains mini-dino's ViT by self-distillation on cached stem features of photos without labels.

As in DINO (Caron et al., ICCV 2021) and iBOT (Zhou et al., ICLR 2022), on two windows of a view: a moving average of
the student, which sees both whole, tells the student, which sees them with noise and holes,

class    what the other window is about (class token over prototypes, teacher centred and sharpened);
holes    what the missing patches were (patch tokens over prototypes, teacher balanced by Sinkhorn-Knopp);
overlap  what the patches that both windows share are, seen from the other window.

The bias of values is free, since the output's can take it up; in the end it is set such that values have mean 0 over
photos: else their cosines would partly compare what all patches share.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.mini_clip import StemFeatures
from annotator.models.mini_dino import WIDTH, Components, MiniDino, whole_block
from annotator.training.embedded.dino_views import (
    Views,
    Windows,
    disturb,
    draw_holes,
    draw_windows,
    fit_components,
    shared_tokens,
    sinkhorn,
)
from annotator.training.loop import Report, random_of, train

HIDDEN, BOTTLENECK = 512, 128  # of the projection heads
SINKHORN_STEPS = 3
CENTRE_MOMENTUM = 0.9
SAMPLE = 400  # views for the principal components, and for the means of keys and values


@dataclass(frozen=True)
class DinoRecipe:
    """views: per step, two windows of window x window tokens of each; both even.

    whitening: of the principal components that tokens start from: 0 keeps each one's spread, 1 makes all alike.
    noise:     each channel of the student's stem features is multiplied by exp(noise * normal) in a window.
    dropped:   share of the stride-32 channels that a window of the student lacks.
    holed:     share of the student's windows with holes.
    momentum:  of the teacher in the beginning; grows to 1.
    """

    steps: int = 400
    views: int = 32
    window: int = 12
    depth: int = 3
    prototypes: int = 512
    learning_rate: float = 1e-3
    warm_up: int = 30
    weight_decay: float = 0.05
    student_temperature: float = 0.1
    teacher_temperature: float = 0.06
    momentum: float = 0.98
    whitening: float = 0.0
    noise: float = 0.3
    dropped: float = 0.1
    holed: float = 0.7
    seed: int = 0


class Network(nn.Module):
    """The ViT with a whole last block and no stem, and its two projection heads."""

    def __init__(self, components: Components, recipe: DinoRecipe) -> None:
        super().__init__()
        vit = MiniDino(recipe.depth)
        vit.patch_embed.proj = components
        vit.blocks[-1] = whole_block()
        self.vit: Any = vit
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.hole = nn.Parameter(torch.zeros(WIDTH))
        self.class_head = ProjectionHead(recipe.prototypes)
        self.patch_head = ProjectionHead(recipe.prototypes)
        nn.init.normal_(self.vit.cls_token, std=0.02)
        nn.init.normal_(self.vit.pos_embed, std=0.02)
        blocks: Any = self.vit.blocks
        for block in blocks:
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                nn.init.zeros_(layer.bias)
            nn.init.normal_(block.attn.qkv.weight, std=WIDTH**-0.5)
            nn.init.normal_(block.mlp.fc1.weight, std=0.02)
            for last in (block.attn.proj, block.mlp.fc2):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * recipe.depth))

    def forward(self, features: StemFeatures, holes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """-> cosines with prototypes: B x K of the class token, B x P x K of patches. holes: B x P bool."""
        patches = self.vit.patch_embed.proj.mix(features)
        if holes is not None:
            missing = holes.view(len(patches), 1, *patches.shape[2:])
            patches = torch.where(missing, self.hole.to(patches.dtype).view(1, -1, 1, 1), patches)
        x = self.vit.tokens(patches)
        for block in self.vit.blocks:
            x = block(x)
        x = self.norm(x)
        return self.class_head(x[:, 0]), self.patch_head(x[:, 1:])


class ProjectionHead(nn.Module):
    """... x WIDTH -> ... x K cosines with prototypes."""

    def __init__(self, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, BOTTLENECK))
        self.prototypes = nn.Parameter(torch.randn(prototypes, BOTTLENECK))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x).float(), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Distillation(nn.Module):
    """Student, teacher and the centre of the teacher's class logits."""

    centre: Tensor

    def __init__(self, components: Components, recipe: DinoRecipe) -> None:
        super().__init__()
        self._recipe = recipe
        self.student = Network(components, recipe)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(recipe.prototypes))

    def loss(self, windows: Windows, random: torch.Generator) -> Tensor:
        r = self._recipe
        count = len(windows.features.stride16)
        with torch.no_grad():
            whole, patches = (logits.float() for logits in self.teacher(windows.features))
            class_target = ((whole - self.centre) / r.teacher_temperature).softmax(dim=-1)
            patch_target = sinkhorn(patches.flatten(0, 1) / r.teacher_temperature, SINKHORN_STEPS).view_as(patches)
            self.centre.lerp_(whole.mean(dim=0), 1 - CENTRE_MOMENTUM)
        holes = draw_holes(count, r.window, r.holed, random)
        seen = disturb(windows.features, r.noise, r.dropped, random)
        class_logits, patch_logits = self.student(seen, holes)
        of_class = _cross_entropy(class_target.roll(count // 2, dims=0), class_logits / r.student_temperature).mean()
        of_patches = _cross_entropy(patch_target, patch_logits / r.student_temperature)
        of_holes = (of_patches * holes).sum() / holes.sum().clamp(min=1)
        first, second = shared_tokens(windows.corners, r.window)
        (target_1, target_2), (logits_1, logits_2) = patch_target.chunk(2), patch_logits.chunk(2)
        of_overlap = _cross_entropy(
            torch.cat([target_2[:, second], target_1[:, first]]),
            torch.cat([logits_1[:, first], logits_2[:, second]]) / r.student_temperature,
        )
        return of_class + of_holes + of_overlap.mean()

    @torch.no_grad()
    def follow(self, share_done: float) -> None:
        """The teacher moves towards the student, ever more slowly."""
        step = (1 - self._recipe.momentum) * (math.cos(math.pi * share_done) + 1) / 2
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), step)


def train_dino(
    cache: Path,
    stem: dict[str, Tensor],
    recipe: DinoRecipe,
    *,
    checkpoint: Path | None = None,
    minutes: float = math.inf,
    report: Report | None = None,
) -> MiniDino | None:
    """-> the averaged ViT with its stem, or None when stopped after `minutes`; see `loop.train`.

    cache: a folder of stem features; views with labels are not looked at.
    """
    views = Views(cache)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(recipe.seed)
        model = Distillation(fit_components(list(views.spread(SAMPLE)), recipe.whitening), recipe)
    parameters = list(model.student.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate)

    def loss_at(step: int) -> Tensor:
        random = random_of(recipe.seed, step)
        windows = draw_windows(views, recipe.views, recipe.window, random)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model.loss(windows, random)

    def rate_at(step: int) -> float:
        return min(1, (step + 1) / recipe.warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))

    done = train(
        model,
        optimiser,
        loss_at,
        rate_at,
        recipe,
        checkpoint=checkpoint,
        minutes=minutes,
        report=report,
        clip=1.0,
        after=lambda step: model.follow(step / recipe.steps),
    )
    return finished(model.teacher, stem, list(views.spread(SAMPLE))) if done else None


@torch.no_grad()
def finished(network: Network, stem: dict[str, Tensor], views: Sequence[StemFeatures]) -> MiniDino:
    """The part that is kept, with its stem; values get mean 0 over the views."""
    shared = sum((network.vit.qkv(view)[2][0, 1:].mean(dim=0) for view in views), torch.zeros(WIDTH)) / len(views)
    vit = MiniDino(len(network.vit.blocks))
    trained = {name: tensor.clone() for name, tensor in network.vit.state_dict().items()}
    trained[f"blocks.{len(vit.blocks) - 1}.attn.qkv.bias"][2 * WIDTH :] -= shared
    vit.load_state_dict({name: trained.get(name, tensor) for name, tensor in vit.state_dict().items()})
    vit.patch_embed.proj.stem.load(stem)
    return vit.eval().requires_grad_(False)


def _cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """... x K -> ..."""
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1)
