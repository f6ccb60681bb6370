"""A table as pictures, drawn with Pillow: grouped bars, and a bar per class.

Rows are told apart by number as well as by colour, so that any number of them can be, by anybody. Below the title
stands what the figures are of (`basis`: photos and pack), because pictures get pasted without their table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from annotator.fonts import Font, fitted, font_for
from evaluation.picture import EMPTY, FAINT, GRID, INK, PAPER, Color

COLORS: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (110, 110, 118),
)
"""Of the rows, in order; more rows begin again. Okabe and Ito's, which colour-blind people can tell apart."""
MARGIN, TITLE_HEIGHT, BASIS_LINE, LEGEND_LINE, LEGEND_GAP, SQUARE = 28, 40, 18, 24, 22, 16
BETWEEN = "; "
WIDTH_MIN, TITLE_MAX = 520, 1200

SLOT, BAR, GROUP_GAP, AXIS = 34, 28, 36, 44
"""Of the grouped bars: width of a bar with its distance, without, between groups, and of the axis' numbers."""
PLOT_HEIGHT, HEADROOM = 320, 24
MARK = 3
"""Thickness of the paper's line."""
NUMBER_HEIGHT = 20
"""A number needs so much; where the paper's line is too near above a bar, it stands inside."""
DARK = 350
"""Sum of the channels up to which a colour wants white letters."""

CLASSES_PER_PANEL = 60
CLASS_HEIGHT, CLASS_BAR, NAME_MAX, NUMBER = 18, 12, 160, 34
TRACKS, TRACK_MIN, TRACK_MAX, TRACK_GAP, PANEL_GAP = 360, 64, 180, 14, 40


@dataclass(frozen=True)
class Bar:
    """row: its number. value: a share, None where it was not measured. paper: none, one, or lowest and highest."""

    row: int
    value: float | None
    paper: tuple[float, ...] = ()


def color_of(row: int) -> Color:
    return COLORS[row % len(COLORS)]


def draw_bars(
    title: str, rows: Sequence[str], groups: Mapping[str, Sequence[Bar]], basis: Sequence[str] = ()
) -> Image.Image:
    """Group name -> its bars: RGB picture of all groups side by side, with a line where the paper's figure is."""
    font, small = font_for([*groups, *rows], 13), font_for((), 11)
    widths = {name: max(len(bars) * SLOT, math.ceil(font.getlength(name))) for name, bars in groups.items()}
    needed = MARGIN + AXIS + sum(each + GROUP_GAP for each in widths.values()) + MARGIN
    width = max(needed, _width_of(title))
    gap = GROUP_GAP + (width - needed) // max(len(groups), 1)
    lines = _basis_lines(basis, width)
    marked = any(bar.paper for bars in groups.values() for bar in bars)
    legend = [*_legend(rows, font, width), *([[]] if marked else [])]
    head = MARGIN + TITLE_HEIGHT + len(lines) * BASIS_LINE
    base = head + len(legend) * LEGEND_LINE + HEADROOM + PLOT_HEIGHT
    image = Image.new("RGB", (width, base + 60), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_title(draw, title, lines, width)
    _draw_legend(draw, legend, head, font)
    if marked:
        y = head + (len(legend) - 1) * LEGEND_LINE + SQUARE // 2
        draw.rectangle((MARGIN, y - 1, MARGIN + SQUARE, y - 2 + MARK), INK)
        draw.text((MARGIN + SQUARE + 8, y), "the paper's figure", INK, font, anchor="lm")

    top = _top([share for bars in groups.values() for bar in bars for share in (bar.value or 0.0, *bar.paper)])
    _draw_axis(draw, base, width, top, small)
    x = MARGIN + AXIS + gap // 2
    for name, bars in groups.items():
        left = x + (widths[name] - len(bars) * SLOT) / 2
        for place, bar in enumerate(bars):
            _draw_bar(draw, bar, round(left + place * SLOT + (SLOT - BAR) / 2), base, top, small)
        draw.text((x + widths[name] / 2, base + 37), fitted(name, 0, font, width), INK, font, anchor="ms")
        x += widths[name] + gap
    return image


def draw_classes(
    title: str,
    rows: Sequence[str],
    names: Sequence[str],
    shares: Mapping[int, Sequence[float | None]],
    basis: Sequence[str] = (),
) -> Image.Image:
    """Number of a row -> share per class: RGB picture with a line per class and a bar per row in it.

    Classes without a share in any row are left out; more than 60 stand in several panels side by side.
    """
    shown = [place for place in range(len(names)) if any(values[place] is not None for values in shares.values())]
    font, small = font_for([*names, *rows], 13), font_for((), 11)
    labels = {place: fitted(names[place], place, font, NAME_MAX) for place in shown}
    label_width = math.ceil(max((font.getlength(label) for label in labels.values()), default=0))
    track = min(max(TRACKS // max(len(shares), 1), TRACK_MIN), TRACK_MAX)
    panel_width = label_width + len(shares) * (TRACK_GAP + track + NUMBER)
    panels = max(math.ceil(len(shown) / CLASSES_PER_PANEL), 1)
    lines = math.ceil(len(shown) / panels)

    width = max(2 * MARGIN + panels * panel_width + (panels - 1) * PANEL_GAP, _width_of(title))
    legend = _legend([rows[number] if number in shares else "" for number in range(len(rows))], font, width)
    basis_lines = _basis_lines(basis, width)
    head = MARGIN + TITLE_HEIGHT + len(basis_lines) * BASIS_LINE
    top = head + len(legend) * LEGEND_LINE + HEADROOM
    left_out = len(names) - len(shown)
    image = Image.new("RGB", (width, top + lines * CLASS_HEIGHT + MARGIN + (20 if left_out else 0)), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_title(draw, title, basis_lines, width)
    _draw_legend(draw, legend, head, font)
    for panel in range(panels):
        left = MARGIN + panel * (panel_width + PANEL_GAP)
        mine = shown[panel * lines : (panel + 1) * lines]
        for place, number in enumerate(shares):
            x = left + label_width + TRACK_GAP + place * (TRACK_GAP + track + NUMBER)
            if mine:
                draw.text((x, top - 6), str(number + 1), INK, font, anchor="ls")
            for line, index in enumerate(mine):
                _draw_track(draw, shares[number][index], x, top + line * CLASS_HEIGHT, track, color_of(number), small)
        for line, index in enumerate(mine):
            middle = top + line * CLASS_HEIGHT + CLASS_HEIGHT / 2
            draw.text((left + label_width, middle), labels[index], INK, font, anchor="rm")
    if left_out:
        text = f"classes without a pixel, not shown: {left_out}"
        draw.text((MARGIN, image.height - 18), text, FAINT, small, anchor="ls")
    return image


def _width_of(title: str) -> int:
    """That a picture needs for its title."""
    return max(2 * MARGIN + min(math.ceil(font_for([title], 19).getlength(title)), TITLE_MAX), WIDTH_MIN)


def _basis_lines(basis: Sequence[str], width: int) -> list[str]:
    """As many of them on each line as fit."""
    font = font_for(basis, 13)
    lines: list[str] = []
    for number, text in enumerate(fitted(text, place, font, width - 2 * MARGIN) for place, text in enumerate(basis)):
        longer = f"{lines[-1]}{BETWEEN}{text}" if number else text
        if number and font.getlength(longer) <= width - 2 * MARGIN:
            lines[-1] = longer
        else:
            lines.append(text)
    return lines


def _draw_title(draw: ImageDraw.ImageDraw, title: str, basis: Sequence[str], width: int) -> None:
    """And the lines below it."""
    font, small = font_for([title], 19), font_for(basis, 13)
    draw.text((MARGIN, MARGIN - 8), fitted(title, 0, font, width - 2 * MARGIN), INK, font)
    for line, text in enumerate(basis):
        draw.text((MARGIN, MARGIN + 20 + line * BASIS_LINE), text, FAINT, small)


def _legend(rows: Sequence[str], font: Font, width: int) -> list[list[tuple[int, int, str]]]:
    """Lines of (number of the row, x, name) that fit into the width; rows without a name are left out."""
    lines: list[list[tuple[int, int, str]]] = []
    x = width
    for number, name in enumerate(rows):
        if not name:
            continue
        text = fitted(f"{number + 1}  {name}", number, font, width - 2 * MARGIN - SQUARE - 8)
        needed = SQUARE + 8 + math.ceil(font.getlength(text))
        if x + needed > width - MARGIN:
            lines.append([])
            x = MARGIN
        lines[-1].append((number, x, text))
        x += needed + LEGEND_GAP
    return lines


def _draw_legend(
    draw: ImageDraw.ImageDraw, lines: Sequence[Sequence[tuple[int, int, str]]], top: int, font: Font
) -> None:
    for line, entries in enumerate(lines):
        y = top + line * LEGEND_LINE
        for number, x, text in entries:
            draw.rectangle((x, y, x + SQUARE - 1, y + SQUARE - 1), color_of(number))
            draw.text((x + SQUARE + 8, y + SQUARE / 2), text, INK, font, anchor="lm")


def _top(shares: Sequence[float]) -> float:
    """Of the axis: the next tenth above all."""
    return max(math.ceil(10 * max(shares, default=0.0) - 1e-9), 1) / 10


def _draw_axis(draw: ImageDraw.ImageDraw, base: int, width: int, top: float, font: Font) -> None:
    step = 10 if top > 0.5 else 5 if top > 0.2 else 2
    for tick in range(0, round(100 * top) + 1, step):
        y = base - round(tick / 100 / top * PLOT_HEIGHT)
        draw.line((MARGIN + AXIS, y, width - MARGIN, y), FAINT if tick == 0 else GRID)
        draw.text((MARGIN + AXIS - 8, y), f"{tick} %", FAINT, font, anchor="rm")


def _draw_bar(draw: ImageDraw.ImageDraw, bar: Bar, x: int, base: int, top: float, font: Font) -> None:
    def height(share: float) -> int:
        return round(share / top * PLOT_HEIGHT)

    top_side, marks = height(bar.value or 0.0), sorted(map(height, bar.paper))
    if top_side:
        draw.rectangle((x, base - top_side, x + BAR - 1, base - 1), color_of(bar.row))
    for mark in marks:
        draw.rectangle((x - 3, base - mark - MARK, x + BAR + 2, base - mark + MARK - 1), PAPER)
        draw.rectangle((x - 2, base - mark - 1, x + BAR + 1, base - mark - 2 + MARK), INK)
    if len(marks) == 2:
        draw.line((x + BAR // 2, base - marks[0], x + BAR // 2, base - marks[1]), INK)
    draw.text((x + BAR / 2, base + 6), str(bar.row + 1), FAINT, font, anchor="mt")

    near = [mark for mark in marks if abs(mark - top_side) < NUMBER_HEIGHT]
    middle, color = x + BAR / 2, INK
    if bar.value is None:
        draw.text((middle, base - 4), "n/a", FAINT, font, anchor="mb")
    elif near and min(near) >= top_side and top_side >= NUMBER_HEIGHT:
        color = INK if sum(color_of(bar.row)) > DARK else PAPER
        draw.text((middle, base - top_side + 5), f"{100 * bar.value:.1f}", color, font, anchor="mt")
    else:
        above = max([top_side, *near])
        draw.text((middle, base - above - 4), f"{100 * bar.value:.1f}", color, font, anchor="mb")


def _draw_track(
    draw: ImageDraw.ImageDraw, share: float | None, x: int, y: int, track: int, color: Color, font: Font
) -> None:
    """One class of one row: the bar in its full length, and the number."""
    upper = y + (CLASS_HEIGHT - CLASS_BAR) // 2
    draw.rectangle((x, upper, x + track - 1, upper + CLASS_BAR - 1), EMPTY)
    if share is not None and (filled := round(share * track)):
        draw.rectangle((x, upper, x + filled - 1, upper + CLASS_BAR - 1), color)
    text = "n/a" if share is None else f"{100 * share:.1f}"
    draw.text((x + track + NUMBER - 4, y + CLASS_HEIGHT / 2), text, INK, font, anchor="rm")
