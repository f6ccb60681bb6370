"""Resizing, padding and windows, each straight from its equation. Maps are H x W x C float64."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Size = tuple[int, int]
"""(height, width)."""

CUBIC_A = -0.75


def linear_kernel(distance: float) -> float:
    return max(0.0, 1.0 - abs(distance))


def cubic_kernel(distance: float, a: float = CUBIC_A) -> float:
    """Keys' cubic convolution."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def axis_weights(source: int, target: int, kernel: str, offset: float = 0.0) -> Array:
    """target x source: how much each source sample gives to each target sample.

    Target sample i lies at (i + 1/2) * source / (target + offset) - 1/2; samples beyond the border repeat it.
    """
    reach, weigh = {"bilinear": (1, linear_kernel), "bicubic": (2, cubic_kernel)}[kernel]
    weights = np.zeros((target, source))
    for i in range(target):
        position = (i + 0.5) * source / (target + offset) - 0.5
        first = math.floor(position) - reach + 1
        for sample in range(first, first + 2 * reach):
            weights[i, min(max(sample, 0), source - 1)] += weigh(position - sample)
    return weights


def resize(image: Array, size: Size, kernel: str = "bilinear", offset: float = 0.0) -> Array:
    """H x W x C -> size x C; pixel centres keep their place (align_corners false), no antialiasing.

    offset: the scale is that of a size larger by this much.
    """
    rows = axis_weights(image.shape[0], size[0], kernel, offset)
    columns = axis_weights(image.shape[1], size[1], kernel, offset)
    result = np.zeros((*size, image.shape[2]))
    for y in range(size[0]):
        line = sum(rows[y, source] * image[source] for source in np.flatnonzero(rows[y]))
        result[y] = columns @ line
    return result


def antialiased(image: Array, size: Size) -> Array:
    """H x W x C -> size x C as Pillow's bicubic does it: Keys' kernel with a = -0.5, widened where an axis shrinks."""
    for axis in range(2):
        image = np.moveaxis(np.tensordot(_pillow_weights(image.shape[axis], size[axis]), image, (1, axis)), 0, axis)
    return image


def _pillow_weights(source: int, target: int) -> Array:
    """target x source; samples beyond the border do not count."""
    scale = source / target
    width = max(scale, 1.0)
    weights = np.zeros((target, source))
    for i in range(target):
        for sample in range(source):
            weights[i, sample] = cubic_kernel((sample + 0.5 - (i + 0.5) * scale) / width, a=-0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def nearest(image: Array, size: Size) -> Array:
    """H x W x C -> size x C: sample i is the source's floor(i * source / target)."""
    rows = [i * image.shape[0] // size[0] for i in range(size[0])]
    columns = [i * image.shape[1] // size[1] for i in range(size[1])]
    return image[rows][:, columns]


def fitted_size(size: Size, short_side: int, max_long: int | None = None) -> Size:
    """The size with this short side, or with this long side where the former would be longer; halves round up."""
    short, long = min(size), max(size)
    new_short, new_long = short_side, math.floor(long * short_side / short + 0.5)
    if max_long is not None and new_long > max_long:
        new_short, new_long = max(1, math.floor(short * max_long / long + 0.5)), max_long
    return (new_short, new_long) if size[0] <= size[1] else (new_long, new_short)


def window_positions(side: int, window: int, stride: int) -> list[int]:
    """Starts of the windows along one axis; the last one is pushed back inside."""
    window = min(window, side)
    positions, position = [], 0
    while position + window < side:
        positions.append(position)
        position += stride
    return [*positions, side - window]


def pad_to_multiple(image: Array, multiple: int) -> Array:
    """Zeros right and below, until both sides divide by `multiple`."""
    height, width, channels = image.shape
    padded = np.zeros((math.ceil(height / multiple) * multiple, math.ceil(width / multiple) * multiple, channels))
    padded[:height, :width] = image
    return padded


def to_unit_range(image: NDArray[np.uint8]) -> Array:
    """RGB 0..255 -> [0,1]."""
    return image.astype(np.float64) / 255.0


def class_map(probabilities: Array) -> NDArray[np.int64]:
    """H x W x classes -> H x W; of equals the first class wins."""
    height, width, classes = probabilities.shape
    result = np.zeros((height, width), dtype=np.int64)
    best = probabilities[:, :, 0].copy()
    for index in range(1, classes):
        better = probabilities[:, :, index] > best
        result[better], best[better] = index, probabilities[:, :, index][better]
    return result
