"""A training loop that goes on where it was stopped, to the same end as without the stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from annotator.errors import ConfigError
from annotator.files import replacing

SAVED_EVERY = 100
Report = Callable[[int, float], None]
"""Steps done, and the loss of the last of them."""


def random_of(seed: int, step: int) -> torch.Generator:
    """A step draws from its own generator, so that it does not matter in which run it is made."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def train(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_at: Callable[[int], Tensor],
    rate_at: Callable[[int], float],
    recipe: Any,
    *,
    checkpoint: Path | None = None,
    minutes: float = math.inf,
    report: Report | None = None,
    clip: float = math.inf,
    after: Callable[[int], None] | None = None,
) -> bool:
    """`recipe.steps` steps; -> whether all are made. Stopped after `minutes`, the next call goes on from `checkpoint`.

    loss_at: step -> loss; whatever it draws must come from `random_of`.
    rate_at: step -> factor on every group's learning rate.
    clip:    longest gradient, over all parameters.
    recipe:  a dataclass with `steps`; a checkpoint of another recipe is refused.
    after:   called behind every step, for what is not learned by gradient.
    """
    step = _resume(checkpoint, module, optimiser, recipe)
    rates = [group.setdefault("initial_lr", group["lr"]) for group in optimiser.param_groups]
    learned = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    began = time.monotonic()
    while step < recipe.steps and time.monotonic() - began < 60 * minutes:
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * rate_at(step)
        loss = loss_at(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if clip < math.inf:
            nn.utils.clip_grad_norm_(learned, clip)
        optimiser.step()
        if after:
            after(step)
        step += 1
        if report:
            report(step, float(loss.detach()))
        if step % SAVED_EVERY == 0:
            _save(checkpoint, module, optimiser, recipe, step)
    _save(checkpoint, module, optimiser, recipe, step)
    return step == recipe.steps


def _resume(file: Path | None, module: nn.Module, optimiser: torch.optim.Optimizer, recipe: Any) -> int:
    """-> steps done."""
    if file is None or not file.exists():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["recipe"] != repr(asdict(recipe)):
        raise ConfigError(
            f"{file}: expected a checkpoint of the same recipe, but found another; delete it to begin anew"
        )
    module.load_state_dict(state["module"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save(file: Path | None, module: nn.Module, optimiser: torch.optim.Optimizer, recipe: Any, step: int) -> None:
    if file is None:
        return
    state = {"module": module.state_dict(), "optimiser": optimiser.state_dict()}
    with replacing(file) as opened:
        torch.save({**state, "recipe": repr(asdict(recipe)), "step": step}, opened)
