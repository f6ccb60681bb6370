"""Pascal VOC, whole: boxes, masks of classes and masks of objects.

    Annotations/a.xml           a box per object: pixels counted from 1, both ends included
    SegmentationClass/a.png     0 = background, classes from 1, 255 = no label
    SegmentationObject/a.png    0 = background, objects from 1 in the order of the XML, 255 = no label
    ImageSets/Main, ImageSets/Segmentation    train.txt, trainval.txt, and val.txt, test.txt
    JPEGImages/a.jpg
    labelmap.txt                `name:r,g,b::` per class, as CVAT and Datumaro want it

Objects are the connected parts of each class. Cleaning up treats the background as a class, too: its small parts get
255, and holes that it encloses get 0. The format holds 254 objects per photo and 254 classes; of more
objects the smallest are left out. `mask-png --preset voc` writes the class masks alone.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from annotator.errors import ConfigError
from annotator.run import ImageRecord, RunReader
from annotator.spelling import option
from annotator.wording import are
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of, voc_color
from exporters.descriptions import about
from exporters.files import Names, labelled, refuse_other_splits
from exporters.layouts import PHOTO_SUFFIX, Photos, voc_line
from exporters.markup import quoted
from exporters.options import PhotoOptions, PieceOptions, SplitOptions
from exporters.output import OutputFolder, refuse_among_photos
from exporters.pieces import Piece, piece_map

MOST = 254
VOID = 255
FOLDERS = ("Annotations", "SegmentationClass", "SegmentationObject", "JPEGImages")


@dataclass(frozen=True)
class VocOptions(PieceOptions, SplitOptions, PhotoOptions):
    """As everywhere, but instances on, as boxes are round objects."""

    instances: bool = field(default=True, metadata=about("instances"))


@register("voc", VocOptions, "Pascal VOC: boxes in XML, class and object masks, lists per split")
def export(run: RunReader, out: Path, options: VocOptions) -> ExportSummary:
    """Streams the run, a photo at a time."""
    for name in FOLDERS:
        refuse_among_photos(run, out / name)
    classes = classes_of(run, options)
    if len(classes.objects) > MOST:
        raise ConfigError(
            f"expected at most {MOST} classes for VOC, but found {len(classes.objects):,}; export to coco instead"
        )
    values = {index: value for value, index in enumerate(classes.objects, start=1)}
    palettes = {"SegmentationClass": _palette(classes, values), "SegmentationObject": _palette(classes, {})}
    summary, names, folder = ExportSummary(out, notes=[*classes.notes]), Names(), OutputFolder(run, out)
    photos = Photos(run, options.photos, folder)
    unlisted = dropped = 0
    with ExitStack() as stack:
        lists = _lists(folder, out, stack, options)
        for record in labelled(run, summary, upright=options.photos != "none"):
            stem = names.stem(record.path)
            if not photos.bring(record, out / "JPEGImages" / f"{stem}{PHOTO_SUFFIX}"):
                continue
            objects, class_values, object_values = _masks(record, classes, values, options)
            dropped += max(len(objects) - MOST, 0)
            objects = objects[:MOST]
            folder.write_text(out / "Annotations" / f"{stem}.xml", _xml(record, stem, objects, classes))
            for name, pixels in (("SegmentationClass", class_values), ("SegmentationObject", object_values)):
                image = Image.fromarray(pixels)
                image.putpalette(palettes[name])
                with folder.replacing(out / name / f"{stem}.png") as mask:
                    image.save(mask, "PNG")
            summary.annotations += len(objects)
            line = voc_line(stem)
            unlisted += line is None
            split = options.split_of(record.path)
            for listed in (split, "trainval") if split != "test" else (split,):
                for file in lists[listed] if line else ():
                    file.write(f"{line}\n")
    with folder.writing(out / "labelmap.txt") as file:
        file.write(_label_map(classes, values))
    if dropped:
        summary.notes.append(
            f"{are(dropped, 'object')} left out, as VOC holds {MOST} per photo; raise {option('min_area')}"
        )
    if unlisted:
        summary.notes.append(f"{are(unlisted, 'photo')} in no list: the name holds line breaks or outer blanks")
    photos.note(summary)
    names.note(summary)
    return summary


def _lists(folder: OutputFolder, out: Path, stack: ExitStack, options: VocOptions) -> dict[str, list[IO[str]]]:
    """The files that name the photos of each split, open for writing."""
    kinds = [out / "ImageSets" / kind for kind in ("Main", "Segmentation")]
    refuse_other_splits(kind / f"{split}.txt" for split in options.unused for kind in kinds)
    return {
        name: [stack.enter_context(folder.writing(kind / f"{name}.txt")) for kind in kinds]
        for name in (*options.splits, "trainval")
    }


def _masks(
    record: ImageRecord, classes: Classes, values: dict[int, int], options: VocOptions
) -> tuple[list[Piece], NDArray[np.uint8], NDArray[np.uint8]]:
    """All objects, and the pixels of the class and the object mask, which hold the first of them: the largest where
    there are too many, else by class and in reading order."""
    found = piece_map(record, classes.index, options.view)
    by_number = found.pieces()
    order = [number for number, piece in by_number.items() if piece.class_index != classes.background]
    if len(order) > MOST:
        order.sort(key=lambda number: -by_number[number].area)
    values_of = [0 if index == classes.background else VOID for index in found.class_indices]
    class_of = np.array([*values_of, VOID], dtype=np.uint8)  # the last one for -1, nothing
    object_of = class_of.copy()
    for place, number in enumerate(order[:MOST], start=1):
        class_of[number], object_of[number] = values[by_number[number].class_index], place
    return [by_number[number] for number in order], class_of[found.numbers], object_of[found.numbers]


def _xml(record: ImageRecord, stem: str, objects: list[Piece], classes: Classes) -> str:
    lines = [
        "<annotation>",
        "  <folder>JPEGImages</folder>",
        f"  <filename>{quoted(stem + PHOTO_SUFFIX)}</filename>",
        f"  <path>{quoted(record.path)}</path>",
        f"  <size><width>{record.width}</width><height>{record.height}</height><depth>3</depth></size>",
        "  <segmented>1</segmented>",
    ]
    for piece in objects:
        x, y, width, height = piece.bbox
        truncated = x == 0 or y == 0 or x + width == record.width or y + height == record.height
        lines += [
            "  <object>",
            f"    <name>{quoted(classes.names[piece.class_index])}</name>",
            f"    <pose>Unspecified</pose><truncated>{int(truncated)}</truncated><difficult>0</difficult>",
            f"    <bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox>",
            f"    <score>{piece.score}</score>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>\n"])


def _palette(classes: Classes, values: dict[int, int]) -> bytes:
    """VOC's 256 colours, with the vocabulary's own put over them."""
    colors = [voc_color(value) for value in range(256)]
    for index, value in values.items():
        colors[value] = classes.color(index, value)
    return bytes(channel for color in colors for channel in color)


def _label_map(classes: Classes, values: dict[int, int]) -> str:
    """A colon would end a name, so it becomes a blank, as line breaks do."""
    rows = [("background", voc_color(0)), *((classes.names[i], classes.color(i, value)) for i, value in values.items())]
    lines = [f"{' '.join(name.replace(':', ' ').split())}:{','.join(map(str, color))}::\n" for name, color in rows]
    return "# label:color_rgb:parts:actions\n" + "".join(lines)
