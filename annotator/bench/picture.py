"""What was measured as a picture, drawn with Pillow: bars for stages, the bound and the start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from annotator.bench.measure import Measured
from annotator.bench.table import BOUND, headline, main_stages, meanwhile, photos_line, result_lines
from annotator.fonts import Font, fitted, font_for
from evaluation.picture import EMPTY, FAINT, INK, PAPER, Color
from evaluation.table_picture import COLORS

MARGIN, WIDTH = 28, 980
LINE, BAR, HEADING = 24, 14, 40
NAME, NUMBER = 190, 160
BLUE, ORANGE, GREEN = COLORS[:3]


@dataclass(frozen=True)
class Bar:
    """value: drawn; text: beside it."""

    name: str
    value: float
    text: str
    color: Color


def draw_bench(measured: Measured) -> Image.Image:
    """RGB picture; bars of one heading are to one scale."""
    lines = [photos_line(measured), *result_lines(measured)]
    groups = {
        "main thread, ms per photo": _of_time(measured),
        "meanwhile, ms per photo": [
            _per_photo(each.name, each.seconds, measured, ORANGE) for each in meanwhile(measured.stages)
        ],
        "until the first mask, s": [
            Bar(name, seconds, f"{seconds:.1f}", GREEN) for name, seconds in measured.start_up.parts.items()
        ],
    }
    shown = {heading: bars for heading, bars in groups.items() if bars}
    height = 2 * MARGIN + LINE * (2 + len(lines)) + sum(HEADING + LINE * len(bars) for bars in shown.values())
    image = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(image)
    title, plain, bold = font_for([headline(measured)], 19), font_for(lines, 13), font_for((), 15)
    draw.text((MARGIN, MARGIN - 8), fitted(headline(measured), 0, title, WIDTH - 2 * MARGIN), INK, title)
    y = MARGIN + LINE
    for line in lines:
        draw.text((MARGIN, y), fitted(line, 0, plain, WIDTH - 2 * MARGIN), INK, plain)
        y += LINE
    for heading, bars in shown.items():
        y += HEADING
        draw.text((MARGIN, y - 10), heading, FAINT, bold, anchor="ls")
        _draw_bars(draw, bars, y, plain)
        y += LINE * len(bars)
    return image


def _of_time(measured: Measured) -> list[Bar]:
    """Stages of the main thread, and below them what its networks alone need."""
    bars = [_per_photo(stage.name, stage.seconds, measured, BLUE) for stage in main_stages(measured.stages)]
    if measured.bound_seconds is not None:
        bars.append(_per_photo(f"{BOUND} (bound)", measured.bound_seconds, measured, FAINT))
    return bars


def _per_photo(name: str, seconds: float, measured: Measured, color: Color) -> Bar:
    share = f"{seconds / measured.stages_seconds:.0%}"
    return Bar(name, seconds, f"{1000 * seconds / measured.photos:,.1f}   {share}", color)


def _draw_bars(draw: ImageDraw.ImageDraw, bars: Sequence[Bar], top: int, font: Font) -> None:
    left, longest = MARGIN + NAME, WIDTH - 2 * MARGIN - NAME - NUMBER
    most = max(bar.value for bar in bars) or 1.0
    for place, bar in enumerate(bars):
        y = top + place * LINE + (LINE - BAR) // 2
        draw.text((left - 10, y + BAR / 2), fitted(bar.name, place, font, NAME - 10), INK, font, anchor="rm")
        draw.rectangle((left, y, left + longest - 1, y + BAR - 1), EMPTY)
        if filled := math.ceil(max(bar.value, 0.0) / most * longest):
            draw.rectangle((left, y, left + filled - 1, y + BAR - 1), bar.color)
        draw.text((left + longest + 12, y + BAR / 2), bar.text, INK, font, anchor="lm")
