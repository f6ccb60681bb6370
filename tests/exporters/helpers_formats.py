"""Photos to export with their masks, and what an export of them must hold, worked out without the exporters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

Mask = NDArray[np.bool_]

HOSTILE = [
    "ünïcödé/猫 🐈.jpg",
    "new\nline.jpg",
    "tab\tand\rreturn.jpg",
    "bell\a.jpg",
    "quo\"te'.jpg",
    "back\\slash.jpg",
    "..\\..\\up.jpg",
    "..%2f..%2fup.jpg",
    ".../...jpg",
    "c:drive.jpg",
    "<script>alert(1)</script>.jpg",
    "]]>&amp;.jpg",
    "a: b, {}%s$HOME #1?.jpg",
    " blanks .jpg",
    "images/labels/images/deep.jpg",
    "x" * 251 + ".jpg",
]


def save_photos(root: Path, maps: Mapping[str, NDArray[np.int32] | None]) -> Path:
    """A gray JPEG of the right size for each."""
    for path, label_map in maps.items():
        if label_map is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(label_map.shape, 128, dtype=np.uint8)).convert("RGB").save(root / path, "JPEG")
    return root


def filled(found: list[list[float]], size: tuple[int, int]) -> Mask:
    """Polygons by pycocotools: each by parity, then any of them."""
    if not found:
        return np.zeros(size, dtype=np.bool_)
    mask: Mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(found, *size))).astype(np.bool_)
    return mask


def objects_of(label_map: NDArray[np.int32], background: int | None = 0) -> list[tuple[int, Mask]]:
    """(class, mask) of every connected part, corners connecting, by scipy."""
    found = []
    for value in np.unique(label_map[label_map >= 0]):
        if value != background:
            parts, count = ndimage.label(label_map == value, np.ones((3, 3)))
            found += [(int(value), parts == part) for part in range(1, count + 1)]
    return found


def same(found: Iterable[tuple[int, Mask]], expected: Iterable[tuple[int, Mask]]) -> bool:
    """Whether the objects are the same, in whatever order."""
    return sorted((value, mask.tobytes()) for value, mask in found) == sorted(
        (value, mask.tobytes()) for value, mask in expected
    )


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())
