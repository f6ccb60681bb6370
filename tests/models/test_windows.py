"""Sliding windows against a plain per-pixel version, and their memory against the number of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import image_ops, networks
from torch import Tensor
from torch.nn import functional as F

from annotator.errors import ConfigError
from annotator.models.windows import HeldMaps, WindowPlan, in_fixed_batches, scan


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (448, 597)),  # 597.33
        ((640, 480), (597, 448)),
        ((1000, 1001), (448, 448)),  # 448.448
        ((448, 448), (448, 448)),
        ((100, 100), (448, 448)),  # enlarged
        ((896, 897), (448, 449)),  # 448.5 rounds up
        ((500, 5000), (205, 2048)),  # the long side is capped: 204.8
        ((5000, 500), (2048, 205)),
        ((1, 10_000), (1, 2048)),  # never less than a pixel
        ((10_000, 1), (2048, 1)),
    ],
)
def test_resized(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert WindowPlan().resized(size) == expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (448, [0]),
        (300, [0]),  # shorter than a window
        (449, [0, 1]),
        (672, [0, 224]),  # an exact multiple needs no pushing back
        (896, [0, 224, 448]),
        (597, [0, 149]),
        (673, [0, 224, 225]),
    ],
)
def test_starts(length: int, expected: list[int]) -> None:
    assert WindowPlan().starts(length) == expected


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"window": 64}, r"stride: expected at most window \(64\)"),
        ({"stride": 0}, "stride: expected at least 1, but got 0"),
        ({"short_side": -1}, "short_side: expected at least 1, but got -1"),
    ],
)
def test_plans_that_cannot_work(plan: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WindowPlan(**plan)


PATCH = 8
PLAN = WindowPlan(short_side=40, long_side=100, window=32, stride=16)
PHOTOS = [(50, 70), (70, 50), (33, 200), (90, 90), (30, 41)]


def colour_classes(window: Tensor) -> Tensor:
    """B x 3 x H x W -> B x 6 x h x w: probabilities from each patch's colours, by random weights."""
    padded = F.pad(window, (0, -window.shape[3] % PATCH, 0, -window.shape[2] % PATCH))
    weights = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 8
    return torch.einsum("cd,bdyx->bcyx", weights, F.avg_pool2d(padded, PATCH)).softmax(dim=1)


def colour_classes_in_numpy(window: np.ndarray) -> np.ndarray:
    """The same, H x W x 3 -> h x w x 6 in float64."""
    padded = image_ops.pad_to_multiple(window, PATCH)
    weights = (torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 8).double().numpy()
    rows, columns = padded.shape[0] // PATCH, padded.shape[1] // PATCH
    grid = np.zeros((rows, columns, 6))
    for y in range(rows):
        for x in range(columns):
            logits = weights @ padded[y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH].mean(axis=(0, 1))
            grid[y, x] = np.exp(logits) / np.exp(logits).sum()
    return grid


def plain(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """size x classes: every class at full size, window after window."""
    height, width = image_ops.fitted_size(size, PLAN.short_side, PLAN.long_side)
    canvas = image_ops.resize(photo / 255.0, (height, width))
    total, cover = np.zeros((height, width, 6)), np.zeros((height, width, 1))
    for y in image_ops.window_positions(height, PLAN.window, PLAN.stride):
        for x in image_ops.window_positions(width, PLAN.window, PLAN.stride):
            cut = canvas[y : y + PLAN.window, x : x + PLAN.window]
            grid = colour_classes_in_numpy(cut)
            pixels = image_ops.resize(grid, (grid.shape[0] * PATCH, grid.shape[1] * PATCH))
            total[y : y + PLAN.window, x : x + PLAN.window] += pixels[: cut.shape[0], : cut.shape[1]]
            cover[y : y + PLAN.window, x : x + PLAN.window] += 1
    return image_ops.resize(total / cover, size)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_scan_equals_the_plain_version(batch: int) -> None:
    photos = [networks.photo(*size, seed=seed) for seed, size in enumerate(PHOTOS)]
    sizes = [*PHOTOS[:-1], (60, 82)]  # the last photo came at half its size
    seen = []

    def score(crops: Tensor) -> list[HeldMaps]:
        seen.append(len(crops))
        return [HeldMaps(grid) for grid in colour_classes(crops)]

    found = list(scan(photos, sizes, PLAN, score, patch_size=PATCH, batch=batch))
    assert set(seen) == {batch}  # always full batches
    for photo, size, winners in zip(photos, sizes, found, strict=True):
        expected = plain(photo, size)
        assert (winners.best.dtype, winners.confidence.dtype) == (np.int32, np.float32)
        np.testing.assert_allclose(winners.confidence, expected.max(axis=2), atol=1e-5)
        ordered = np.sort(expected, axis=2)
        clear = ordered[..., -1] - ordered[..., -2] > 1e-5
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(winners.best[clear], expected.argmax(axis=2)[clear])


def test_photos_come_as_soon_as_they_are_done() -> None:
    """Only what still has windows waiting for a full batch is held back."""
    asked = 0

    def photos() -> list[np.ndarray]:
        return [networks.photo(40, 40, seed=seed) for seed in range(4)]

    def score(crops: Tensor) -> list[HeldMaps]:
        nonlocal asked
        asked += 1
        return [HeldMaps(grid) for grid in colour_classes(crops)]

    results = scan(photos(), [(40, 40)] * 4, PLAN, score, patch_size=PATCH, batch=4)  # four windows each
    for number in range(1, 5):
        next(results)
        assert asked == number


@pytest.mark.parametrize("cuts", [[3], [1, 2], [2, 1], [1, 1, 1]])
def test_in_fixed_batches_fills_up_with_zeros(cuts: list[int]) -> None:
    seen: list[list[float]] = []

    def network(batch: Tensor) -> Tensor:
        seen.append(batch[:, 0].tolist())
        return batch * 2

    found = in_fixed_batches(torch.tensor([[1.0], [2.0], [3.0]]).split(cuts), network, 2)
    assert seen == [[1.0, 2.0], [3.0, 0.0]]
    assert found.tolist() == [[2.0], [4.0], [6.0]]
