"""From class probabilities on a coarse grid to the best class of every pixel, without ever holding all classes.

Bilinear upsampling is linear and separable: whatever chain of it lies between a grid and the photo is one matrix for
the rows and one for the columns. So a class costs two small products over a tile of the photo, and a tile that a class
cannot win costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotator.models.finite import require_finite
from annotator.prediction import nearest
from annotator.stages import staged

CLASSES_AT_ONCE = 16
PIXELS_AT_ONCE = {"cpu": 2**16, "mps": 2**22, "cuda": 2**24}
"""Of a tile: on a CPU what its cache holds, elsewhere as many as keep the device busy."""

Maps = Callable[[Tensor], Tensor]
"""Indices of n classes -> n x R x C probabilities on the grid."""


@dataclass(frozen=True)
class Winners:
    """Per pixel of a photo: the index of the best class (H x W int32) and its probability (H x W float32)."""

    best: NDArray[np.int32]
    confidence: NDArray[np.float32]

    def nearest(self, size: tuple[int, int]) -> Winners:
        """The same at another (height, width)."""
        return Winners(nearest(self.best, size), nearest(self.confidence, size))


def bilinear(source: int, target: int) -> Tensor:
    """target x source weights, float64: what `F.interpolate(..., align_corners=False)` does along one side."""
    position = ((torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5).clamp(min=0)
    below = position.long().clamp(max=source - 1)
    weights = torch.zeros(target, source, dtype=torch.float64)
    share = (position - below)[:, None]
    weights.scatter_add_(1, below[:, None], 1 - share)
    return weights.scatter_add_(1, (below + 1).clamp(max=source - 1)[:, None], share)


@staged("upsample + argmax")
def upsampled_winners(maps: Maps, peaks: Tensor, size: tuple[int, int]) -> Winners:
    """The best class per pixel after bilinear upsampling of the maps to `size`; peaks: as for `winners`."""
    rows, columns = maps(peaks.new_zeros(1, dtype=torch.long)).shape[1:]
    return winners(maps, peaks, bilinear(rows, size[0]), bilinear(columns, size[1]))


def winners(maps: Maps, peaks: Tensor, rows: Tensor, columns: Tensor) -> Winners:
    """The class with the highest value of rows @ map @ columns.T, per pixel; ties go to the lower index.

    peaks:         highest probability of each class anywhere on the grid, C. No weighted mean exceeds it, so a class
                   is passed over in tiles where the weakest winner so far is higher.
    rows, columns: H x R and W x C weights, not negative, in sum 1.

    Raises FloatingPointError where a map holds NaN or infinity.
    """
    device = peaks.device
    height, width = len(rows), len(columns)
    best = torch.zeros(height, width, device=device)  # whole numbers, as floats: see `_challenge`
    confidence = torch.full((height, width), -1.0, device=device)
    side = math.isqrt(PIXELS_AT_ONCE[device.type])
    tiles = [_Tile(y, x, down, across) for y, down in _reads(rows, side) for x, across in _reads(columns, side)]
    rows, columns = rows.float().to(device), columns.float().to(device)  # float64 is not had on every device
    order = peaks.argsort(descending=True, stable=True)
    highest = peaks[order].tolist()
    require_finite(highest)
    for start in range(0, len(order), CLASSES_AT_ONCE):
        if highest[start] < min(tile.weakest for tile in tiles):
            break
        chosen = order[start : start + CLASSES_AT_ONCE]
        grids = maps(chosen)
        numbers = chosen.tolist()
        for tile in tiles:
            held, winner = confidence[tile.y, tile.x], best[tile.y, tile.x]
            near = grids[:, tile.down, tile.across]
            to_rows, to_columns = rows[tile.y, tile.down], columns[tile.x, tile.across].T
            reach = near.amax(dim=(1, 2)).tolist()
            for index in sorted(range(len(reach)), key=reach.__getitem__, reverse=True):
                if reach[index] < tile.weakest:
                    break
                _challenge(to_rows @ (near[index] @ to_columns), numbers[index], held, winner)
                tile.weakest = float(held.min())
    return Winners(_whole(best.cpu().numpy()), confidence.cpu().numpy())


@dataclass
class _Tile:
    """A piece of the photo, the part of the grid that it reads, and its lowest confidence so far."""

    y: slice
    x: slice
    down: slice
    across: slice
    weakest: float = -1.0


def _reads(weights: Tensor, length: int) -> list[tuple[slice, slice]]:
    """Pixels along a side, some at a time, each with what they read of the grid."""
    found = []
    for start in range(0, len(weights), length):
        used = weights[start : start + length].any(dim=0).nonzero()
        found.append((slice(start, start + length), slice(int(used[0]), int(used[-1]) + 1)))
    return found


def _whole(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The same whole numbers in the same memory, which at a photo's size there need not be twice."""
    numbers = values.view(np.int32)
    for row, found in zip(numbers, values, strict=True):
        row[:] = found
    return numbers


def _challenge(probability: Tensor, index: int, held: Tensor, winner: Tensor) -> None:
    """Gives this class the pixels where it is better, or as good and of a lower index; in place.

    In floats throughout, which a CPU compares several times as fast as it makes and applies masks of bools.
    """
    wins, draws = torch.empty_like(held), torch.empty_like(held)
    torch.eq(probability, held, out=draws).mul_(torch.gt(winner, index, out=wins))
    torch.gt(probability, held, out=wins).add_(draws)
    winner.lerp_(winner.new_tensor(index), wins)
    torch.maximum(held, probability, out=held)
