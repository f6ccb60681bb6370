"""A confusion matrix as a picture, drawn with Pillow: a plain install has no matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from annotator.fonts import Font, fitted, font_for

Color = tuple[int, int, int]

RAMP = ((255, 255, 255), (214, 230, 244), (146, 195, 222), (64, 144, 197), (12, 86, 160), (8, 40, 94))
"""Colours of 0, 20, ..., 100 %."""
INK: Color = (38, 43, 51)
FAINT: Color = (118, 125, 134)
GRID: Color = (232, 235, 238)
EMPTY: Color = (242, 243, 245)
PAPER: Color = (255, 255, 255)

MATRIX_SIDE = 2200
"""Pixels that a large matrix aims at; CELL_MIN makes one of very many classes larger."""
CELL_MIN, CELL_MAX = 4, 54
CELL_WITH_NUMBER = 28
CELL_WITH_LABEL = 9
LABEL_MAX = 200
MARGIN, GAP, WIDTH_MIN = 28, 10, 360
BAR, BAR_MIN, BAR_MAX = 14, 160, 320


@dataclass(frozen=True)
class _Layout:
    """Where things stand: `x`, `y` is the matrix's corner, `cell` a cell's side."""

    x: int
    y: int
    cell: int
    rows: int

    @property
    def nothing(self) -> int:
        """Left side of the column "nothing", which stands apart."""
        return self.x + self.rows * self.cell + GAP

    @property
    def right(self) -> int:
        return self.nothing + self.cell

    @property
    def bottom(self) -> int:
        return self.y + self.rows * self.cell

    def left_of(self, column: int) -> int:
        return self.nothing if column == self.rows else self.x + column * self.cell


def draw_confusion(counts: NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """classes x (classes + 1) counts -> RGB picture of each row's shares.

    Classes with no pixel in truth and prediction are left out; a gray row is a class that was predicted but
    has no truth. Up to 77 classes each cell says its percentage, up to 243 each line its class.
    """
    shown = np.flatnonzero(counts.sum(axis=1) + counts[:, :-1].sum(axis=0))
    counts = counts[np.ix_(shown, [*shown, counts.shape[1] - 1])]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)

    cell = int(np.clip(MATRIX_SIDE // (len(shown) + 1), CELL_MIN, CELL_MAX))
    font = font_for(names, max(10, min(15, cell - 2)))
    labels = (
        [fitted(names[index], index, font, LABEL_MAX) for index in shown.tolist()] if cell >= CELL_WITH_LABEL else []
    )
    widest = int(max((font.getlength(label) for label in [*labels, "nothing"]), default=0))
    layout = _Layout(MARGIN + widest + GAP, MARGIN + 58 + widest + GAP, cell, len(shown))

    width, height = layout.right + 4 * MARGIN + BAR, max(layout.bottom, layout.y + BAR_MIN) + 2 * MARGIN
    image = Image.new("RGB", (max(width, WIDTH_MIN), height), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_cells(image, shares, layout)
    if cell >= CELL_WITH_NUMBER:
        _draw_numbers(draw, shares, layout)
    _draw_labels(image, labels, font, layout)
    _draw_bar(image, layout)
    title, small = font_for((), 19), font_for((), 13)
    draw.text((MARGIN, MARGIN - 8), "Where each class's pixels went", INK, title)
    draw.text((MARGIN, MARGIN + 20), "row: truth, column: prediction, 100 % per row", FAINT, small)
    if left_out := len(names) - len(shown):
        draw.text((MARGIN, height - 18), f"classes without a pixel, not shown: {left_out}", FAINT, small, anchor="ls")
    return image


def _draw_cells(image: Image.Image, shares: NDArray[np.float64], layout: _Layout) -> None:
    colors = np.where(np.isnan(shares)[..., None], np.array(EMPTY), _ramp(np.nan_to_num(shares))).astype(np.uint8)
    cells = colors.repeat(layout.cell, axis=0).repeat(layout.cell, axis=1)
    if layout.cell > CELL_MIN:
        cells[:: layout.cell] = cells[:, :: layout.cell] = GRID
    width = layout.rows * layout.cell
    image.paste(Image.fromarray(cells[:, :width]), (layout.x, layout.y))
    image.paste(Image.fromarray(cells[:, width:]), (layout.nothing, layout.y))
    draw = ImageDraw.Draw(image)
    draw.rectangle((layout.x, layout.y, layout.x + width, layout.bottom), outline=FAINT)
    draw.rectangle((layout.nothing, layout.y, layout.right, layout.bottom), outline=FAINT)


def _draw_numbers(draw: ImageDraw.ImageDraw, shares: NDArray[np.float64], layout: _Layout) -> None:
    font = font_for((), max(11, layout.cell // 3))
    for row, column in np.argwhere(np.nan_to_num(shares) >= 0.005):
        share = shares[row, column]
        middle = (layout.left_of(column) + layout.cell / 2, layout.y + (row + 0.5) * layout.cell)
        draw.text(middle, f"{100 * share:.0f}", PAPER if share > 0.5 else INK, font, anchor="mm")


def _draw_labels(image: Image.Image, labels: Sequence[str], font: Font, layout: _Layout) -> None:
    draw = ImageDraw.Draw(image)
    for row, label in enumerate(labels):
        draw.text((layout.x - GAP, layout.y + (row + 0.5) * layout.cell), label, INK, font, anchor="rm")
    for column, label in enumerate([*labels, "nothing"] if labels else []):
        text = Image.new("L", (int(font.getlength(label)) + 2, layout.cell))
        ImageDraw.Draw(text).text((0, layout.cell / 2), label, 255, font, anchor="lm")
        upright = text.transpose(Image.Transpose.ROTATE_90)
        color = FAINT if column == len(labels) else INK
        image.paste(color, (layout.left_of(column), layout.y - GAP - upright.height), upright)


def _draw_bar(image: Image.Image, layout: _Layout) -> None:
    """The colour scale, 100 % on top."""
    height = int(np.clip(layout.bottom - layout.y, BAR_MIN, BAR_MAX))
    steps = _ramp(np.linspace(1, 0, height)).astype(np.uint8)[:, None].repeat(BAR, axis=1)
    x = layout.right + MARGIN
    image.paste(Image.fromarray(steps), (x, layout.y))
    draw = ImageDraw.Draw(image)
    draw.rectangle((x, layout.y, x + BAR, layout.y + height), outline=FAINT)
    for share in (1.0, 0.5, 0.0):
        at = (x + BAR + 8, layout.y + (1 - share) * height)
        draw.text(at, f"{100 * share:.0f} %", FAINT, font_for((), 12), anchor="lm")


def _ramp(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares in [0, 1] of any shape -> the same shape x 3, 0 to 255."""
    stops = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(shares, stops, channel) for channel in zip(*RAMP, strict=True)], axis=-1)
