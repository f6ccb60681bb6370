"""Datumaro: a JSON per split with every mask as COCO's run lengths; lossless, scores and all.

    annotations/train.json    {"dm_format_version", "media_type", "categories", "items": [...]}
    images/train/dir/a.jpg

An item's id is the photo's relative path without its extension.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from annotator.run import ImageRecord, RunReader
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of
from exporters.descriptions import about
from exporters.files import Names, json_line, labelled, list_writer, refuse_other_splits
from exporters.layouts import PHOTO_SUFFIX, Photos
from exporters.options import PhotoOptions, PieceOptions, SplitOptions
from exporters.output import OutputFolder, refuse_among_photos
from exporters.pieces import pieces

FORMAT_VERSION = "1.0"
IMAGE_MEDIA = 2
LIKE_A_WAY_OUT = r"\\|(?<=\A[A-Za-z]):|(?<![^/])\.\.[. ]*(?![^/])"
"""Datumaro takes backslashes for slashes, and refuses drives and parent folders, or what would be one on Windows."""


@dataclass(frozen=True)
class DatumaroOptions(PieceOptions, SplitOptions, PhotoOptions):
    """As everywhere, but photos are copied: Datumaro refuses links that lead out of the dataset."""

    photos: Literal["link", "copy", "none"] = field(default="copy", metadata=about("photos"))


@register("datumaro", DatumaroOptions, "Datumaro: masks as run lengths in a JSON per split")
def export(run: RunReader, out: Path, options: DatumaroOptions) -> ExportSummary:
    """Streams the run, a photo at a time."""
    refuse_among_photos(run, out / "images")
    classes = classes_of(run, options)
    numbers = {index: number for number, index in enumerate(classes.objects)}
    summary, names, folder = ExportSummary(out, notes=[*classes.notes]), Names(LIKE_A_WAY_OUT), OutputFolder(run, out)
    photos = Photos(run, options.photos, folder)
    annotations = out / "annotations"
    refuse_other_splits(annotations / f"{split}.json" for split in options.unused)
    with ExitStack() as stack:
        files = {split: stack.enter_context(folder.writing(annotations / f"{split}.json")) for split in options.splits}
        for file in files.values():
            file.write(json_line(_head(run, classes, numbers))[:-1] + ',\n"items":[')
        adding = {split: list_writer(file.write) for split, file in files.items()}
        for record in labelled(run, summary, upright=options.photos != "none"):
            split, stem = options.split_of(record.path), names.stem(record.path)
            photo_in = partial(_photo, out, stem)
            refuse_other_splits(map(photo_in, options.elsewhere(split)))
            if not photos.bring(record, photo_in(split)):
                continue
            item = _item(record, stem, classes, numbers, options)
            adding[split](item)
            summary.annotations += len(item["annotations"])
        for file in files.values():
            file.write("\n]}\n")
    photos.note(summary)
    names.note(summary)
    return summary


def _photo(out: Path, stem: str, split: str) -> Path:
    return out / "images" / split / f"{stem}{PHOTO_SUFFIX}"


def _head(run: RunReader, classes: Classes, numbers: dict[int, int]) -> dict[str, Any]:
    colors = {number: classes.color(index, index + 1) for index, number in numbers.items()}
    return {
        "dm_format_version": FORMAT_VERSION,
        "media_type": IMAGE_MEDIA,
        "infos": {"labeler": run.manifest.labeler, "tool": f"annotate {run.manifest.tool_version}"},
        "categories": {
            "label": {
                "labels": [{"name": classes.names[index], "parent": "", "attributes": []} for index in numbers],
                "label_groups": [],
                "attributes": ["score"],
            },
            "mask": {
                "colormap": [
                    {"label_id": number, "r": red, "g": green, "b": blue}
                    for number, (red, green, blue) in colors.items()
                ]
            },
        },
    }


def _item(
    record: ImageRecord, stem: str, classes: Classes, numbers: dict[int, int], options: DatumaroOptions
) -> dict[str, Any]:
    return {
        "id": stem,
        "attr": {"path": record.path},
        "image": {"path": f"{stem}{PHOTO_SUFFIX}", "size": record.size},
        "annotations": [
            {
                "id": number,
                "type": "mask",
                "attributes": {"score": piece.score},
                "group": number,
                "label_id": numbers[piece.class_index],
                "rle": {"counts": piece.rle.decode("ascii"), "size": record.size},
                "z_order": 0,
            }
            for number, piece in enumerate(pieces(record, classes.object_index, options.view), start=1)
        ],
    }
