"""The training loop: stopped and resumed it ends where it would have ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from annotator.errors import ConfigError
from annotator.training import loop


@dataclass(frozen=True)
class Recipe:
    steps: int = 7
    seed: int = 0


def fit(
    recipe: Recipe, checkpoint: Path | None = None, minutes: float = 1.0, stop_after: int | None = None
) -> tuple[nn.Linear, bool, list[int]]:
    """A line through y = 2x + 1; rates halve at step 4."""
    torch.manual_seed(5)
    line = nn.Linear(1, 1)
    optimiser = torch.optim.AdamW(line.parameters(), lr=0.1)
    steps: list[int] = []

    def loss_at(step: int) -> Tensor:
        if step == stop_after:
            raise KeyboardInterrupt
        x = torch.rand(16, 1, generator=loop.random_of(recipe.seed, step))
        return (line(x) - 2 * x - 1).square().mean()

    done = loop.train(
        line,
        optimiser,
        loss_at,
        lambda step: 1.0 if step < 4 else 0.5,
        recipe,
        checkpoint=checkpoint,
        minutes=minutes,
        report=lambda step, loss: steps.append(step),
    )
    return line, done, steps


def test_learns_and_reports_every_step() -> None:
    line, done, steps = fit(Recipe(steps=300))
    assert done
    assert steps == list(range(1, 301))
    assert (line.weight.item(), line.bias.item()) == (pytest.approx(2, abs=0.1), pytest.approx(1, abs=0.1))


def test_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVED_EVERY", 2)
    whole, _, _ = fit(Recipe())
    with pytest.raises(KeyboardInterrupt):
        fit(Recipe(), tmp_path / "line.ckpt", stop_after=5)
    resumed, done, steps = fit(Recipe(), tmp_path / "line.ckpt")
    assert done
    assert steps == [5, 6, 7]  # saved behind step 4
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


def test_stops_in_time_and_says_so(tmp_path: Path) -> None:
    _, done, steps = fit(Recipe(), tmp_path / "line.ckpt", minutes=0)
    assert (done, steps) == (False, [])
    assert fit(Recipe(), tmp_path / "line.ckpt")[1]


def test_refuses_the_checkpoint_of_another_recipe(tmp_path: Path) -> None:
    fit(Recipe(), tmp_path / "line.ckpt")
    with pytest.raises(ConfigError, match=r"line\.ckpt: expected a checkpoint of the same recipe"):
        fit(Recipe(seed=1), tmp_path / "line.ckpt")


def test_a_long_gradient_is_shortened() -> None:
    weight = nn.Parameter(torch.zeros(2))
    module = nn.Module()
    module.weight = weight
    optimiser = torch.optim.SGD([weight], lr=1.0)
    slope = torch.tensor([30.0, 40.0])
    loop.train(module, optimiser, lambda step: (weight * slope).sum(), lambda step: 1.0, Recipe(steps=1), clip=1.0)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.6, -0.8]))
