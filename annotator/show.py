"""One photo of a run, for people: how its segments came about, and a picture of them with their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.text import Text

from annotator.errors import RunError
from annotator.fonts import Font, fitted, font_for
from annotator.photo_changes import Changed, unchanged
from annotator.prediction import NOTHING, LabelMap, Mask
from annotator.record import ROW, ImageRecord, from_row
from annotator.run import RunReader, part_files, read_columns
from annotator.vocabulary import Color
from annotator.wording import count
from exporters.classes import voc_color

SIDE = 960
FONT, PAD = 16, 4
OPACITY = 0.4
SEARCH_SIDE = 240  # places for captions are looked for on a mask of this size
PAPER, INK = (255, 255, 255), (38, 43, 51)

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def find_record(run: RunReader, photo: str) -> ImageRecord:
    """The row of a photo, whose path may be given from the image root, from further up, or by its end alone."""
    rows = [
        (path, part, row)
        for part in part_files(run.directory)
        for row, path in enumerate(read_columns(part, ["path"])["path"].to_pylist())
        if _is_end(path, of=photo) or _is_end(photo, of=path)
    ]
    whole = [found for found in rows if _is_end(found[0], of=photo)]
    chosen = [max(whole, key=lambda found: len(found[0]))] if whole else rows
    if len(chosen) != 1:
        names = ", ".join(path for path, *_ in sorted(chosen)[:2]) or "none"
        raise RunError(f"{run.directory}: expected one photo that is {photo!r}, but found {names}; give its whole path")
    _, part, row = chosen[0]
    record = from_row(read_columns(part, ROW.names).slice(row, 1).to_pylist()[0])
    changed = Changed()
    if next(unchanged(run, changed, [record]), None) is None:
        raise RunError(f"{run.directory}: {changed.notes()[0]}")
    return record


def _is_end(end: str, *, of: str) -> bool:
    return of == end or of.endswith(f"/{end}")


def tree_lines(record: ImageRecord) -> list[Text]:
    """The merge tree from its root on: captions, shares of the photo, and why siblings were joined or left apart.

    The result's segments have a square in the colour that `draw` gives them. Without a history, they are all.
    """
    head = f"{record.path}  {record.width} x {record.height}"
    if record.status == "failed":
        return [Text(f"{head}  failed: {record.error}")]
    if record.history is None:
        marks = [
            Text.assemble(_square(index), f" {segment.label}  {_share(segment.area, record)}  {segment.score:.2f}")
            for index, segment in enumerate(record.segments)
        ]
        return [Text(f"{head}  {count(len(record.segments), 'segment')}"), *marks]
    nodes = record.history["nodes"]
    leaves = sum(node["children"] is None for node in nodes)
    joined = f"joined at {record.history['threshold']:g} and above"
    lines = [Text(f"{head}  {count(len(record.segments), 'segment')} of {leaves}, {joined}")]
    waiting = [(len(nodes) - 1, "", "")]  # node, what stands before it, what stands before those below it
    while waiting:
        index, before, below = waiting.pop()
        node = nodes[index]
        lines.append(Text.assemble(before, Text("  ").join(_node(node, record))))
        for child, corner, line in zip(reversed(node["children"] or ()), ("└─ ", "├─ "), ("   ", "│  "), strict=False):
            waiting.append((child, below + corner, below + line))
    return lines


def _node(node: Mapping[str, Any], record: ImageRecord) -> list[Text]:
    """What its line says, in columns."""
    parts = []
    if node["caption"] is not None and node["label"] is not None:
        parts.append(Text.assemble(_square(node["label"]), " ", (node["caption"], "bold")))
    elif node["caption"] is not None:
        parts.append(Text(node["caption"]))
    if node["caption"] is not None:
        parts.append(Text(_share(node["area"], record)))
    if node["score"] is not None:
        captions = "" if node["captions"] is None else f", captions {node['captions']:.2f}"
        verdict = "joined" if node["merged"] else "apart"
        parts.append(Text(f"{verdict} at {node['score']:.2f} (segments {node['segments']:.2f}{captions})"))
    elif node["children"] is not None:
        parts.append(Text("apart"))
    return parts


def _square(label: int) -> Text:
    return Text("■", style="#{:02x}{:02x}{:02x}".format(*voc_color(label + 1)))


def _share(area: int, record: ImageRecord) -> str:
    return f"{area / (record.width * record.height):.1%}"


def draw(record: ImageRecord, photo: NDArray[np.uint8]) -> Image.Image:
    """The photo (H x W x 3, any scale of it) with every segment in colour, outlined, and its caption on it."""
    scale = SIDE / max(record.size)
    size = max(round(record.width * scale), 1), max(round(record.height * scale), 1)
    pixels = np.asarray(Image.fromarray(photo).convert("RGB").resize(size, Image.Resampling.LANCZOS))
    labels = np.asarray(Image.fromarray(record.prediction().label_map).resize(size, Image.Resampling.NEAREST))
    colors = [voc_color(index + 1) for index in range(len(record.segments))]
    palette = np.array([*colors, PAPER], dtype=np.uint8)  # -1, nothing, picks the last
    blend = (pixels * (1 - OPACITY) + palette[labels] * OPACITY).astype(np.uint8)
    drawn = np.where((labels != NOTHING)[..., None], blend, pixels)
    drawn[_borders(labels)] = PAPER
    image = Image.fromarray(drawn)
    _write_captions(image, labels, [segment.label for segment in record.segments], colors)
    return image


def _borders(labels: LabelMap) -> Mask:
    """Pixels whose right or lower neighbour has another label."""
    borders = np.zeros(labels.shape, dtype=np.bool_)
    borders[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    borders[:-1] |= labels[1:] != labels[:-1]
    return borders


def _write_captions(image: Image.Image, labels: LabelMap, names: Sequence[str], colors: Sequence[Color]) -> None:
    """Each on a plate framed in its colour, where its segment is widest; the largest first, the others give way."""
    font = font_for(names, FONT)
    pen = ImageDraw.Draw(image)
    taken: list[Box] = []
    areas = np.bincount(labels[labels != NOTHING], minlength=len(names))
    for index in np.argsort(-areas, kind="stable").tolist():
        if areas[index]:
            text = fitted(names[index], index, font, max(image.width // 3, 6 * FONT))
            box = _free_place(_size_of(text, font), _widest_place(labels == index), image.size, taken)
            taken.append(box)
            pen.rectangle(box, PAPER, colors[index], width=2)
            pen.text((box[0] + PAD, (box[1] + box[3]) / 2), text, INK, font, anchor="lm")


def _size_of(text: str, font: Font) -> tuple[float, float]:
    """Of the plate: (width, height)."""
    return font.getlength(text) + 2 * PAD, FONT + 2 * PAD


def _widest_place(mask: Mask) -> tuple[float, float]:
    """(x, y) of the pixel farthest from the mask's border."""
    from scipy.ndimage import distance_transform_edt

    step = max(max(mask.shape) // SEARCH_SIDE, 1)
    coarse = mask[::step, ::step]
    if not coarse.any():
        y, x = np.argwhere(mask)[0]
        return float(x), float(y)
    depth = distance_transform_edt(np.pad(coarse, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x) * step, float(y) * step


def _free_place(
    plate: tuple[float, float], centre: tuple[float, float], size: tuple[int, int], taken: Sequence[Box]
) -> Box:
    """The plate over the centre, inside the image, moved up or down to where it covers no other, if it can be."""
    width, height = plate
    left = min(max(centre[0] - width / 2, 0), max(size[0] - width, 0))
    first = min(max(centre[1] - height / 2, 0), max(size[1] - height, 0))
    tops = np.arange(0, max(size[1] - height, 0) + 1, max(height // 4, 1))
    for top in [first, *sorted(tops.tolist(), key=lambda top: abs(top - first))]:
        box = (left, top, left + width, top + height)
        if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            return box
    return left, first, left + width, first + height
