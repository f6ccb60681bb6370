"""A photo's labels after what a person changed of them in the app: pure arithmetic, no FiftyOne.

What no person touched stays as it was, pixel by pixel; what one did touch has the score 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from annotator.open_labels import normalise
from annotator.prediction import NOTHING, LabelMap, Mask, Segment, encode
from annotator.record import ImageRecord
from annotator.review.checked import SampleError
from annotator.review.legend import Legend, Values


@dataclass(frozen=True)
class Shape:
    """An instance as a person left it. mask: H x W of the photo."""

    label: str
    mask: Mask


@dataclass(frozen=True)
class Edits:
    """renamed:  by the number of the segment, its new label; None where it was deleted.
    values:   the mask as `Legend.values` numbers it, H x W, where it was edited.
    reshaped: by the number of the part as `Legend.parts` numbers it, what became of it; None where it was deleted.
    added:    new instances.
    """

    renamed: Mapping[int, str | None] = field(default_factory=dict)
    values: Values | None = None
    reshaped: Mapping[int, Shape | None] = field(default_factory=dict)
    added: Sequence[Shape] = ()

    @property
    def labels(self) -> set[str]:
        """All that a person named."""
        named = {label for label in self.renamed.values() if label is not None}
        return named.union(shape.label for shape in (*self.reshaped.values(), *self.added) if shape is not None)

    def __bool__(self) -> bool:
        return bool(self.renamed or self.values is not None or self.reshaped or self.added)


def apply(edits: Edits, record: ImageRecord, legend: Legend, names: Sequence[str] = ()) -> tuple[Segment, ...]:
    """The edited photo's segments: labels first, then the mask, then instances, each over what came before.

    names: of all classes that labels may have; more than the legend's where a person adds some.

    A deleted label or instance becomes background, or nothing where there is no background.
    """
    names = names or legend.classes.names
    if not legend.classes.open_labels and (unknown := sorted(edits.labels.difference(names))):
        raise SampleError(f"expected a class of the run, but found {unknown[0]!r}")
    sheet = _Sheet(record, legend, names)
    for index, label in edits.renamed.items():
        sheet.rename(index, label)
    if edits.values is not None:
        _repaint(sheet, edits.values, record, legend)
    untouched = sheet.untouched
    parts = {part.number: part for part in legend.parts(record)} if edits.reshaped else {}
    before: dict[int, Mask] = {}
    for number in edits.reshaped:
        x, y, width, height = parts[number].box
        before[number] = np.zeros(record.size, dtype=np.bool_)
        before[number][y : y + height, x : x + width] = parts[number].mask
        sheet.paint(before[number] & untouched, None)
    for number, shape in edits.reshaped.items():
        if shape is not None:
            sheet.paint(
                shape.mask & (untouched | ~before[number]), shape.label, origin=sheet.segment_of(before[number])
            )
    for shape in edits.added:
        sheet.paint(shape.mask, shape.label)
    return sheet.segments()


def _repaint(sheet: _Sheet, values: Values, record: ImageRecord, legend: Legend) -> None:
    before = legend.values(record)
    changed = values != before
    names = legend.names
    for value in np.unique(values[changed]).tolist():
        if value == legend.nothing:
            sheet.paint(changed & (values == value), None, NOTHING)
        elif value in names:
            sheet.paint(changed & (values == value), names[value])
        else:
            known = f"{min(names)} to {max(names)}" if names else "0"
            raise SampleError(f"expected mask values of classes, {known}, but found {value}")


class _Sheet:
    """A photo's label map while it is edited, over segments that may become more."""

    def __init__(self, record: ImageRecord, legend: Legend, names: Sequence[str]) -> None:
        self._record = record
        self._legend = legend
        self._class_ids = {name: index for index, name in enumerate(names)}
        self._segments = list(record.segments)
        self._before = record.prediction().label_map
        self._map: LabelMap = self._before.copy()
        self._by_hand = np.zeros(record.size, dtype=np.bool_)

    @property
    def untouched(self) -> Mask:
        return ~self._by_hand

    def rename(self, index: int, label: str | None) -> None:
        if label is not None and self._legend.classes.open_labels:
            self._segments[index] = replace(self._segments[index], label=label)
            self._by_hand |= self._before == index
        else:
            self.paint(self._before == index, label)

    def segment_of(self, part: Mask) -> int:
        """The number of the segment that an instance was cut from."""
        return int(self._before[part][0])

    def paint(self, mask: Mask, label: str | None, erased: int | None = None, *, origin: int | None = None) -> None:
        """label:  None erases.
        erased: what that leaves, else the background where there is one.
        origin: the segment that takes the pixels if it has the label, so that instances of one class stay apart.
        """
        if label is not None:
            self._map[mask] = self._place(label, origin)
        else:
            self._map[mask] = self._background() if erased is None else erased
        self._by_hand |= mask

    def segments(self) -> tuple[Segment, ...]:
        return tuple(
            self._segment(self._segments[found.value], found.value, found.area, found.bbox, found.rle)
            for found in encode(self._map)
        )

    def _segment(self, origin: Segment, value: int, area: int, bbox: tuple[int, int, int, int], rle: bytes) -> Segment:
        if value < len(self._record.segments) and rle == origin.rle and origin == self._record.segments[value]:
            return origin
        by_hand = int((self._by_hand & (self._map == value)).sum())
        score = round((origin.score * (area - by_hand) + by_hand) / area, 4)
        return replace(
            origin,
            score=score,
            area=area,
            bbox=bbox,
            rle=rle,
            embedding=origin.embedding if rle == origin.rle else None,
        )

    def _background(self) -> int:
        background = self._legend.classes.background
        return NOTHING if background is None else self._place(self._legend.classes.names[background])

    def _place(self, label: str, origin: int | None = None) -> int:
        """The segment `origin` if it is of that class, else the first one that is, or a new one."""
        classes = self._legend.classes
        key = normalise(label) if classes.open_labels else label
        alike = [
            index
            for index, segment in enumerate(self._segments)
            if (normalise(segment.label) if classes.open_labels else segment.label) == key
        ]
        if alike:
            return origin if origin in alike else alike[0]
        class_id = NOTHING if classes.open_labels else self._class_ids[label]
        self._segments.append(Segment(label, class_id, 1.0, 0, (0, 0, 0, 0), b""))
        return len(self._segments) - 1
