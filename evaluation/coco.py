"""Ground truth as COCO instance JSON, painted photo by photo.

Instances are painted large to small, so that a cup is not lost under its table. Regions marked `iscrowd` are
not scored, except where an instance lies on them.
"""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from annotator.run_lengths import totals
from evaluation.matching import IGNORE, Size, TruthError, TruthMask, refuse_other_size

Rle = dict[str, Any]
WHOLE, TEXT, ID = (int,), (str,), (int, str)
KINDS: dict[tuple[type, ...], str] = {WHOLE: "a whole number", TEXT: "text", ID: "a whole number or text"}
LAYOUT: dict[str, dict[str, tuple[type, ...]]] = {
    "images": {"id": ID, "file_name": TEXT, "height": WHOLE, "width": WHOLE},
    "annotations": {"image_id": ID},
    "categories": {"id": ID, "name": TEXT},
}


class CocoImage(NamedTuple):
    """One entry of `images` with its annotations, as they stand in the file."""

    size: Size
    annotations: list[dict[str, Any]]


class Layer(NamedTuple):
    """One annotation, ready to be painted; layers sort into painting order."""

    is_instance: bool
    minus_area: int
    position: int
    target: int
    rle: Rle


@dataclass(frozen=True)
class CocoFile:
    """images: by `file_name`. categories: names in file order. index: category id -> position in `categories`."""

    path: Path
    images: dict[str, CocoImage]
    categories: tuple[str, ...]
    index: dict[int, int]

    @classmethod
    def load(cls, path: Path) -> CocoFile:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise TruthError(f"{path}: expected COCO JSON, but it cannot be read ({error})") from None
        _refuse_other_layout(path, content)
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        images = {}
        for image in content["images"]:
            size = image["height"], image["width"]
            images[posixpath.normpath(image["file_name"])] = CocoImage(size, annotations[image["id"]])
        names = tuple(category["name"] for category in content["categories"])
        index = {category["id"]: position for position, category in enumerate(content["categories"])}
        if len(images) < len(content["images"]):
            raise TruthError(f"{path}: expected a file_name once among its images, but some stand there twice")
        return cls(path, images, names, index)

    def mask(self, targets: Sequence[int], empty: int, file_name: str, size: Size) -> TruthMask:
        """One photo's truth.

        targets: class index per category, in the order of `categories`.
        empty:   class index of pixels without an annotation.
        """
        image = self.images[file_name]
        refuse_other_size(f"{self.path}: {file_name}", image.size, size)
        mask = np.full(size, empty, dtype=np.uint16)
        for layer in sorted(self._layer(image, position, targets) for position in range(len(image.annotations))):
            try:
                mask[coco_mask.decode(layer.rle).view(np.bool_)] = layer.target
            except ValueError as error:
                raise TruthError(f"{self._where(image.annotations[layer.position])}: {error}") from None
        return mask

    def _layer(self, image: CocoImage, position: int, targets: Sequence[int]) -> Layer:
        annotation = image.annotations[position]
        try:
            rle = _as_rle(annotation.get("segmentation"), image.size)
            is_instance = not annotation.get("iscrowd")
            target = targets[self.index[annotation["category_id"]]] if is_instance else IGNORE
            return Layer(is_instance, -int(coco_mask.area(rle)), position, target, rle)
        except KeyError:
            found = f"category_id {annotation.get('category_id')!r}"
            raise TruthError(f"{self._where(annotation)}: {found} is not among the file's categories") from None
        except (ValueError, TypeError, OverflowError) as error:
            raise TruthError(f"{self._where(annotation)}: {error}") from None

    def _where(self, annotation: dict[str, Any]) -> str:
        return f"{self.path}: annotation {annotation.get('id')!r}"


def _refuse_other_layout(path: Path, content: Any) -> None:
    """Raises where the file lacks what all readers need of it, or has it in another type."""
    if not isinstance(content, dict):
        raise TruthError(f"{path}: expected COCO instance JSON, but found JSON of another layout")
    for name, fields in LAYOUT.items():
        if name not in content:
            raise TruthError(f"{path}: expected COCO instance JSON, but {name!r} is missing")
        if not isinstance(content[name], list):
            raise TruthError(f"{path}: expected {name} to be a list, but found {content[name]!r:.80}")
        for place, entry in enumerate(content[name]):
            if not isinstance(entry, dict):
                raise TruthError(f"{path}: expected an object as {name}[{place}], but found {entry!r:.80}")
            for field, kinds in fields.items():
                if field not in entry:
                    raise TruthError(f"{path}: expected COCO instance JSON, but {name}[{place}] has no {field!r}")
                found, where = entry[field], f"{field} of {name}[{place}]"
                if type(found) not in kinds or not (type(found) is int or _is_text(found)):
                    raise TruthError(f"{path}: expected {where} to be {KINDS[kinds]}, but found {found!r:.80}")


def _is_text(text: str) -> bool:
    """Whether it can be a name: JSON may hold what no file name and no UTF-8 does."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _as_rle(segmentation: Any, size: Size) -> Rle:
    """Polygons, compressed or uncompressed RLE -> compressed RLE. A ValueError says what is wrong: pycocotools
    itself takes whatever it is given, and memory without end for a far-off point."""
    if isinstance(segmentation, dict):
        if list(segmentation.get("size", ())) != list(size):
            raise ValueError(f"expected RLE of size {list(size)}, but found {segmentation.get('size')}")
        counts = segmentation.get("counts")
        if not _are_run_lengths(counts, size[0] * size[1]):
            raise ValueError(f"expected RLE counts that add up to {size[0] * size[1]}")
        compressed = isinstance(counts, str)
        return {"size": list(size), "counts": counts} if compressed else coco_mask.frPyObjects(segmentation, *size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("expected a segmentation (polygons or RLE), but found none; a box alone is no mask")
    polygons = [np.asarray(polygon, dtype=np.float64) for polygon in segmentation]
    farthest = 2 * max(size)
    if any(each.ndim != 1 or each.size % 2 or not (abs(each) <= farthest).all() for each in polygons):
        raise ValueError(f"expected polygons as lists of x, y inside the photo, {size[1]} x {size[0]}")
    drawn = [polygon.tolist() for polygon in polygons if polygon.size >= 6]  # less than a triangle covers nothing
    return (
        coco_mask.merge(coco_mask.frPyObjects(drawn, *size))
        if drawn
        else coco_mask.encode(np.zeros(size, np.uint8, "F"))
    )


def _are_run_lengths(counts: Any, pixels: int) -> bool:
    if isinstance(counts, str):
        strings = np.frombuffer(counts.encode(), np.uint8)
        found = totals(strings, np.array([0, strings.size]))
        return bool(found.whole[0]) and int(found.pixels[0]) == pixels
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        return False
    return sum(counts) == pixels
