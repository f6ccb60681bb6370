"""One photo of the gallery: a small JPEG, a palette PNG of its masks to lie above it, and what is said beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.text import Text

from annotator.decode import decode
from annotator.errors import ImageError
from annotator.gallery.look import Look, css_color
from annotator.gallery.markup import Markup, escaped, joined
from annotator.gallery.survey import confidence
from annotator.jpeg import jpeg_bytes
from annotator.prediction import decode as decode_rle
from annotator.record import ImageRecord
from annotator.show import tree_lines
from annotator.vocabulary import Color

SIDE = 640
"""Longest side of a picture."""

QUALITY = 80
MOST_COLORS = 255
"""Labels that a palette has room for, beside the transparent entry."""

PHOTOS_PER_FOLDER = 1000


@dataclass(frozen=True)
class Label:
    """text: as the labeler wrote it; index: of its class, or -1; color: #rrggbb, or "" where it is not painted."""

    text: str
    index: int
    color: str
    score: float
    share: float


@dataclass(frozen=True)
class Card:
    """labels: the largest first. problem: why there is no photo, or what is odd about it. tree: how the segments
    came about, or ""."""

    path: str
    picture: str
    has_photo: bool
    width: int
    height: int
    confidence: float | None
    labels: tuple[Label, ...]
    problem: str = ""
    tree: str = ""


def make_card(record: ImageRecord, root: Path, look: Look, folder: Path, place: int) -> Card:
    """Writes the pictures of the photo at that place below `folder`, named by number and never by the photo."""
    picture = f"images/{place // PHOTOS_PER_FOLDER:03d}/{place:06d}"
    (folder / picture).parent.mkdir(parents=True, exist_ok=True)
    scale = min(SIDE / max(record.size), 1.0)
    size = max(round(record.width * scale), 1), max(round(record.height * scale), 1)
    colors = look.colors(record)
    _mask_picture(record, colors, size).save(folder / f"{picture}.png", optimize=True)
    problem, has_photo = "", True
    try:
        photo = decode(root / record.path, working_side=SIDE)
    except ImageError as error:
        problem, has_photo = str(error), False
    else:
        resized = Image.fromarray(photo.pixels).resize(size, Image.Resampling.LANCZOS)
        (folder / f"{picture}.jpg").write_bytes(jpeg_bytes(resized, quality=QUALITY))
        if (photo.height, photo.width) != record.size:
            problem = f"the photo has changed since: it is {photo.width} x {photo.height} now"
    pixels = record.width * record.height
    labels = [
        Label(s.label, look.classes.index(s), css_color(c), s.score, s.area / pixels)
        for s, c in zip(record.segments, colors, strict=True)
    ]
    labels.sort(key=lambda label: -label.share)
    return Card(
        path=record.path,
        picture=picture,
        has_photo=has_photo,
        width=record.width,
        height=record.height,
        confidence=confidence(record),
        labels=tuple(labels),
        problem=problem,
        tree=_tree(record),
    )


def _mask_picture(record: ImageRecord, colors: list[Color | None], size: tuple[int, int]) -> Image.Image:
    """size is (width, height). Entry 0 is transparent; each pixel is the mask's at its centre.

    Masks are decoded one after the other, so that a large photo needs the memory of one.
    """
    width, height = size
    rows = ((np.arange(height) + 0.5) * record.height / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * record.width / width).astype(np.intp)
    painted = [place for place, color in enumerate(colors) if color is not None]
    painted = sorted(painted, key=lambda place: -record.segments[place].area)[:MOST_COLORS]
    entries: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
    palette = [(0, 0, 0)]
    for entry, place in enumerate(painted, start=1):
        entries[decode_rle(record.segments[place].rle, record.size)[rows[:, None], columns]] = entry
        palette.append(colors[place] or (0, 0, 0))
    image = Image.fromarray(entries)
    image.putpalette(bytes(np.array(palette, np.uint8)))
    image.info["transparency"] = bytes([0] + [255] * len(painted))
    return image


def _tree(record: ImageRecord) -> str:
    """HTML lines below the photo's own, which the card has already."""
    if not record.history or "nodes" not in record.history:
        return ""
    return "\n".join(map(_tree_line, tree_lines(record)[1:]))


def _tree_line(line: Text) -> Markup:
    parts: list[object] = []
    done = 0
    for span in sorted(line.spans):
        if str(span.style).startswith("#"):
            square = Markup(
                f'<span style="color:{escaped(span.style)}">{escaped(line.plain[span.start : span.end])}</span>'
            )
            parts += [line.plain[done : span.start], square]
            done = span.end
    return joined([*parts, line.plain[done:]])
