"""LabelMe: a JSON per photo, at the photo's relative path, to look at and correct in the LabelMe program.

`imagePath` leads from the JSON to the photo where it lies, or is its URL, so the photos stay where they are. LabelMe
opens files of its own machine alone: for photos at a URL, fetch them and put their names there. Two shapes:

    polygon   a polygon per 4-connected part; parts of one object share a `group_id`, holes are joined by cuts. Corners
              lie on the outermost pixels of the mask, as LabelMe's `shape_to_mask` draws the polygon's line, too, and
              so gets the mask back exactly.
    mask      a box and a PNG of its pixels, for LabelMe 5.3 and later.
"""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from annotator.prediction import decode
from annotator.run import ImageRecord, RunReader
from annotator.spelling import option
from annotator.storage import is_remote
from annotator.wording import are
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of
from exporters.descriptions import about
from exporters.files import Names, json_line, labelled
from exporters.options import PolygonOptions
from exporters.output import OutputFolder, refuse_among_photos
from exporters.pieces import Piece, pieces
from exporters.simplify import Outlines

VERSION = "5.5.0"
"""Of LabelMe, whose files these are like."""


@dataclass(frozen=True)
class LabelmeOptions(PolygonOptions):
    """As everywhere, and polygons or masks."""

    shape: Literal["polygon", "mask"] = field(default="polygon", metadata=about("shape"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.simplify and self.shape == "mask":
            raise ValueError(f"{option('simplify')} is for polygons; leave it out here")


@register("labelme", LabelmeOptions, "LabelMe: a JSON of polygons or masks per photo")
def export(run: RunReader, out: Path, options: LabelmeOptions) -> ExportSummary:
    """Streams the run, a photo at a time."""
    if any(record.path.endswith(".json") for record in run.records(segments=False)):
        refuse_among_photos(run, out)
    classes = classes_of(run, options)
    summary, outlines = ExportSummary(out, notes=[*classes.notes]), Outlines(options.simplify, "pixels")
    names, folder, gone = Names(suffix_bytes=len(".json")), OutputFolder(run, out), 0
    for record in labelled(run, summary):
        found = pieces(record, classes.object_index, options.view)
        target = out / f"{names.stem(record.path)}.json"
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": [
                shape
                for number, piece in enumerate(found)
                for shape in _shapes(piece, number, classes, record, options, outlines)
            ],
            "imagePath": _image_path(run.image_root / record.path, target),
            "imageData": None,
            "imageHeight": record.height,
            "imageWidth": record.width,
        }
        folder.write_text(target, json_line(content) + "\n")
        gone += not is_remote(run.image_root) and not (run.image_root / record.path).exists()
        summary.annotations += len(found)
    if gone:
        summary.notes.append(
            f"{are(gone, 'photo')} no longer in {run.image_root}, where imagePath leads; say where they are now with "
            f"{option('images', 'DIR')}"
        )
    names.note(summary)
    outlines.note(summary)
    return summary


def _image_path(photo: Path, target: Path) -> str:
    return str(photo) if is_remote(photo) else Path(os.path.relpath(photo, target.parent)).as_posix()


def _shapes(
    piece: Piece, number: int, classes: Classes, record: ImageRecord, options: LabelmeOptions, outlines: Outlines
) -> list[dict[str, Any]]:
    """One annotation as LabelMe's shapes: several where its polygons are."""
    common = {
        "label": classes.names[piece.class_index],
        "description": f"score {piece.score}",
        "flags": {},
        "shape_type": options.shape,
    }
    if options.shape == "mask":
        x, y, width, height = piece.bbox
        pixels = decode(piece.rle, record.size)[y : y + height, x : x + width]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        png = base64.b64encode(buffer.getvalue()).decode("ascii")
        return [{**common, "points": [[x, y], [x + width - 1, y + height - 1]], "group_id": None, "mask": png}]
    found = outlines.of(piece.rle, record.size)
    group = number if len(found) > 1 else None
    return [
        {**common, "points": [list(point) for point in zip(part[0::2], part[1::2], strict=True)], "group_id": group}
        | {"mask": None}
        for part in found
    ]
