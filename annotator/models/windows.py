"""Large photos by sliding windows: cut, score in batches across photos, average, upsample, pick the winner.

Exact and bounded: overlapping *probabilities* are averaged, upsampled bilinearly to the photo's size, and the
best class wins; but never is a class held at full size, whatever the number of classes (`annotator.models.upsample`),
and never more photos than share a batch.

A network always sees batches of one fixed size (the last one filled up with zeros), so that a photo's result does
not depend on which photos it shared a batch with, bit for bit.
"""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from annotator.errors import ConfigError
from annotator.limits import Count, check_fields
from annotator.models.upsample import Winners, bilinear, winners
from annotator.stages import staged


class ClassMaps(Protocol):
    """Class probabilities on the patch grid of one padded window, worked out for the classes that are asked for.

    peaks: the highest of each class, C.
    """

    @property
    def peaks(self) -> Tensor: ...

    def of(self, chosen: Tensor) -> Tensor:
        """Indices of n classes -> n x gh x gw."""
        ...


Score = Callable[[Tensor], Sequence[ClassMaps]]
"""B x 3 x h x w RGB in [0, 1] -> B maps."""


@dataclass(frozen=True, eq=False)
class HeldMaps:
    """Those of a few classes, all held: C x gh x gw."""

    probabilities: Tensor

    @property
    def peaks(self) -> Tensor:
        return self.probabilities.amax(dim=(1, 2))

    def of(self, chosen: Tensor) -> Tensor:
        return self.probabilities[chosen]


@dataclass(frozen=True)
class WindowPlan:
    """Short side to `short_side` (long side at most `long_side`), windows of `window` px every `stride` px."""

    short_side: Count = 448
    long_side: Count = 2048
    window: Count = 448
    stride: Count = 224

    def __post_init__(self) -> None:
        check_fields(self)
        if self.stride > self.window:
            raise ConfigError(
                f"stride: expected at most window ({self.window}), or pixels between windows stay unseen, "
                f"but got {self.stride}"
            )

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the photo -> of the canvas the windows are cut from; ratio kept."""
        short, long = min(size), max(size)
        new_short, new_long = self.short_side, _round(long * self.short_side, short)
        if new_long > self.long_side:
            new_short, new_long = max(_round(short * self.long_side, long), 1), self.long_side
        return (new_short, new_long) if size[0] <= size[1] else (new_long, new_short)

    def starts(self, length: int) -> list[int]:
        """Where windows begin along a side; the last one is pushed back inside."""
        last = max(length - self.window, 0)
        return [*range(0, last, self.stride), last]


def _round(numerator: int, denominator: int) -> int:
    """Halves up, in integers."""
    return (2 * numerator + denominator) // (2 * denominator)


def scan(
    images: Sequence[NDArray[np.uint8]],
    sizes: Sequence[tuple[int, int]],
    plan: WindowPlan,
    score: Score,
    *,
    patch_size: int,
    batch: int,
    device: torch.device | str = "cpu",
) -> Iterator[Winners]:
    """Winners for each photo, in order.

    images: H x W x 3 uint8; sizes: (height, width) of each result, which also decides the canvas, so that a
    photo handed over shrunk gets the same windows as the full one.
    """
    open_photos: deque[_Photo] = deque()
    waiting: defaultdict[tuple[int, int], list[_Window]] = defaultdict(list)  # by shape of the window
    for image, size in zip(images, sizes, strict=True):
        canvas = to_canvas(image, plan.resized(size), device)
        photo = _Photo(size, (canvas.shape[1], canvas.shape[2]), plan, patch_size)
        open_photos.append(photo)
        corners = product(plan.starts(canvas.shape[1]), plan.starts(canvas.shape[2]))
        for number, (y, x) in enumerate(corners):
            pixels = canvas[:, y : y + plan.window, x : x + plan.window]
            group = waiting[pixels.shape[1], pixels.shape[2]]
            group.append(_Window(photo, number, pixels))
            photo.missing += 1
            if len(group) == batch:
                _score(group, score, batch)
        while open_photos and open_photos[0].missing == 0:
            yield open_photos.popleft().winners()
    for group in waiting.values():
        _score(group, score, batch)
    for photo in open_photos:
        yield photo.winners()


@staged("preprocess")
def to_canvas(image: NDArray[np.uint8], size: tuple[int, int], device: torch.device | str) -> Tensor:
    """H x W x 3 uint8 -> 3 x h x w RGB in [0, 1], bilinear."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float().div_(255)
    if pixels.shape[-2:] == size:
        return pixels[0]
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]


def in_fixed_batches(pieces: Iterable[Tensor], network: Callable[[Tensor], Tensor], batch: int) -> Tensor:
    """network(all pieces, one after the other) in batches of exactly `batch`, the last filled up with zeros.

    Pieces, n x ... each, are taken as they are needed.
    """
    results: list[Tensor] = []
    left: Tensor | None = None
    for piece in pieces:
        left = piece if left is None else torch.cat([left, piece])
        while len(left) >= batch:
            results.append(network(left[:batch]))
            left = left[batch:]
    if left is not None and len(left):
        results.append(network(filled_up(left, batch))[: len(left)])
    return torch.cat(results)


def filled_up(inputs: Tensor, batch: int) -> Tensor:
    """With zeros, to `batch` rows."""
    return F.pad(inputs, (0, 0) * (inputs.ndim - 1) + (0, batch - len(inputs)))


@dataclass(eq=False)
class _Photo:
    """A photo some of whose windows are not scored yet. Windows are numbered row by row."""

    size: tuple[int, int]
    canvas: tuple[int, int]
    plan: WindowPlan
    patch_size: int
    missing: int = 0
    scored: dict[int, ClassMaps] = field(default_factory=dict)

    @staged("upsample + argmax")
    def winners(self) -> Winners:
        rows, columns = (_weights(self.plan, self.canvas[side], self.size[side], self.patch_size) for side in range(2))
        down = len(self.plan.starts(self.canvas[0]))
        windows = [self.scored[number] for number in range(len(self.scored))]

        def side_by_side(chosen: Tensor) -> Tensor:
            """n x (gh * windows down) x (gw * windows across)."""
            grids = [window.of(chosen).float() for window in windows]
            across = len(grids) // down
            strips = [torch.cat(grids[row * across : (row + 1) * across], dim=2) for row in range(down)]
            return torch.cat(strips, dim=1)

        peaks = torch.stack([window.peaks for window in windows]).amax(dim=0).float()
        return winners(side_by_side, peaks, rows, columns)


@functools.lru_cache(maxsize=64)
def _weights(plan: WindowPlan, canvas: int, size: int, patch_size: int) -> Tensor:
    """Along one side, size x (patches * windows): a pixel of the photo from the patches of all windows.

    A window's patches are upsampled to its pixels, the windows averaged on the canvas where they overlap (which falls
    apart into rows and columns, as windows lie on a grid), the canvas resized to the photo.
    """
    starts, window = plan.starts(canvas), min(plan.window, canvas)
    patches = -(-window // patch_size)
    pixels = bilinear(patches, patches * patch_size)[:window]
    laid = torch.zeros(canvas, patches * len(starts), dtype=torch.float64)
    for number, start in enumerate(starts):
        laid[start : start + window, number * patches : (number + 1) * patches] = pixels
    return (bilinear(canvas, size) @ (laid / laid.sum(dim=1, keepdim=True))).float()


@dataclass(frozen=True, eq=False)
class _Window:
    photo: _Photo
    number: int
    pixels: Tensor


def _score(group: list[_Window], score: Score, batch: int) -> None:
    """Scores the windows of one shape and hands them to their photos; empties the group."""
    if not group:
        return
    windows = filled_up(torch.stack([window.pixels for window in group]), batch)
    for window, maps in zip(group, score(windows), strict=False):
        window.photo.scored[window.number] = maps
        window.photo.missing -= 1
    group.clear()
