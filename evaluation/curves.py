"""How scores move with a threshold: as CSV, and as a picture drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from annotator.fonts import font_for
from evaluation.picture import FAINT, GRID, INK, PAPER, Color

COLORS: tuple[Color, ...] = ((12, 86, 160), (214, 96, 20), (32, 134, 84), (158, 54, 146), (120, 104, 24), (90, 90, 96))
"""Of the lines, in order; more lines begin again."""
SCALE = 2
"""Drawn so many times as large and reduced, which makes lines smooth."""
WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 64, 96
TICKS = 10


@dataclass(frozen=True)
class Curves:
    """Lines over one threshold.

    x_name, x: what moves, and its K values, increasing.
    lines:     name -> K values from 0 to 1, NaN where there is none.
    """

    title: str
    x_name: str
    x: NDArray[np.float64]
    lines: Mapping[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        for name, values in self.lines.items():
            if values.shape != self.x.shape:
                raise ValueError(f"Expected {self.x.shape} values for {name!r}, but got {values.shape}")

    @property
    def header(self) -> list[str]:
        return [self.x_name, *self.lines]

    def rows(self) -> Iterator[list[str]]:
        """Text per threshold, under `header`; empty where a score does not exist."""
        for place, threshold in enumerate(self.x.tolist()):
            values = (float(values[place]) for values in self.lines.values())
            yield [f"{threshold:g}", *("" if math.isnan(value) else repr(value) for value in values)]

    def draw(self) -> Image.Image:
        """WIDTH x HEIGHT RGB: both axes from the lowest to the highest there may be, a legend below."""
        image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
        draw = ImageDraw.Draw(image)
        self._draw_axes(draw)
        for index, values in enumerate(self.lines.values()):
            self._draw_line(draw, values, COLORS[index % len(COLORS)])
        image = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        self._draw_words(ImageDraw.Draw(image))
        return image

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point's pixel; y from 0 to 1."""
        span = float(self.x[-1] - self.x[0]) or 1.0
        across = (x - float(self.x[0])) / span
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    def _draw_axes(self, draw: ImageDraw.ImageDraw) -> None:
        low, high = float(self.x[0]), float(self.x[-1])
        for tick in range(TICKS + 1):
            share, across = tick / TICKS, low + (high - low) * tick / TICKS
            draw.line([*_scaled(self.place(low, share)), *_scaled(self.place(high, share))], GRID, SCALE)
            draw.line([*_scaled(self.place(across, 0)), *_scaled(self.place(across, 1))], GRID, SCALE)
        draw.line([*_scaled(self.place(low, 0)), *_scaled(self.place(high, 0))], FAINT, SCALE)
        draw.line([*_scaled(self.place(low, 0)), *_scaled(self.place(low, 1))], FAINT, SCALE)

    def _draw_line(self, draw: ImageDraw.ImageDraw, values: NDArray[np.float64], color: Color) -> None:
        for stretch in _without_gaps(values):
            points = [_scaled(self.place(float(self.x[place]), float(values[place]))) for place in stretch]
            if len(points) > 1:
                draw.line(points, color, 2 * SCALE, joint="curve")
            else:
                x, y = points[0]
                draw.ellipse((x - 2 * SCALE, y - 2 * SCALE, x + 2 * SCALE, y + 2 * SCALE), color)

    def _draw_words(self, draw: ImageDraw.ImageDraw) -> None:
        small = font_for((), 12)
        draw.text((LEFT, 20), self.title, INK, font_for([self.title], 19))
        for tick in range(0, TICKS + 1, 2):
            across = float(self.x[0]) + float(self.x[-1] - self.x[0]) * tick / TICKS
            x, y = self.place(across, 0)
            draw.text((x, y + 6), f"{across:.2g}", FAINT, small, anchor="mt")
            x, y = self.place(float(self.x[0]), tick / TICKS)
            draw.text((x - 8, y), f"{100 * tick / TICKS:.0f} %", FAINT, small, anchor="rm")
        draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 24), self.x_name, FAINT, small, anchor="mt")
        x = float(LEFT)
        font = font_for(list(self.lines), 13)
        for index, name in enumerate(self.lines):
            draw.line([x, HEIGHT - 28, x + 18, HEIGHT - 28], COLORS[index % len(COLORS)], 3)
            draw.text((x + 24, HEIGHT - 28), name, INK, font, anchor="lm")
            x += 24 + font.getlength(name) + 22


def _scaled(point: tuple[float, float]) -> tuple[float, float]:
    return point[0] * SCALE, point[1] * SCALE


def _without_gaps(values: NDArray[np.float64]) -> list[Sequence[int]]:
    """Stretches of places that have a value."""
    known = np.flatnonzero(~np.isnan(values))
    return [part.tolist() for part in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if part.size]
