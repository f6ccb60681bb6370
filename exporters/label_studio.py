"""Label Studio: predictions as brush masks, in its own run lengths, to import and correct.

    [{"data": {"image": URL}, "predictions": [{"model_version", "result": [brush mask, ...]}]}, ...]

Beside `tasks.json` lies `tasks.config.xml`, the labelling interface that these tasks are for. A photo's URL is
`prefix` and its path, percent-encoded; the default prefix is that of local files, whose document root must be the
folder of photos.

Brush masks are packed as thi.ng/rle-pack does it: 32 bits count of values, 5 bits width of a value - 1, four times
4 bits width of a length - 1; then per block one bit that says it is a run, 2 bits for which width its length has,
the length - 1, and the value. The values are the photo's pixels row by row, as red, green, blue and alpha, 255 in
the mask and 0 elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from annotator.prediction import Mask, decode
from annotator.run import ImageRecord, RunReader
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of
from exporters.descriptions import about
from exporters.files import labelled, list_writer
from exporters.markup import quoted
from exporters.options import PieceOptions, SplitOptions
from exporters.output import OutputFolder
from exporters.pieces import Piece, pieces
from exporters.rle import runs_of

CHANNELS = 4
VALUE_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
FROM_NAME, TO_NAME = "label", "image"


@dataclass(frozen=True)
class LabelStudioOptions(PieceOptions, SplitOptions):
    """As everywhere, and how a photo's URL begins."""

    prefix: str = field(default="/data/local-files/?d=", metadata=about("prefix"))


@register("label-studio", LabelStudioOptions, "Label Studio: predictions as brush masks", suffix=".json")
def export(run: RunReader, out: Path, options: LabelStudioOptions) -> ExportSummary:
    """Streams the run, a photo at a time."""
    classes = classes_of(run, options)
    interface = out.with_suffix(".config.xml")
    summary = ExportSummary(out, notes=[*classes.notes], files=[out, interface])
    version = f"annotate {run.manifest.tool_version} {run.manifest.labeler}"
    folder = OutputFolder(run, out.parent)
    with folder.writing(out) as file:
        file.write("[")
        add = list_writer(file.write)
        for record in labelled(run, summary):
            found = pieces(record, classes.object_index, options.view)
            results = [_result(number, piece, classes, record) for number, piece in enumerate(found, start=1)]
            add(
                {
                    "data": {TO_NAME: options.prefix + quote(record.path)},
                    "predictions": [{"model_version": version, "score": _mean_score(found), "result": results}],
                }
            )
            summary.annotations += len(found)
        file.write("\n]\n")
    with folder.writing(interface) as file:
        file.write(_interface(classes))
    return summary


def brush_rle(mask: Mask) -> bytes:
    """H x W mask -> Label Studio's packed run lengths."""
    lengths = runs_of(mask.ravel()) * CHANNELS
    head = f"{mask.size * CHANNELS:032b}{VALUE_BITS - 1:05b}{''.join(f'{bits - 1:04b}' for bits in LENGTH_BITS)}"
    blocks = [head]
    most = 2 ** LENGTH_BITS[-1]
    for place, length in enumerate(lengths.tolist()):
        value = "1" * VALUE_BITS if place % 2 else "0" * VALUE_BITS
        while length:
            now = min(length, most)
            choice = next(choice for choice, bits in enumerate(LENGTH_BITS) if now <= 2**bits)
            blocks.append(f"1{choice:02b}{now - 1:0{LENGTH_BITS[choice]}b}{value}")
            length -= now
    bits: NDArray[np.uint8] = np.frombuffer("".join(blocks).encode("ascii"), dtype=np.uint8) - ord("0")
    return np.packbits(bits).tobytes()


def _result(number: int, piece: Piece, classes: Classes, record: ImageRecord) -> dict[str, Any]:
    return {
        "id": str(number),
        "type": "brushlabels",
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "original_width": record.width,
        "original_height": record.height,
        "image_rotation": 0,
        "score": piece.score,
        "value": {
            "format": "rle",
            "rle": list(brush_rle(decode(piece.rle, record.size))),
            "brushlabels": [classes.names[piece.class_index]],
        },
    }


def _mean_score(found: list[Piece]) -> float:
    """Over pixels; 0 of no mask at all, so that sorting by score brings such photos up."""
    area = sum(piece.area for piece in found)
    return round(sum(piece.score * piece.area for piece in found) / area, 4) if area else 0.0


def _interface(classes: Classes) -> str:
    labels = [
        f'    <Label value="{quoted(classes.names[index])}" '
        f'background="#{"".join(f"{channel:02x}" for channel in classes.color(index, value))}"/>\n'
        for value, index in enumerate(classes.objects, start=1)
    ]
    return (
        f'<View>\n  <Image name="{TO_NAME}" value="${TO_NAME}" zoom="true"/>\n'
        f'  <BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">\n{"".join(labels)}  </BrushLabels>\n</View>\n'
    )
