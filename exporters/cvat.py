"""CVAT for images 1.1: one XML, which CVAT's "Upload annotations" puts onto a task of the same photos.

CVAT finds a photo by `name`, the path relative to the folder of photos. Masks are lossless: run lengths of the
pixels in the mask's box, row by row, beginning with those outside the mask. Polygons are for readers that know no
masks: one per 4-connected part, parts of one object in one `group_id`, holes joined by cuts of no width. A score has
no place in it, as CVAT refuses attributes that the task does not declare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from annotator.prediction import decode
from annotator.run import ImageRecord, RunReader
from annotator.spelling import option
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of
from exporters.descriptions import about
from exporters.files import labelled
from exporters.markup import quoted
from exporters.options import PolygonOptions, SplitOptions
from exporters.output import OutputFolder
from exporters.pieces import Piece, pieces
from exporters.rle import runs_of
from exporters.simplify import Outlines


@dataclass(frozen=True)
class CvatOptions(PolygonOptions, SplitOptions):
    """As everywhere, and masks or polygons."""

    shape: Literal["mask", "polygon"] = field(default="mask", metadata=about("shape"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.simplify and self.shape == "mask":
            raise ValueError(
                f"{option('simplify')} is for polygons; leave it out here, or ask for {option('shape', 'polygon')}"
            )


@register("cvat", CvatOptions, "CVAT for images 1.1: masks or polygons in one XML", suffix=".xml")
def export(run: RunReader, out: Path, options: CvatOptions) -> ExportSummary:
    """Streams the run, a photo at a time."""
    classes = classes_of(run, options)
    summary, outlines = ExportSummary(out, notes=[*classes.notes]), Outlines(options.simplify)
    with OutputFolder(run, out.parent).writing(out) as file:
        file.writelines(_head(classes))
        for number, record in enumerate(labelled(run, summary)):
            file.write(
                f'  <image id="{number}" name="{quoted(record.path)}" '
                f'width="{record.width}" height="{record.height}">\n'
            )
            found = pieces(record, classes.object_index, options.view)
            for group, piece in enumerate(found, start=1):
                label = quoted(classes.names[piece.class_index])
                if options.shape == "mask":
                    file.write(_mask(piece, label, record))
                else:
                    file.writelines(_polygons(piece, label, group, record, outlines))
            file.write("  </image>\n")
            summary.annotations += len(found)
        file.write("</annotations>\n")
    outlines.note(summary)
    return summary


def _head(classes: Classes) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    yield "  <meta>\n    <task>\n      <mode>annotation</mode>\n      <labels>\n"
    for value, index in enumerate(classes.objects, start=1):
        color = "".join(f"{channel:02x}" for channel in classes.color(index, value))
        yield f"        <label><name>{quoted(classes.names[index])}</name><color>#{color}</color>"
        yield "<attributes></attributes></label>\n"
    yield "      </labels>\n    </task>\n  </meta>\n"


def _mask(piece: Piece, label: str, record: ImageRecord) -> str:
    x, y, width, height = piece.bbox
    pixels = decode(piece.rle, record.size)[y : y + height, x : x + width]
    runs = ", ".join(map(str, runs_of(pixels.ravel()).tolist()))
    return (
        f'    <mask label="{label}" source="auto" occluded="0" rle="{runs}" '
        f'left="{x}" top="{y}" width="{width}" height="{height}" z_order="0"></mask>\n'
    )


def _polygons(piece: Piece, label: str, group: int, record: ImageRecord, outlines: Outlines) -> Iterator[str]:
    found = outlines.of(piece.rle, record.size)
    together = f' group_id="{group}"' if len(found) > 1 else ""
    for part in found:
        points = ";".join(f"{x},{y}" for x, y in zip(part[0::2], part[1::2], strict=True))
        yield (
            f'    <polygon label="{label}" source="auto" occluded="0" points="{points}" z_order="0"{together}>'
            "</polygon>\n"
        )
