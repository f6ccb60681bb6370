"""Random crops of the photos of a folder, for training without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from annotator.errors import ConfigError, ImageError
from annotator.images import ImageRef, decode, open_source

Pixels = NDArray[np.uint8]
TRIES = 20
"""Photos drawn in place of damaged ones before giving up."""


@dataclass(frozen=True)
class CropRecipe:
    """side:   of the square crops, in pixels.
    scales: the photo's short side is first made `side` times a random factor of this range.
    jitter: brightness, contrast and saturation change by a random factor of 1 - jitter to 1 + jitter.
    blur:   share of the crops that are blurred.
    """

    side: int
    scales: tuple[float, float] = (1.0, 1.0)
    jitter: float = 0.0
    blur: float = 0.0


@dataclass(frozen=True)
class Crops:
    """photos: B x side x side x 3 uint8 RGB; shown: B x side x side bool, False beyond the border of a small photo."""

    photos: Pixels
    shown: NDArray[np.bool_]

    def images(self) -> Tensor:
        """B x 3 x side x side in [0, 1]."""
        return torch.from_numpy(self.photos).permute(0, 3, 1, 2).float() / 255


class PhotoCrops:
    """Of a folder, a glob or a list of photos; damaged photos are passed over."""

    def __init__(
        self, images: str | Path | Sequence[str | Path], recipe: CropRecipe, photos: int | None = None
    ) -> None:
        """photos: take only this many, evenly spread over their order."""
        self._refs: list[ImageRef] = list(open_source(images))
        if photos is not None and photos < len(self._refs):
            self._refs = [self._refs[index * len(self._refs) // photos] for index in range(photos)]
        self._images, self._recipe = images, recipe

    def __len__(self) -> int:
        return len(self._refs)

    @property
    def paths(self) -> list[str]:
        """Relative to their common folder."""
        return [ref.path for ref in self._refs]

    def draw(self, count: int, random: torch.Generator) -> Crops:
        """Of random photos; the same for a generator in the same state."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=random)))
        drawn = [_crop(self._photo(rng), self._recipe, rng) for _ in range(count)]
        photos, shown = zip(*drawn, strict=True)
        return Crops(np.stack(photos), np.stack(shown))

    def _photo(self, rng: np.random.Generator) -> Image.Image:
        side = int(self._recipe.side * max(self._recipe.scales[1], 1))
        for _ in range(TRIES):
            ref = self._refs[int(rng.integers(len(self._refs)))]
            try:
                return Image.fromarray(decode(ref.file, working_side=side).pixels)
            except ImageError as error:
                reason = error
        raise ConfigError(f"{self._images}: expected photos to train on, but {TRIES} of them cannot be read ({reason})")


def ahead(draw: Callable[[int], Crops], workers: int) -> Callable[[int], Crops]:
    """`draw`, a function of the step alone, with the next steps under way in so many threads; 0: as it is."""
    if not workers:
        return draw
    pool = ThreadPoolExecutor(workers, thread_name_prefix="crops")
    under_way: dict[int, Future[Crops]] = {}

    def drawn(step: int) -> Crops:
        for each in range(step, step + workers + 1):
            if each not in under_way:
                under_way[each] = pool.submit(draw, each)
        return under_way.pop(step).result()

    return drawn


def _crop(photo: Image.Image, recipe: CropRecipe, rng: np.random.Generator) -> tuple[Pixels, NDArray[np.bool_]]:
    side = recipe.side
    factor = side * rng.uniform(*recipe.scales) / min(photo.size)
    width, height = (max(1, round(length * factor)) for length in photo.size)
    left, top = (int(rng.integers(min(0, side - n), max(0, side - n) + 1)) for n in (width, height))
    seen = (max(0, -left), max(0, -top), min(width, side - left), min(height, side - top))  # of the resized photo
    wide, high = photo.width / width, photo.height / height
    box = (seen[0] * wide, seen[1] * high, seen[2] * wide, seen[3] * high)  # the same in the photo's own pixels
    part = photo.resize((seen[2] - seen[0], seen[3] - seen[1]), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color) if recipe.jitter else ():
        part = enhance(part).enhance(rng.uniform(1 - recipe.jitter, 1 + recipe.jitter))
    if rng.random() < recipe.blur:
        part = part.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2)))
    pixels, shown = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), bool)
    where = np.s_[max(0, top) : max(0, top) + part.height, max(0, left) : max(0, left) + part.width]
    pixels[where], shown[where] = np.asarray(part), True
    return pixels, shown
