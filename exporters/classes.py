"""The classes of a run as export formats number them, and their colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from annotator.prediction import Segment
from annotator.run import RunReader, part_files, read_columns
from annotator.vocabulary import Color


@dataclass(frozen=True)
class Classes:
    """Names by index; `background` is the index of the background class, if there is one.

    open_labels: the labeler named them itself, so a segment's class is found by its label.
    """

    names: tuple[str, ...]
    own_colors: tuple[Color | None, ...]
    background: int | None = None
    open_labels: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def index(self, segment: Segment) -> int:
        """The segment's class; -1 where it counts as nothing."""
        return self._index_of_name[segment.label] if self.open_labels else segment.class_id

    def color(self, index: int, value: int) -> Color:
        """The vocabulary's colour, or the VOC colour of the value that the class is written as."""
        return self.own_colors[index] or voc_color(value)

    @cached_property
    def _index_of_name(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}


def classes_of(run: RunReader) -> Classes:
    """The vocabulary's classes; of a run without one all labels that occur, in sorted order."""
    if run.vocabulary is None:
        names = _labels(run)
        return Classes(names, (None,) * len(names), open_labels=True)
    entries = run.vocabulary.classes
    background = next((index for index, entry in enumerate(entries) if entry.background), None)
    return Classes(tuple(entry.name for entry in entries), tuple(entry.color for entry in entries), background)


def voc_color(value: int) -> Color:
    """Pascal VOC's colour map: the value's bits, spread over red, green and blue from the highest bit down."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (value & 1) << shift
        green |= (value >> 1 & 1) << shift
        blue |= (value >> 2 & 1) << shift
        value >>= 3
    return red, green, blue


def _labels(run: RunReader) -> tuple[str, ...]:
    """Read from the label column alone."""
    labels: set[str] = set()
    for part in part_files(run.directory):
        segments = read_columns(part, ["segments.list.element.label"])["segments"].combine_chunks()
        labels.update(segments.flatten().field("label").to_pylist())
    return tuple(sorted(labels))
