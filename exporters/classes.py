"""The classes of a run as export formats number them, and their colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from annotator.corrections import class_names
from annotator.errors import ConfigError
from annotator.open_labels import choose, normalise
from annotator.prediction import NOTHING, Segment
from annotator.run import RunReader
from annotator.spelling import option
from annotator.vocabulary import Color
from exporters.options import EVERYTHING, CommonOptions, label_counts


@dataclass(frozen=True)
class Classes:
    """Names by index; `background` is the index of the background class, if there is one.

    open_labels: the labeler named them itself, so a segment's class is found by its label, normalised.
    notes:       sentences for the user on what is left out.
    """

    names: tuple[str, ...]
    own_colors: tuple[Color | None, ...]
    background: int | None = None
    open_labels: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def index(self, segment: Segment) -> int:
        """The segment's class; -1 where it counts as nothing."""
        return self._index_of_name.get(normalise(segment.label), NOTHING) if self.open_labels else segment.class_id

    def object_index(self, segment: Segment) -> int:
        """The same for formats of objects: -1 for the background, too."""
        index = self.index(segment)
        return NOTHING if index == self.background else index

    @property
    def objects(self) -> tuple[int, ...]:
        """Indices of all classes but the background."""
        return tuple(index for index in range(len(self.names)) if index != self.background)

    def color(self, index: int, value: int) -> Color:
        """The vocabulary's colour, or the VOC colour of the value that the class is written as."""
        return self.own_colors[index] or voc_color(value)

    @cached_property
    def _index_of_name(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}


def classes_of(run: RunReader, options: CommonOptions = EVERYTHING) -> Classes:
    """The vocabulary's classes, then those that a person added; of a run without a vocabulary its own labels,
    normalised, in sorted order."""
    if run.vocabulary is None:
        return _open_classes(run, options)
    if (options.min_count, options.top) != (1, None):
        raise ConfigError(
            f"{run.directory}: {option('min_count')} and {option('top')} choose among labels that a labeler made up, "
            "but this run has a vocabulary; leave them out"
        )
    names, entries = class_names(run), run.vocabulary.classes
    colors = (*(entry.color for entry in entries), *[None] * (len(names) - len(entries)))
    return Classes(names, colors, run.vocabulary.background_class)


def voc_color(value: int) -> Color:
    """Pascal VOC's colour map: the value's bits, spread over red, green and blue from the highest bit down."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (value & 1) << shift
        green |= (value >> 1 & 1) << shift
        blue |= (value >> 2 & 1) << shift
        value >>= 3
    return red, green, blue


def _open_classes(run: RunReader, options: CommonOptions = EVERYTHING) -> Classes:
    counts = label_counts(run)
    names = choose(counts, options.min_count, options.top)
    if counts and not names:
        most = max(counts, key=lambda count: count.photos)
        raise ConfigError(
            f"{run.directory}: no label is in {options.min_count} photos or more; the most common, {most.name!r}, is "
            f"in {most.photos}; lower {option('min_count')}"
        )
    dropped = len(counts) - len(names)
    notes = (f"{dropped:,} of {len(counts):,} labels are left out as too rare",) if dropped else ()
    return Classes(names, (None,) * len(names), open_labels=True, notes=notes)
