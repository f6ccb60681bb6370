"""YOLO segmentation, as Ultralytics trains it: a line of polygon corners per object.

    data.yaml                 names, and where the photos of each split are
    images/train/dir/a.jpg
    labels/train/dir/a.txt    `class x y x y ...`, as shares of width and height

A line is one object and one polygon. What the format cannot hold as such is kept within that one path: a hole by a
cut, parts that touch by a corner through that corner; only other parts (without `instances`) by a line of one pixel.
Corners are a quarter pixel within the outermost pixels of the mask, as those programs draw the polygon's line, too
(OpenCV's `fillPoly`), after truncating or rounding: at the photo's own size they get the mask back exactly, which
corners on pixel edges would not give them (IoU .87, .92, .98 for blobs of 300, 1,000, 10,000 pixels). Boxes come out
a pixel narrower and lower. Scores have no place in the format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from annotator.run import ImageRecord, RunReader
from annotator.wording import count
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of
from exporters.descriptions import about
from exporters.files import Names, labelled, refuse_other_splits
from exporters.layouts import PHOTO_SUFFIX, Photos
from exporters.options import SPLITS, PhotoOptions, PolygonOptions, SplitOptions
from exporters.output import OutputFolder, refuse_among_photos
from exporters.pieces import pieces
from exporters.polygons import Polygon
from exporters.simplify import Outlines

DIGITS = 7
"""Of a coordinate: less than a hundredth of a pixel of a photo 30,000 pixels wide."""

UNFINDABLE = r"images/|(?<![^/])\."
"""Labels are found by replacing the last folder called images, and hidden photos are not looked for."""

WITHIN = 0.25
"""Where in a pixel a corner lies, so that truncating and rounding both find the pixel."""


@dataclass(frozen=True)
class YoloOptions(PolygonOptions, SplitOptions, PhotoOptions):
    """As everywhere, but split 0.9/0.1, as Ultralytics does not start without photos to validate on, and
    instances on, as an object is a line."""

    split: str = field(default="0.9/0.1", metadata=about("split"))
    instances: bool = field(default=True, metadata=about("instances"))


@register("yolo-seg", YoloOptions, "YOLO segmentation: data.yaml, images and polygons, split for Ultralytics")
def export(run: RunReader, out: Path, options: YoloOptions) -> ExportSummary:
    """Streams the run, a photo at a time."""
    for kind in ("images", "labels"):
        refuse_among_photos(run, out / kind)
    classes = classes_of(run, options)
    numbers = {index: number for number, index in enumerate(classes.objects)}
    summary, outlines = ExportSummary(out, notes=[*classes.notes]), Outlines(options.simplify, "path")
    folder = OutputFolder(run, out)
    photos = Photos(run, options.photos, folder)
    names = Names(UNFINDABLE)
    counts = dict.fromkeys(SPLITS, 0)
    for record in labelled(run, summary, upright=options.photos != "none"):
        split, stem = options.split_of(record.path), names.stem(record.path)
        label_in = partial(_path, out, "labels", f"{stem}.txt")
        photo_in = partial(_path, out, "images", f"{stem}{PHOTO_SUFFIX}")
        refuse_other_splits(place(other) for other in options.elsewhere(split) for place in (label_in, photo_in))
        if not photos.bring(record, photo_in(split)):
            continue
        lines = [
            _line(numbers[piece.class_index], outlines.of(piece.rle, record.size)[0], record)
            for piece in pieces(record, classes.object_index, options.view)
        ]
        folder.write_text(label_in(split), "".join(lines))
        counts[split] += 1
        summary.annotations += len(lines)
    with folder.writing(out / "data.yaml") as file:
        yaml.safe_dump(_data(classes, counts), file, allow_unicode=True, sort_keys=False)
    if any(counts.values()):
        summary.notes.append(
            ", ".join(f"{split}: {count(number, 'photo')}" for split, number in counts.items() if number)
        )
    if not counts["val"]:
        summary.notes.append("no photo is in val, so data.yaml validates on train")
    for part in (photos, names, outlines):
        part.note(summary)
    return summary


def _path(out: Path, kind: str, name: str, split: str) -> Path:
    return out / kind / split / name


def _line(number: int, polygon: Polygon, record: ImageRecord) -> str:
    sides = (record.width, record.height)
    shares = [f"{(value + WITHIN) / sides[place % 2]:.{DIGITS}f}" for place, value in enumerate(polygon)]
    return f"{number} {' '.join(shares)}\n"


def _data(classes: Classes, counts: dict[str, int]) -> dict[str, Any]:
    """No `path`: then Ultralytics takes the file's own folder."""
    folders = {split: f"images/{split}" for split in SPLITS if counts[split]}
    return {
        "train": "images/train",
        "val": folders.get("val", "images/train"),
        **({"test": folders["test"]} if "test" in folders else {}),
        "names": {number: classes.names[index] for number, index in enumerate(classes.objects)},
    }
