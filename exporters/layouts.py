"""Where a mask and its photo go, and which line names them, in each trainer's layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from annotator.decode import decode
from annotator.errors import ImageError
from annotator.run import ImageRecord
from exporters.files import json_line, replacing

PHOTO_SUFFIX = ".jpg"
"""Of all photos in a layout, whatever they are: its readers know one suffix, and go by content when decoding."""


def _voc_line(stem: str) -> str | None:
    return stem if len(stem.splitlines()) == 1 and stem == stem.strip() else None


def _hf_line(stem: str) -> str | None:
    return json_line({"file_name": f"images/{stem}{PHOTO_SUFFIX}", "label_file_name": f"labels/{stem}.png"})


@dataclass(frozen=True)
class Layout:
    """Folders and files below the output folder; every photo belongs to the training split.

    photos:      None where the layout has no photos.
    first_value: pixel value of the first class; where it is 1, 0 is a pixel without a label.
    lists:       files that name the photos, one a line.
    line:        what that line says; None for a name that would break such a file.
    not_in_stem: what readers replace wherever a name has it, and not only at its end.
    """

    masks: str
    photos: str | None = None
    first_value: int = 0
    lists: tuple[str, ...] = ()
    line: Callable[[str], str | None] | None = None
    not_in_stem: str | None = None


LAYOUTS = {
    "plain": Layout(masks="."),
    "voc": Layout(
        masks="SegmentationClass",
        photos="JPEGImages",
        lists=("ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/trainval.txt"),
        line=_voc_line,
    ),
    "mmseg": Layout(masks="ann_dir/train", photos="img_dir/train", not_in_stem=PHOTO_SUFFIX),
    "ade": Layout(masks="annotations/training", photos="images/training", first_value=1, not_in_stem=PHOTO_SUFFIX),
    "hf": Layout(masks="train/labels", photos="train/images", lists=("train/metadata.jsonl",), line=_hf_line),
}


def bring_photo(record: ImageRecord, source: Path, target: Path, *, copy: bool) -> bool:
    """Links or copies a photo to where the layout wants it; False where it is no longer there or readable.

    A photo that EXIF turns becomes an upright JPEG copy, as many trainers do not look at EXIF.
    """
    try:
        with replacing(target) as temporary:
            if record.orientation > 1:
                photo = decode(source, max_pixels=record.width * record.height)
                Image.fromarray(photo.pixels).save(temporary, "JPEG", quality=95, subsampling=0)
            elif copy:
                shutil.copyfile(source, temporary)
            else:
                temporary.symlink_to(source.resolve(strict=True))
    except (ImageError, FileNotFoundError):
        return False
    return True
