"""What becomes one annotation: a class of a photo, or a connected part of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from annotator.prediction import NOTHING, LabelMap, Segment, encode
from annotator.run import ImageRecord

TOUCHING = np.ones((3, 3), dtype=np.bool_)
"""Pixels that share a corner belong together."""

IndexOf = Callable[[Segment], int]
"""Class index of a segment, -1 for one to leave out."""


@dataclass(frozen=True)
class View:
    """How a photo is cut up.

    instances:  every connected part of a class is a piece of its own.
    min_area:   connected parts with fewer pixels are left out.
    fill_holes: pixels without a label join the piece that encloses them, after small parts are out; pieces
                stay disjoint.
    """

    instances: bool = False
    min_area: int = 0
    fill_holes: bool = False


@dataclass(frozen=True)
class Piece:
    """One annotation to be; the fields are a `Segment`'s."""

    class_index: int
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    rle: bytes


@dataclass(frozen=True)
class PieceMap:
    """A photo's pieces as pixels. numbers: H x W int32, -1 = nothing; class and score are by number."""

    numbers: LabelMap
    class_indices: tuple[int, ...]
    scores: tuple[float, ...]

    def pieces(self) -> dict[int, Piece]:
        """By number, those that have pixels."""
        return {
            found.value: Piece(
                self.class_indices[found.value], self.scores[found.value], found.area, found.bbox, found.rle
            )
            for found in encode(self.numbers)
        }


def pieces(record: ImageRecord, index_of: IndexOf, view: View) -> list[Piece]:
    """By class, then in reading order. Decodes no mask for the plain view."""
    if view != View():
        return list(piece_map(record, index_of, view).pieces().values())
    return [_merged(index, group, record.size) for index, group in _by_class(record, index_of).items()]


def piece_map(record: ImageRecord, index_of: IndexOf, view: View) -> PieceMap:
    """The same as pixels."""
    groups = _by_class(record, index_of)
    lookup = np.array([index_of(segment) for segment in record.segments] + [NOTHING], dtype=np.int32)
    class_map = lookup[record.prediction().label_map]
    numbers = np.full(record.size, NOTHING, dtype=np.int32)
    class_indices: list[int] = []
    scores: list[float] = []
    for index, group in groups.items():
        box = _box(group)
        parts, count = _parts(class_map[box] == index, view)
        numbers[box][parts > 0] = len(scores) + parts[parts > 0] - 1
        class_indices += [index] * count
        scores += [_score(group)] * count
    if view.fill_holes:
        _fill_holes(numbers)
    return PieceMap(numbers, tuple(class_indices), tuple(scores))


def _by_class(record: ImageRecord, index_of: IndexOf) -> dict[int, list[Segment]]:
    groups: dict[int, list[Segment]] = {}
    for segment in record.segments:
        groups.setdefault(index_of(segment), []).append(segment)
    return {index: groups[index] for index in sorted(groups) if index != NOTHING}


def _merged(index: int, group: list[Segment], size: tuple[int, int]) -> Piece:
    """All segments of one class as one piece."""
    if len(group) == 1:
        only = group[0]
        return Piece(index, only.score, only.area, only.bbox, only.rle)
    union = coco_mask.merge([{"size": list(size), "counts": segment.rle} for segment in group])
    x, y, width, height = (int(side) for side in coco_mask.toBbox(union))
    return Piece(index, _score(group), int(coco_mask.area(union)), (x, y, width, height), union["counts"])


def _score(group: list[Segment]) -> float:
    """The mean over pixels."""
    area = sum(segment.area for segment in group)
    return round(sum(segment.score * segment.area for segment in group) / area, 4)


def _box(group: list[Segment]) -> tuple[slice, slice]:
    """Rows and columns that hold all pixels of the segments."""
    x, y, width, height = np.array([segment.bbox for segment in group]).T
    return slice(int(y.min()), int((y + height).max())), slice(int(x.min()), int((x + width).max()))


def _parts(mask: NDArray[np.bool_], view: View) -> tuple[NDArray[np.int32], int]:
    """H x W mask -> H x W numbers of its parts from 1, 0 elsewhere, and how many there are."""
    if not view.instances and view.min_area <= 1:
        return mask.astype(np.int32), 1
    parts, count = ndimage.label(mask, TOUCHING)
    large = np.bincount(parts.ravel(), minlength=count + 1) >= view.min_area
    large[0] = False
    numbers = (np.cumsum(large) * large if view.instances else large).astype(np.int32)
    return numbers[parts], int(numbers.max())


def _fill_holes(numbers: LabelMap) -> None:
    """In place; the innermost piece wins, being the smaller."""
    boxes = [(number, box) for number, box in enumerate(ndimage.find_objects(numbers + 1)) if box is not None]
    boxes.sort(key=lambda item: (item[1][0].stop - item[1][0].start) * (item[1][1].stop - item[1][1].start))
    for number, box in boxes:
        region = numbers[box]
        outside, _ = ndimage.label(np.pad(region != number, 1, constant_values=True))
        enclosed = outside[1:-1, 1:-1] > 1  # 1 is the outside, as the padded corner comes first
        region[enclosed & (region == NOTHING)] = number
