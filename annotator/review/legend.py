"""The classes of a run as the app shows them: a value in the masks, a name and a colour each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from annotator.corrections import reviewed
from annotator.errors import RunError
from annotator.open_labels import normalise
from annotator.prediction import NOTHING, Mask, Segment
from annotator.record import ImageRecord
from annotator.run import RunReader
from annotator.vocabulary import Color
from exporters.classes import Classes, classes_of
from exporters.pieces import View, piece_map

Values = NDArray[np.unsignedinteger]
SMALLEST_PART = 1 / 2000
"""Of a photo's pixels; smaller connected parts are in its mask, but are no instance of their own."""
NOTHING_COLOR: Color = (128, 128, 128)
MOST_CLASSES = 2**16 - 2


@dataclass(frozen=True)
class Part:
    """A connected part of a segment. box: (x, y, width, height); mask: height x width, inside the box."""

    number: int
    class_index: int
    score: float
    box: tuple[int, int, int, int]
    mask: Mask


@dataclass(frozen=True)
class Legend:
    """Value 0 is the app's own "nothing to see here", so it is the background's; without one it is nothing's.

    A class has its index + 1. Where the background has 0, pixels without a class have the highest value.
    """

    classes: Classes

    def __post_init__(self) -> None:
        if len(self.classes) > MOST_CLASSES:
            raise RunError(
                f"expected at most {MOST_CLASSES:,} classes, which a mask can number, but got {len(self.classes):,}; "
                "bring the labels to a vocabulary first: annotate relabel"
            )

    @property
    def kind(self) -> type[np.unsignedinteger]:
        return np.uint8 if len(self.classes) < 2**8 - 1 else np.uint16

    @property
    def nothing(self) -> int:
        return 0 if self.classes.background is None else int(np.iinfo(self.kind).max)

    @property
    def names(self) -> dict[int, str]:
        """By value; what the app calls mask targets."""
        named = {self.value(index): name for index, name in enumerate(self.classes.names)}
        return named if self.nothing == 0 else {**named, self.nothing: "(nothing)"}

    @property
    def colors(self) -> dict[int, str]:
        """By value, "#rrggbb"; those of every export."""
        colors = {self.value(index): self.classes.color(index, index + 1) for index in range(len(self.classes))}
        return {value: "#{:02x}{:02x}{:02x}".format(*color) for value, color in self._with_nothing(colors).items()}

    def value(self, index: int) -> int:
        if index == NOTHING:
            return self.nothing
        return 0 if index == self.classes.background else index + 1

    def values(self, record: ImageRecord) -> Values:
        """The photo's mask: H x W."""
        values = [self.value(self.classes.index(segment)) for segment in record.segments]
        lookup = np.array([*values, self.nothing], dtype=self.kind)
        mask: Values = lookup[record.prediction().label_map]
        return mask

    def parts(self, record: ImageRecord) -> list[Part]:
        """Instances: each connected part of each segment but the background's. The same for the same labels, always."""
        view = View(instances=True, min_area=max(int(record.width * record.height * SMALLEST_PART), 1))
        found = piece_map(record, self._thing, view)
        parts = []
        for number, box in enumerate(ndimage.find_objects(found.numbers + 1)):
            if box is not None:
                rows, columns = box
                place = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
                mask = found.numbers[box] == number
                parts.append(Part(number, found.class_indices[number], found.scores[number], place, mask))
        return parts

    def _thing(self, segment: Segment) -> int:
        index = self.classes.index(segment)
        return NOTHING if index == self.classes.background else index

    def _with_nothing(self, colors: dict[int, Color]) -> dict[int, Color]:
        return colors if self.nothing == 0 else {**colors, self.nothing: NOTHING_COLOR}


def legend_of(run: RunReader, known: Sequence[str] = ()) -> Legend:
    """Of the run's classes; where it names its own, those that a person gave it are among them.

    known: of the latter, those that have a value already, which they keep.
    """
    if run.vocabulary is not None:
        return Legend(classes_of(run))
    names = {normalise(segment.label) for each in reviewed(run) for segment in each.record.segments}
    ordered = (*known, *sorted(names.difference(known)))
    return Legend(Classes(ordered, (None,) * len(ordered), open_labels=True))
