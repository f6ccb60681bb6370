"""What becomes one annotation: a class of a photo, or each connected part of its segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from annotator.prediction import NOTHING, LabelMap, Mask, Segment, decode, encode
from annotator.run import ImageRecord

TOUCHING = np.ones((3, 3), dtype=np.bool_)
"""Pixels that share a corner belong together."""

IndexOf = Callable[[Segment], int]
"""Class index of a segment, -1 for one to leave out."""


@dataclass(frozen=True)
class View:
    """How a photo is cut up.

    instances:  each connected part of each segment is a piece of its own, so that two segments of one class that
                touch stay two.
    min_area:   connected parts with fewer pixels are left out.
    fill_holes: pixels that no segment holds, and those of parts that min_area left out, join the piece that encloses
                them. A hole that the record labels stays, whether its class is exported or not. Pieces stay disjoint.
    """

    instances: bool = False
    min_area: int = 0
    fill_holes: bool = False


@dataclass(frozen=True)
class SelectedRecord(ImageRecord):
    """A photo of which some segments are not exported. left_out: these; their pixels are labelled all the same."""

    left_out: tuple[Segment, ...] = ()


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
    groups = _by_class(record, index_of).items()
    return [_merged(index, [record.segments[place] for place in group], record.size) for index, group in groups]


def piece_map(record: ImageRecord, index_of: IndexOf, view: View) -> PieceMap:
    """The same as pixels."""
    label_map = record.prediction().label_map
    sources = _sources(record, index_of, view)
    lookup = np.full(len(record.segments) + 1, NOTHING, dtype=np.int32)  # the last one for pixels without a segment
    for number, (_, group) in enumerate(sources):
        lookup[group] = number
    source_map = lookup[label_map]
    numbers = np.full(record.size, NOTHING, dtype=np.int32)
    class_indices: list[int] = []
    scores: list[float] = []
    for number, (index, group) in enumerate(sources):
        segments = [record.segments[place] for place in group]
        box = _box(segments)
        parts, count = _parts(source_map[box] == number, view)
        numbers[box][parts > 0] = len(scores) + parts[parts > 0] - 1
        class_indices += [index] * count
        scores += [_score(segments)] * count
    if len(sources) > len({index for index, _ in sources}):
        scores = _into_reading_order(numbers, class_indices, scores)
    if view.fill_holes:
        _fill_holes(numbers, ((label_map == NOTHING) | (source_map != NOTHING)) & ~_left_out(record))
    return PieceMap(numbers, tuple(class_indices), tuple(scores))


def _sources(record: ImageRecord, index_of: IndexOf, view: View) -> list[tuple[int, list[int]]]:
    """What is cut into parts, by class: (class index, places of its segments); a segment alone where instances are
    asked for."""
    groups = _by_class(record, index_of)
    if view.instances:
        return [(index, [place]) for index, group in groups.items() for place in group]
    return list(groups.items())


def _by_class(record: ImageRecord, index_of: IndexOf) -> dict[int, list[int]]:
    """Class index -> places of its segments in the record."""
    groups: dict[int, list[int]] = {}
    for place, segment in enumerate(record.segments):
        groups.setdefault(index_of(segment), []).append(place)
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


def _left_out(record: ImageRecord) -> Mask:
    """H x W: where the photo has a label that the record no longer has."""
    mask = np.zeros(record.size, dtype=np.bool_)
    for segment in record.left_out if isinstance(record, SelectedRecord) else ():
        mask |= decode(segment.rle, record.size)
    return mask


def _parts(mask: Mask, view: View) -> tuple[NDArray[np.int32], int]:
    """H x W mask -> H x W numbers of its parts from 1, 0 elsewhere, and how many there are."""
    if not view.instances and view.min_area <= 1:
        return mask.astype(np.int32), 1
    parts, count = ndimage.label(mask, TOUCHING)
    large = np.bincount(parts.ravel(), minlength=count + 1) >= view.min_area
    large[0] = False
    numbers = (np.cumsum(large) * large if view.instances else large).astype(np.int32)
    return numbers[parts], int(numbers.max())


def _into_reading_order(numbers: LabelMap, class_indices: list[int], scores: list[float]) -> list[float]:
    """Numbers the parts of each class anew, in place, by their first pixel -> their scores in the new order."""
    first = np.empty(len(scores), dtype=np.int64)
    pixels = np.flatnonzero(numbers != NOTHING)[::-1]
    first[numbers.ravel()[pixels]] = pixels  # of the pixels of a part, the first in reading order is written last
    order = np.lexsort((first, np.array(class_indices)))
    renumbered = np.append(np.argsort(order), NOTHING).astype(np.int32)
    numbers[:] = renumbered[numbers]
    return [scores[number] for number in order]


def _fill_holes(numbers: LabelMap, open_to_fill: Mask) -> None:
    """In place; the innermost piece wins, being the smaller."""
    boxes = [(number, box) for number, box in enumerate(ndimage.find_objects(numbers + 1)) if box is not None]
    boxes.sort(key=lambda item: (item[1][0].stop - item[1][0].start) * (item[1][1].stop - item[1][1].start))
    for number, box in boxes:
        region = numbers[box]
        outside, _ = ndimage.label(np.pad(region != number, 1, constant_values=True))
        enclosed = outside[1:-1, 1:-1] > 1  # 1 is the outside, as the padded corner comes first
        region[enclosed & (region == NOTHING) & open_to_fill[box]] = number
