"""Overlays: the photo with its masks in colour, outlined, and a legend; for people, not for trainers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from annotator.decode import decode
from annotator.errors import ImageError
from annotator.fonts import fitted, font_for
from annotator.jpeg import jpeg_bytes
from annotator.limits import Limits, Share
from annotator.run import ImageRecord, RunReader
from annotator.vocabulary import Color
from annotator.whereabouts import refuse_all_gone
from annotator.wording import are
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of
from exporters.descriptions import about
from exporters.files import Names, labelled
from exporters.options import CommonOptions
from exporters.output import OutputFolder, refuse_among_photos

LEGEND_ROWS = 12
MOST_OF_JPEG = 65_500  # pixels along a side
SWATCH, PAD, NAME_WIDTH = 14, 8, 180
PAPER, INK = (255, 255, 255), (38, 43, 51)
OTHERS: Color = (150, 150, 150)


@dataclass(frozen=True)
class OverlayOptions(CommonOptions):
    """As everywhere, and how it is drawn."""

    max_side: Annotated[int, Limits(1, MOST_OF_JPEG)] = field(default=1280, metadata=about("max_side"))
    opacity: Share = field(default=0.45, metadata=about("opacity"))


@register("overlay", OverlayOptions, "the photo with coloured masks and a legend, to look at")
def export(run: RunReader, out: Path, options: OverlayOptions) -> ExportSummary:
    """Streams the run, a photo at a time."""
    refuse_among_photos(run, out)
    classes = classes_of(run, options)
    refuse_all_gone(run)
    summary, names, folder = ExportSummary(out, notes=[*classes.notes]), Names(), OutputFolder(run, out)
    gone = 0
    for record in labelled(run, summary, upright=True):
        try:
            pixels = decode(run.image_root / record.path, working_side=options.max_side).pixels
        except ImageError:
            gone += 1
            continue
        with folder.replacing(out / f"{names.stem(record.path)}.jpg") as file:
            file.write(jpeg_bytes(draw_overlay(pixels, record, classes, options), quality=90))
        summary.annotations += len(record.segments)
    names.note(summary)
    if gone:
        summary.notes.append(f"{are(gone, 'photo')} not drawn: no longer readable in {run.image_root}")
    return summary


def draw_overlay(
    pixels: NDArray[np.uint8], record: ImageRecord, classes: Classes, options: OverlayOptions
) -> Image.Image:
    """The photo (H x W x 3, any scale of it) with the record's masks, and the legend below."""
    scale = min(options.max_side / max(record.size), 1.0)
    size = max(round(record.width * scale), 1), max(round(record.height * scale), 1)
    photo = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    index_of = [classes.index(segment) for segment in record.segments]
    painted = [index != classes.background and index >= 0 for index in index_of]
    colors = [classes.color(index, index + 1) if index >= 0 else OTHERS for index in index_of]
    palette = np.array([*colors, (0, 0, 0)], dtype=np.uint8)
    shown = np.array([*painted, False])

    full = Image.fromarray(record.prediction().label_map)
    labels = np.asarray(full.resize(size, Image.Resampling.NEAREST))  # -1, nothing, picks the last entry below
    blend = (photo * (1 - options.opacity) + palette[labels] * options.opacity).astype(np.uint8)
    drawn = np.where(shown[labels][..., None], blend, photo)
    edges = _edges(labels)
    drawn[edges] = np.where(shown[labels][edges][:, None], palette[labels][edges], PAPER)
    return _with_legend(Image.fromarray(drawn), record, [tuple(color) for color in palette.tolist()], painted)


def _edges(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Both sides of every border between two labels."""
    edges = np.zeros(labels.shape, dtype=np.bool_)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def _with_legend(
    image: Image.Image, record: ImageRecord, colors: list[tuple[int, ...]], painted: list[bool]
) -> Image.Image:
    """A line per label, the largest first, in as many columns as fit."""
    order = sorted(range(len(painted)), key=lambda index: -record.segments[index].area)[:LEGEND_ROWS]
    font = font_for([record.segments[index].label for index in order], SWATCH)
    column = SWATCH + NAME_WIDTH + 60 + 2 * PAD
    columns = max((image.width - PAD) // column, 1)
    rows = -(-len(order) // columns)
    sheet = Image.new("RGB", (image.width, image.height + (rows * (SWATCH + PAD) + PAD if rows else 0)), PAPER)
    sheet.paste(image, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(order):
        segment = record.segments[index]
        x, y = PAD + place % columns * column, image.height + PAD + place // columns * (SWATCH + PAD)
        fill = colors[index] if painted[index] else None
        draw.rectangle((x, y, x + SWATCH, y + SWATCH), fill=fill, outline=OTHERS)
        share = segment.area / (record.width * record.height)
        text = f"{fitted(segment.label, index, font, NAME_WIDTH)}  {share:.0%}"
        draw.text((x + SWATCH + PAD, y + SWATCH / 2), text, INK, font, anchor="lm")
    return sheet
