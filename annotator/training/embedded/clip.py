"""Trains mini-clip's tower on cached stem features; `losses.py` says what it is held to."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from annotator.files import replacing
from annotator.models.mini_clip import MiniTower
from annotator.training.embedded.bank import Bank
from annotator.training.embedded.cache import Cache
from annotator.training.embedded.losses import WEIGHTS, Losses
from annotator.training.embedded.tower import start

SAVED_EVERY = 200
FEWER = {14: 1, 20: 2, 28: 3}
"""Tokens on a side of a window -> by how much a batch has fewer of them."""
Report = Callable[[float, dict[str, float]], None]
"""Share done, running mean of each loss."""


@dataclass(frozen=True)
class Recipe:
    """minutes: stop by then, the schedule fitted to it.

    large, twice: share of the steps on windows of 20 x 20 tokens, and on views that were looked at twice; the rest are
    on 14 x 14.
    self_from: share of the training after which the tower's moving average teaches, too.
    """

    steps: int = 4000
    minutes: float = math.inf
    unlabelled: int = 12
    labelled: int = 10
    large: float = 0.25
    twice: float = 0.25
    learning_rate: float = 1e-3
    warm_up: int = 100
    weight_decay: float = 0.05
    self_from: float = 0.3
    seed: int = 0


class Trainer:
    """One step after the other; `average` is the tower to keep."""

    def __init__(self, tower: MiniTower, bank: Bank, cache: Cache, recipe: Recipe) -> None:
        self.tower, self.recipe, self._cache = tower, recipe, cache
        self.average = copy.deepcopy(tower)
        self._device = next(tower.parameters()).device
        self._losses = Losses(bank, cache.class_weights, self.average, recipe.seed)
        self._random = torch.Generator().manual_seed(recipe.seed)
        self._generators = (self._random, self._losses.random, bank.random, torch.default_generator)
        self._parameters = [p for p in tower.parameters() if p.requires_grad]
        self._averaged = [p for p in self.average.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self._parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self._parameters if p.ndim < 2], "weight_decay": 0.0},
            {"params": [*self._losses.probe.parameters()], "weight_decay": 0.0, "scale": 30.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
        self._step, self._seconds = 0, 0.0
        self._running: dict[str, float] = {}

    @property
    def progress(self) -> float:
        return min(1.0, max(self._step / self.recipe.steps, self._seconds / 60 / self.recipe.minutes))

    def train(self, report: Report, save: Callable[[], None]) -> None:
        """save: called every SAVED_EVERY steps and at the end."""
        while self.progress < 1:
            began = time.monotonic()
            self._one_step()
            self._seconds += time.monotonic() - began
            report(self.progress, self._running)
            if self._step % SAVED_EVERY == 0 or self.progress == 1:
                save()

    def _one_step(self) -> None:
        recipe = self.recipe
        rate = min(1, (self._step + 1) / recipe.warm_up) * (0.49 * (1 + math.cos(math.pi * self.progress)) + 0.02)
        for group in self._optimiser.param_groups:
            group["lr"] = recipe.learning_rate * rate * group.get("scale", 1.0)
        drawn = float(torch.rand((), generator=self._random))
        side = 28 if drawn < recipe.twice else 20 if drawn < recipe.twice + recipe.large else 14
        unlabelled, labelled = (max(1, count // FEWER[side]) for count in (recipe.unlabelled, recipe.labelled))
        batch = self._cache.sample(unlabelled, labelled, side, self._random)
        batch = {key: value.to(self._device) for key, value in batch.items()}
        losses = self._losses(self.tower, batch, unlabelled, teach=self.progress >= recipe.self_from)
        self._optimiser.zero_grad(set_to_none=True)
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._parameters, max(0.005, 8 / (self._step + 10)))
        for name, loss in losses.items():
            self._running[name] = 0.98 * self._running.get(name, loss.item()) + 0.02 * loss.item()
        self._step += 1

    def state(self) -> dict[str, Any]:
        return {
            "tower": _without_stem(self.tower),
            "average": _without_stem(self.average),
            "probe": self._losses.probe.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "random": [generator.get_state() for generator in self._generators],
            "step": self._step,
            "seconds": self._seconds,
            "losses": self._running,
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.tower.load_state_dict(state["tower"], strict=False)
        self.average.load_state_dict(state["average"], strict=False)
        self._losses.probe.load_state_dict(state["probe"])
        self._optimiser.load_state_dict(state["optimiser"])
        for generator, value in zip(self._generators, state["random"], strict=True):
            generator.set_state(value.cpu())
        self._step, self._seconds, self._running = state["step"], state["seconds"], state["losses"]


def train_clip(
    cache: Path, bank: Bank, stem: dict[str, Tensor], recipe: Recipe, checkpoint: Path, report: Report, device: str
) -> MiniTower:
    """Goes on from `checkpoint` where that exists, and writes it as it goes. -> the averaged tower."""
    torch.manual_seed(recipe.seed)
    tower = MiniTower()
    start(tower, bank.canonical(bank.leaves).cpu())
    tower.conv1.stem.load(stem)
    trainer = Trainer(tower.to(device), bank, Cache(cache), recipe)
    if checkpoint.exists():
        trainer.resume(torch.load(checkpoint, weights_only=True, map_location=device))

    def save() -> None:
        with replacing(checkpoint) as file:
            torch.save(trainer.state(), file)

    trainer.train(report, save)
    return trainer.average.cpu()


def _without_stem(tower: MiniTower) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith("conv1.stem.")}
