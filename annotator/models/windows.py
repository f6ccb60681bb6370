"""Large photos by sliding windows: cut, score in batches across photos, average, upsample, pick the winner.

Exact and bounded: overlapping *probabilities* are averaged, upsampled bilinearly to the photo's size, and the
best class wins; but never is more than a few classes held at full size, whatever the number of classes, and
never more photos than share a batch.

A network always sees batches of one fixed size (the last one filled up with zeros), so that a photo's result does
not depend on which photos it shared a batch with, bit for bit.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from annotator.errors import ConfigError

Score = Callable[[Tensor], Tensor]
"""B x 3 x h x w RGB in [0, 1] -> B x C x gh x gw class probabilities on the patch grid of the padded window."""

PIXELS_AT_ONCE = 2**23  # floats held at full size while classes are compared: 32 MB
CLASSES_AT_ONCE = 16


@dataclass(frozen=True)
class WindowPlan:
    """Short side to `short_side` (long side at most `long_side`), windows of `window` px every `stride` px."""

    short_side: int = 448
    long_side: int = 2048
    window: int = 448
    stride: int = 224

    def __post_init__(self) -> None:
        for name in ("short_side", "long_side", "window", "stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1 pixel, but got {getattr(self, name)}")
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


@dataclass(frozen=True)
class Winners:
    """Per pixel of a photo: the index of the best class (H x W int32) and its probability (H x W float32)."""

    best: NDArray[np.int32]
    confidence: NDArray[np.float32]


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
        photo = _Photo(size, (canvas.shape[1], canvas.shape[2]), patch_size)
        open_photos.append(photo)
        for y in plan.starts(canvas.shape[1]):
            for x in plan.starts(canvas.shape[2]):
                pixels = canvas[:, y : y + plan.window, x : x + plan.window]
                group = waiting[pixels.shape[1], pixels.shape[2]]
                group.append(_Window(photo, y, x, pixels))
                photo.missing += 1
                if len(group) == batch:
                    _score(group, score, batch)
        while open_photos and open_photos[0].missing == 0:
            yield open_photos.popleft().winners()
    for group in waiting.values():
        _score(group, score, batch)
    for photo in open_photos:
        yield photo.winners()


def to_canvas(image: NDArray[np.uint8], size: tuple[int, int], device: torch.device | str) -> Tensor:
    """H x W x 3 uint8 -> 3 x h x w RGB in [0, 1], bilinear."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float() / 255
    if pixels.shape[-2:] == size:
        return pixels[0]
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]


def in_fixed_batches(inputs: Tensor, network: Callable[[Tensor], Tensor], batch: int) -> Tensor:
    """network(inputs) in batches of exactly `batch`, the last filled up with zeros."""
    results = []
    for part in inputs.split(batch):
        filled = F.pad(part, (0, 0) * (part.ndim - 1) + (0, batch - len(part)))
        results.append(network(filled)[: len(part)])
    return torch.cat(results)


def upsampled_winners(maps: Callable[[Tensor], Tensor], peaks: Tensor, size: tuple[int, int]) -> Winners:
    """The best class per pixel after bilinear upsampling, a few classes at a time.

    maps:  indices of some classes -> n x h x w probabilities.
    peaks: highest probability of each class anywhere, C. A bilinear mean never exceeds it, so classes whose
           peak lies below the weakest winner so far are not looked at; ties go to the lower index.
    """
    best = torch.zeros(size, dtype=torch.int32, device=peaks.device)
    confidence = torch.full(size, -1.0, device=peaks.device)
    at_once = min(max(PIXELS_AT_ONCE // (size[0] * size[1]), 1), CLASSES_AT_ONCE)
    for chosen in peaks.argsort(descending=True, stable=True).split(at_once):
        if peaks[chosen[0]] < confidence.min():
            break
        chosen = chosen.sort().values
        full = F.interpolate(maps(chosen)[None], size=size, mode="bilinear", align_corners=False)[0]
        top, position = full.max(dim=0)
        index = chosen.int()[position]
        wins = (top > confidence) | ((top == confidence) & (index < best))
        best = torch.where(wins, index, best)
        confidence = torch.where(wins, top, confidence)
    return Winners(best.cpu().numpy(), confidence.cpu().numpy())


@dataclass(eq=False)
class _Photo:
    size: tuple[int, int]
    canvas: tuple[int, int]
    patch_size: int
    missing: int = 0
    scored: list[tuple[int, int, int, int, Tensor]] = field(default_factory=list)  # y, x, height, width, grid

    def winners(self) -> Winners:
        self.scored.sort(key=lambda window: window[:2])
        cover = torch.zeros(self.canvas, device=self.scored[0][4].device)
        for y, x, height, width, _ in self.scored:
            cover[y : y + height, x : x + width] += 1
        peaks = torch.stack([grid.amax(dim=(1, 2)) for *_, grid in self.scored]).amax(dim=0)

        def averaged(chosen: Tensor) -> Tensor:
            total = torch.zeros(len(chosen), *self.canvas, device=cover.device)
            for y, x, height, width, grid in self.scored:
                padded = (grid.shape[1] * self.patch_size, grid.shape[2] * self.patch_size)
                pixels = F.interpolate(grid[None, chosen], size=padded, mode="bilinear", align_corners=False)[0]
                total[:, y : y + height, x : x + width] += pixels[:, :height, :width]
            return total / cover

        return upsampled_winners(averaged, peaks, self.size)


@dataclass(frozen=True, eq=False)
class _Window:
    photo: _Photo
    y: int
    x: int
    pixels: Tensor


def _score(group: list[_Window], score: Score, batch: int) -> None:
    """Scores the windows of one shape and hands them to their photos; empties the group."""
    if not group:
        return
    grids = in_fixed_batches(torch.stack([window.pixels for window in group]), score, batch).float()
    for window, grid in zip(group, grids, strict=True):
        height, width = window.pixels.shape[1:]
        window.photo.scored.append((window.y, window.x, height, width, grid))
        window.photo.missing -= 1
    group.clear()
