"""Mask-PNG: one single-channel PNG per photo whose pixel values are class indices.

255 is ignored by trainers and stands where there is no label; of 16-bit PNGs (more than 254 classes) it is
65535. Beside the masks lie `classes.txt` (a name a line), `palette.json` (value: colour) and `id2label.json`
(value: name).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from annotator.errors import ConfigError
from annotator.prediction import NOTHING
from annotator.run import ImageRecord, RunReader
from annotator.spelling import option
from annotator.wording import are, count
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of, voc_color
from exporters.descriptions import about
from exporters.files import Names, json_line, labelled, refuse_other_splits
from exporters.layouts import LAYOUTS, Layout, bring_photo, refuse_no_photos
from exporters.options import CleanOptions, SplitOptions
from exporters.output import OutputFolder, refuse_among_photos
from exporters.pieces import View, piece_map

MOST_8_BIT = 254
MOST_16_BIT = 65534


@dataclass(frozen=True)
class MaskPngOptions(CleanOptions, SplitOptions):
    """preset: plain puts each mask at the photo's relative path; voc (`JPEGImages`, `SegmentationClass`,
            `ImageSets`), mmseg (`img_dir`, `ann_dir`), ade (`images`, `annotations`; 0 = unlabelled, classes
            from 1) and hf (an imagefolder with `metadata.jsonl`) are the layouts of trainers.
    gray:   PNGs of mode 'L' instead of 'P'; the same values without a palette.
    photos: how those layouts get the photos: symbolic links, copies, or not at all (to be put there later).
            They are named .jpg whatever they are, and photos that EXIF turns are always upright JPEG copies.
    """

    preset: Literal["plain", "voc", "mmseg", "ade", "hf"] = field(default="plain", metadata=about("preset"))
    gray: bool = field(default=False, metadata=about("gray"))
    photos: Literal["link", "copy", "none"] = field(default="link", metadata=about("photos"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset == "plain" and self.split:
            raise ValueError(f"{option('preset', 'plain')} has no splits; ask for voc, mmseg, ade or hf")


@register("mask-png", MaskPngOptions, "a PNG of class indices per photo; layouts voc, mmseg, ade, hf")
def export(run: RunReader, out: Path, options: MaskPngOptions) -> ExportSummary:
    """Streams the run, a photo at a time."""
    layout = LAYOUTS[options.preset]
    classes = classes_of(run, options)
    coding = coding_of(classes, layout)
    brings = layout.photos is not None and options.photos != "none"
    if brings:
        refuse_no_photos(run, options.photos)
    kinds = [layout.masks, *([layout.photos] if brings and layout.photos else [])]
    _refuse_sources(run, out, set().union(*(layout.folders(out, kind) for kind in kinds)))
    palette = None if options.gray or coding.dtype is np.uint16 else _palette(classes, coding)

    summary = ExportSummary(out, notes=[*classes.notes])
    names, folder = Names(layout.not_in_stem), OutputFolder(run, out)
    unlisted = missing = 0
    with _lists(folder, out, layout, options) as lists:
        for record in labelled(run, summary, upright=brings):
            split, stem = options.split_of(record.path), names.stem(record.path)
            mask, photo = layout.mask(out, stem, split), layout.photo(out, stem, split)
            if options.preset != "voc":  # whose splits are lists
                refuse_other_splits(layout.mask(out, stem, other) for other in options.elsewhere(split))
            with folder.replacing(mask) as file:
                _image(values_of(record, classes, coding, options.view), palette).save(file, "PNG")
            summary.annotations += len(record.segments)
            source, copy = run.image_root / record.path, options.photos == "copy"
            if brings and not bring_photo(record, source, folder, photo, copy=copy):
                missing += 1
                continue
            if layout.line and (line := layout.line(stem)) is None:
                unlisted += 1
            elif layout.line:
                for name in layout.lists_of(out, split):
                    lists[name].write(f"{line}\n")
    _write_tables(folder, out, classes, coding)

    names.note(summary)
    if missing:
        summary.notes.append(f"{count(missing, 'photo')} could not be brought along: no longer in {run.image_root}")
    if unlisted:
        summary.notes.append(f"{are(unlisted, 'photo')} in no list: the name holds line breaks or outer blanks")
    if coding.dtype is np.uint16:
        summary.notes.append(f"more than {MOST_8_BIT} classes: the PNGs are 16-bit gray, and 65535 is ignored")
    return summary


@dataclass(frozen=True)
class Coding:
    """How classes become pixel values."""

    dtype: type[np.unsignedinteger]
    first: int
    nothing: int


def coding_of(classes: Classes, layout: Layout) -> Coding:
    if len(classes) > MOST_16_BIT:
        raise ConfigError(
            f"expected at most {MOST_16_BIT:,} classes for PNGs, but found {len(classes):,}; export to coco instead"
        )
    dtype: type[np.unsignedinteger] = np.uint8 if len(classes) <= MOST_8_BIT else np.uint16
    nothing = 0 if layout.first_value else int(np.iinfo(dtype).max)
    return Coding(dtype, layout.first_value, nothing)


def values_of(record: ImageRecord, classes: Classes, coding: Coding, view: View) -> NDArray[np.unsignedinteger]:
    """H x W pixel values of a photo's mask, cleaned up as the view asks; the background is a class like any other."""
    if view == View():
        numbers, indices = record.prediction().label_map, [classes.index(segment) for segment in record.segments]
    else:
        cleaned = piece_map(record, classes.index, view)
        numbers, indices = cleaned.numbers, [*cleaned.class_indices]
    indices.append(NOTHING)  # which -1 in `numbers` picks
    values = [coding.nothing if index == NOTHING else coding.first + index for index in indices]
    return np.array(values, dtype=coding.dtype)[numbers]


def _image(values: NDArray[np.unsignedinteger], palette: bytes | None) -> Image.Image:
    image = Image.fromarray(values)
    if palette:
        image.putpalette(palette)
    return image


def _palette(classes: Classes, coding: Coding) -> bytes:
    """VOC's 256 colours, with the vocabulary's own colours put over them."""
    colors = [voc_color(value) for value in range(256)]
    for index in range(len(classes)):
        colors[coding.first + index] = classes.color(index, coding.first + index)
    return bytes(channel for color in colors for channel in color)


@contextmanager
def _lists(folder: OutputFolder, out: Path, layout: Layout, options: MaskPngOptions) -> Iterator[dict[Path, IO[str]]]:
    """The layout's lists, open for writing."""
    refuse_other_splits(path for split in options.unused for path in layout.lists_of(out, split))
    wanted = {path for split in options.splits for path in layout.lists_of(out, split)}
    with ExitStack() as stack:
        yield {path: stack.enter_context(folder.writing(path)) for path in wanted}


def _write_tables(folder: OutputFolder, out: Path, classes: Classes, coding: Coding) -> None:
    values = range(coding.first, coding.first + len(classes))
    colors = {value: classes.color(index, value) for index, value in enumerate(values)}
    with folder.writing(out / "classes.txt") as file:
        file.writelines(" ".join(name.splitlines()) + "\n" for name in classes.names)
    with folder.writing(out / "palette.json") as file:
        file.write(json_line({**colors, coding.nothing: voc_color(coding.nothing)}) + "\n")
    with folder.writing(out / "id2label.json") as file:
        file.write(json_line(dict(zip(values, classes.names, strict=True))) + "\n")


def _refuse_sources(run: RunReader, out: Path, folders: set[Path]) -> None:
    """Raises where a photo or the vocabulary would be written over."""
    for folder in sorted(folders):
        refuse_among_photos(run, folder)
    written = out / "classes.txt"
    if run.vocabulary and written.exists() and os.path.realpath(run.vocabulary.source) == str(written.resolve()):
        raise ConfigError(
            f"{written} is the run's own vocabulary, and would be overwritten; choose another {option('out')}"
        )
