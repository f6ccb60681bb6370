"""Colours of a run's classes."""

from __future__ import annotations

from dataclasses import dataclass

from annotator.gallery.markup import Markup, fill
from annotator.prediction import NOTHING
from annotator.record import ImageRecord
from annotator.run import RunReader
from annotator.vocabulary import Color
from exporters.classes import Classes, classes_of, voc_color


@dataclass(frozen=True)
class Look:
    """Classes of a vocabulary keep one colour throughout; free-text labels have those of their place in the photo,
    as `annotate show` draws them."""

    classes: Classes

    @classmethod
    def of(cls, run: RunReader) -> Look:
        return cls(classes_of(run))

    def colors(self, record: ImageRecord) -> list[Color | None]:
        """Of each segment; None is not painted: the background, and what belongs to no class."""
        if self.classes.open_labels:
            return [voc_color(place + 1) for place in range(len(record.segments))]
        return [self._color(self.classes.index(segment)) for segment in record.segments]

    def swatch(self, index: int) -> Markup:
        """Of a class; nothing where its colour differs from photo to photo."""
        return Markup() if self.classes.open_labels else swatch(css_color(self._color(index)))

    def bar_color(self, index: int) -> str:
        """For a chart; free-text labels and the background take the page's own."""
        return "var(--bar)" if self.classes.open_labels else css_color(self._color(index)) or "var(--soft)"

    def _color(self, index: int) -> Color | None:
        return None if index in (NOTHING, self.classes.background) else self.classes.color(index, index + 1)


def css_color(color: Color | None) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color) if color else ""


def swatch(color: str) -> Markup:
    """A square; hollow for no colour."""
    return fill("swatch", color=color or "transparent")
