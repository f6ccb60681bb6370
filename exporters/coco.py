"""COCO JSON: masks as polygons or run lengths, and COCO's panoptic and stuff variants.

    {"info": ..., "licenses": [], "categories": [...], "images": [...], "annotations": [...]}

A category's id is the class's index + 1 in every variant. The background is no category of `instances` and
`panoptic` (detectors have their own, panoptic's void has id 0), but one of `stuff`. Ids of images and
annotations count from 1 in path order. `iscrowd` is always 0, as trainers drop crowds.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from annotator.files import refuse_leading_out
from annotator.prediction import NOTHING, Segment
from annotator.run import ImageRecord, RunReader
from annotator.run_lengths import run_lengths
from annotator.spelling import option
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of
from exporters.descriptions import about
from exporters.files import Names, json_line, labelled, list_writer
from exporters.options import PolygonOptions, SplitOptions
from exporters.output import OutputFolder, refuse_among_photos
from exporters.pieces import IndexOf, Piece, piece_map, pieces
from exporters.simplify import Outlines

Segmentation = Literal["polygon", "rle", "rle-uncompressed"]
Write = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class CocoOptions(PolygonOptions, SplitOptions):
    """segmentation: polygon follows pixel edges and is exact; rle is COCO's compressed string; rle-uncompressed
                  is for loaders that call `frPyObjects`. `stuff` knows run lengths only: polygon means rle there.
    variant:      instances is the ordinary form; panoptic writes a folder of PNGs, named as the JSON, beside it;
                  stuff has one mask per class and photo, the background's too.
    instances:    as everywhere; with it panoptic's classes are things, else stuff.
    strict:       no `score`, which COCO does not define.
    """

    segmentation: Segmentation = field(default="polygon", metadata=about("segmentation"))
    variant: Literal["instances", "panoptic", "stuff"] = field(default="instances", metadata=about("variant"))
    strict: bool = field(default=False, metadata=about("strict"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "stuff" and self.instances:
            raise ValueError(
                f"{option('variant', 'stuff')} has one mask per class and photo; leave out {option('instances')}"
            )
        if self.simplify and (self.variant, self.segmentation) != ("instances", "polygon"):
            raise ValueError(f"{option('simplify')} is for polygons; leave it out here")


@register("coco", CocoOptions, "COCO JSON: polygons or run lengths; panoptic; stuff", suffix=".json")
def export(run: RunReader, out: Path, options: CocoOptions) -> ExportSummary:
    """Streams the run into one JSON; needs disk, not memory, for all photos."""
    classes = classes_of(run, options)
    summary = ExportSummary(out, notes=[*classes.notes])
    if options.variant == "panoptic":
        folder = out.with_suffix("")
        refuse_leading_out(folder, out.parent)
        refuse_among_photos(run, folder)
        folder.mkdir(exist_ok=True)
        summary.files.append(folder)
    left_out = None if options.variant == "stuff" else classes.background

    def index_of(segment: Segment) -> int:
        index = classes.index(segment)
        return NOTHING if index == left_out else index

    head = {"info": _info(run), "licenses": [], "categories": _categories(classes, left_out, options)}
    with _document(run, out, head) as (add_image, add_annotation):
        photos = _with_images(labelled(run, summary), add_image)
        if options.variant == "panoptic":
            masks = OutputFolder(run, out.with_suffix(""))
            _write_panoptic(photos, index_of, options, summary, masks, add_annotation)
        else:
            _write_masks(photos, index_of, options, summary, add_annotation)
    return summary


def _with_images(records: Iterator[ImageRecord], add_image: Write) -> Iterator[tuple[int, ImageRecord]]:
    """Numbers the photos and lists each in the JSON."""
    for number, record in enumerate(records, start=1):
        add_image({"id": number, "width": record.width, "height": record.height, "file_name": record.path})
        yield number, record


def _write_masks(
    photos: Iterator[tuple[int, ImageRecord]],
    index_of: IndexOf,
    options: CocoOptions,
    summary: ExportSummary,
    add_annotation: Write,
) -> None:
    outlines = Outlines(options.simplify)
    for image_id, record in photos:
        for piece in pieces(record, index_of, options.view):
            summary.annotations += 1
            add_annotation(
                {
                    "id": summary.annotations,
                    "image_id": image_id,
                    "category_id": piece.class_index + 1,
                    "segmentation": _segmentation(piece.rle, record.size, options, outlines),
                    **_measures(piece, options),
                }
            )
    outlines.note(summary)


def _write_panoptic(
    photos: Iterator[tuple[int, ImageRecord]],
    index_of: IndexOf,
    options: CocoOptions,
    summary: ExportSummary,
    masks: OutputFolder,
    add_annotation: Write,
) -> None:
    """Segments of a photo are numbered from 1; 0 is void."""
    folder = summary.out.with_suffix("")
    names = Names()
    for image_id, record in photos:
        found = piece_map(record, index_of, options.view)
        by_number = found.pieces()
        file_name = f"{names.stem(record.path)}.png"
        with masks.replacing(folder / file_name) as file:
            Image.fromarray(_as_rgb(found.numbers + 1)).save(file, "PNG")
        segments = [
            {"id": number + 1, "category_id": piece.class_index + 1, **_measures(piece, options)}
            for number, piece in by_number.items()
        ]
        summary.annotations += len(segments)
        add_annotation({"image_id": image_id, "file_name": file_name, "segments_info": segments})
    names.note(summary)


def _measures(piece: Piece, options: CocoOptions) -> dict[str, Any]:
    measures: dict[str, Any] = {"area": piece.area, "bbox": piece.bbox, "iscrowd": 0}
    return measures if options.strict else {**measures, "score": piece.score}


def _segmentation(rle: bytes, size: tuple[int, int], options: CocoOptions, outlines: Outlines) -> Any:
    if options.segmentation == "rle-uncompressed":
        return {"size": size, "counts": run_lengths(rle).tolist()}
    if options.segmentation == "rle" or options.variant == "stuff":
        return {"size": size, "counts": rle.decode("ascii")}
    return outlines.of(rle, size)


def _as_rgb(ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """H x W ids -> H x W x 3 with id = red + 256 green + 65536 blue."""
    return ids.astype("<u4")[..., None].view(np.uint8)[..., :3]


def _info(run: RunReader) -> dict[str, str]:
    """No date: the same run gives the same bytes."""
    return {
        "description": f"Masks by the labeler {run.manifest.labeler}",
        "version": run.manifest.tool_version,
        "contributor": f"annotate {run.manifest.tool_version}",
    }


def _categories(classes: Classes, left_out: int | None, options: CocoOptions) -> list[dict[str, Any]]:
    panoptic = options.variant == "panoptic"
    return [
        {
            "id": index + 1,
            "name": name,
            "supercategory": "background" if index == classes.background else "object",
            **({"isthing": int(options.instances), "color": classes.color(index, index + 1)} if panoptic else {}),
        }
        for index, name in enumerate(classes.names)
        if index != left_out
    ]


@contextmanager
def _document(run: RunReader, out: Path, head: dict[str, Any]) -> Iterator[tuple[Write, Write]]:
    """Writers for images and annotations; the latter wait in a nameless file until the images are written."""
    writing = OutputFolder(run, out.parent).writing(out)
    with writing as file, tempfile.TemporaryFile("w+", encoding="ascii", dir=out.parent) as waiting:
        file.write(json_line(head)[:-1] + ',\n"images":[')
        yield list_writer(file.write), list_writer(waiting.write)
        waiting.seek(0)
        file.write('\n],\n"annotations":[')
        shutil.copyfileobj(waiting, file)
        file.write("\n]}\n")
