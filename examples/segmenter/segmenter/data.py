"""Photos and masks of `annotate export RUN --format mask-png --preset mmseg --split 0.9/0.1`, and random crops of them.

EXPORT/img_dir/{train,val}/NAME.jpg     photos, upright
EXPORT/ann_dir/{train,val}/NAME.png     class indices; the highest value of the PNG is no label
EXPORT/classes.txt                      a name a line
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from annotator.decode import decode
from annotator.errors import ConfigError, ImageError

NO_LABEL = -1
SCALES = (0.5, 2.0)
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Pair:
    photo: Path
    mask: Path

    def read(self) -> tuple[Pixels, Labels]:
        """H x W x 3 RGB, and H x W class indices with NO_LABEL where there is none."""
        try:
            photo = decode(self.photo).pixels
        except ImageError as error:
            raise ImageError(f"{self.photo}: {error}; remove it and its mask") from None
        with Image.open(self.mask) as opened:
            values = np.asarray(opened)
        if values.shape != photo.shape[:2]:
            raise ConfigError(
                f"{self.mask}: expected the size {photo.shape[:2]} of its photo, but found {values.shape}"
            )
        nothing = 255 if values.dtype == np.uint8 else 65535  # PNGs of more than 254 classes have 16 bits
        return photo, np.where(values == nothing, NO_LABEL, values.astype(np.int32))


@dataclass(frozen=True)
class Export:
    classes: tuple[str, ...]
    train: tuple[Pair, ...]
    val: tuple[Pair, ...]

    def fingerprint(self) -> str:
        """SHA-256 over classes, names and masks: other labels are another training."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for pair in self.train:
            digest.update(pair.photo.name.encode() + pair.mask.read_bytes())
        return digest.hexdigest()


def open_export(folder: Path) -> Export:
    names = folder / "classes.txt"
    train = _pairs(folder, "train")
    if not names.is_file() or not train:
        raise ConfigError(
            f"{folder}: expected classes.txt and photos with masks in img_dir/train and ann_dir/train; make them with "
            f"`annotate export RUN --format mask-png --preset mmseg --split 0.9/0.1 --out {folder}`"
        )
    return Export(tuple(names.read_text(encoding="utf-8").splitlines()), train, _pairs(folder, "val"))


def _pairs(folder: Path, split: str) -> tuple[Pair, ...]:
    masks = folder / "ann_dir" / split
    photos = folder / "img_dir" / split
    pairs = (
        Pair((photos / mask.relative_to(masks)).with_suffix(".jpg"), mask) for mask in sorted(masks.rglob("*.png"))
    )
    return tuple(pair for pair in pairs if pair.photo.exists())


def draw(
    pairs: Sequence[Pair], count: int, crop: int, short_side: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random crops of random photos, the same for a generator in the same state.

    -> count x 3 x crop x crop RGB in [0, 1] and count x crop x crop labels.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=random)))
    drawn = [_crop(*pairs[int(rng.integers(len(pairs)))].read(), crop, short_side, rng) for _ in range(count)]
    photos, labels = (torch.from_numpy(np.stack(each)) for each in zip(*drawn, strict=True))
    return photos.permute(0, 3, 1, 2).float() / 255, labels.long()


def _crop(photo: Pixels, labels: Labels, crop: int, short_side: int, rng: np.random.Generator) -> tuple[Pixels, Labels]:
    """The short side becomes `short_side` times 0.5 to 2, evenly in its logarithm; then a square at a random place,
    unlabelled beyond a small photo's border, and mirrored half the time."""
    low, high = np.log(SCALES)
    factor = short_side * np.exp(rng.uniform(low, high)) / min(labels.shape)
    height, width = (max(1, round(side * factor)) for side in labels.shape)
    top, left = (int(rng.integers(max(0, side - crop) + 1)) for side in (height, width))
    bottom, right = min(height, top + crop), min(width, left + crop)
    box = (left / width, top / height, right / width, bottom / height)
    box = tuple(share * side for share, side in zip(box, photo.shape[1::-1] * 2, strict=True))
    seen = (right - left, bottom - top)

    part = np.zeros((crop, crop, 3), np.uint8)
    truth = np.full((crop, crop), NO_LABEL, np.int32)
    inside = np.s_[: seen[1], : seen[0]]
    part[inside] = np.asarray(Image.fromarray(photo).resize(seen, Image.Resampling.BILINEAR, box=box))
    truth[inside] = np.asarray(Image.fromarray(labels).resize(seen, Image.Resampling.NEAREST, box=box))
    return (part[:, ::-1], truth[:, ::-1]) if rng.random() < 0.5 else (part, truth)
