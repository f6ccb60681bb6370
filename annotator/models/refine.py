"""Masks drawn to the edges of the photo: pixel-adaptive refinement (PAMR; Araslanov & Roth, CVPR 2020).

Every pixel takes the weighted mean of its neighbours' labels, several times over; a neighbour weighs the more the
closer its colour is, measured by how much colours vary around the pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ITERATIONS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)
SMALLEST_DEVIATION = 1e-3  # a quarter of a gray level


def refine(
    image: Tensor, masks: Tensor, iterations: int = ITERATIONS, dilations: tuple[int, ...] = DILATIONS
) -> Tensor:
    """image: 3 x H x W in [0, 1]; masks: S x H x W in [0, 1], in sum 1 per pixel -> the same, refined.

    Neighbours of a pixel are the eight at each dilation; beyond the border, the border repeats.
    """
    weights = _affinity(image, dilations)
    for _ in range(iterations):
        masks = sum(
            (weight * shifted for weight, shifted in zip(weights, _neighbours(masks, dilations), strict=True)),
            torch.zeros_like(masks),
        )
    return masks


def _affinity(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """N x H x W: softmax over the neighbours n of -|x - x_n| / deviation, in the mean over colours."""
    around = torch.stack(_neighbours(image, dilations))  # N x 3 x H x W
    deviation = around.std(dim=0, correction=0).clamp(min=SMALLEST_DEVIATION)
    closeness = -((image - around).abs() / deviation).mean(dim=1)
    return closeness.softmax(dim=0)


def _neighbours(maps: Tensor, dilations: tuple[int, ...]) -> list[Tensor]:
    """C x H x W -> C x H x W per neighbour, moved onto the pixel."""
    height, width = maps.shape[-2:]
    moved = []
    for step in dilations:
        padded = F.pad(maps[None], (step, step, step, step), mode="replicate")[0]
        for dy in (0, step, 2 * step):
            for dx in (0, step, 2 * step):
                if (dy, dx) != (step, step):
                    moved.append(padded[:, dy : dy + height, dx : dx + width])
    return moved
