"""Where a mask and its photo go, and which line names them, in each trainer's layout."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from PIL import Image

from annotator.decode import decode, open_regular
from annotator.errors import ConfigError, ImageError
from annotator.jpeg import jpeg_bytes
from annotator.run import ImageRecord, RunReader
from annotator.spelling import option
from annotator.storage import is_remote, read_bytes
from annotator.whereabouts import refuse_all_gone
from annotator.wording import are
from exporters.base import ExportSummary
from exporters.files import json_line
from exporters.options import SPLITS
from exporters.output import OutputFolder

PHOTO_SUFFIX = ".jpg"
"""Of all photos in a layout, whatever they are: its readers know one suffix, and go by content when decoding."""


def voc_line(stem: str) -> str | None:
    """As VOC's lists name a photo; None for a name that would break such a list."""
    return stem if len(stem.splitlines()) == 1 and stem == stem.strip() else None


def _hf_line(stem: str) -> str | None:
    return json_line({"file_name": f"images/{stem}{PHOTO_SUFFIX}", "label_file_name": f"labels/{stem}.png"})


@dataclass(frozen=True)
class Layout:
    """Folders and files below the output folder; {split} stands for the split's name.

    splits:      what the layout calls train, val and test.
    photos:      None where the layout has no photos.
    first_value: pixel value of the first class; where it is 1, 0 is a pixel without a label.
    lists:       files that name the photos, one a line; one without {split} names those of train and val.
    line:        what that line says; None for a name that would break such a file.
    not_in_stem: what readers replace wherever a name has it, and not only at its end; a regular expression.
    """

    masks: str
    photos: str | None = None
    splits: tuple[str, ...] = SPLITS
    first_value: int = 0
    lists: tuple[str, ...] = ()
    line: Callable[[str], str | None] | None = None
    not_in_stem: str | None = None

    def mask(self, out: Path, stem: str, split: str) -> Path:
        return out / self._named(self.masks, split) / f"{stem}.png"

    def photo(self, out: Path, stem: str, split: str) -> Path:
        return out / self._named(self.photos or "", split) / f"{stem}{PHOTO_SUFFIX}"

    def lists_of(self, out: Path, split: str) -> list[Path]:
        """Those that name a photo of that split."""
        return [out / self._named(name, split) for name in self.lists if "{split}" in name or split != "test"]

    def folders(self, out: Path, kind: str) -> set[Path]:
        """Of masks or photos, whatever the split."""
        return {out / self._named(kind, split) for split in SPLITS}

    def _named(self, path: str, split: str) -> str:
        return path.replace("{split}", self.splits[SPLITS.index(split)])


LAYOUTS = {
    "plain": Layout(masks="."),
    "voc": Layout(
        masks="SegmentationClass",
        photos="JPEGImages",
        lists=("ImageSets/Segmentation/{split}.txt", "ImageSets/Segmentation/trainval.txt"),
        line=voc_line,
    ),
    "mmseg": Layout(masks="ann_dir/{split}", photos="img_dir/{split}", not_in_stem=re.escape(PHOTO_SUFFIX)),
    "ade": Layout(
        masks="annotations/{split}",
        photos="images/{split}",
        splits=("training", "validation", "test"),
        first_value=1,
        not_in_stem=re.escape(PHOTO_SUFFIX),
    ),
    "hf": Layout(
        masks="{split}/labels",
        photos="{split}/images",
        splits=("train", "validation", "test"),
        lists=("{split}/metadata.jsonl",),
        line=_hf_line,
    ),
}


def bring_photo(record: ImageRecord, source: Path, folder: OutputFolder, target: Path, *, copy: bool) -> bool:
    """Links or copies a photo to where the layout wants it; False where it is no longer there or readable.

    A photo that EXIF turns becomes an upright JPEG copy, as many trainers do not look at EXIF.
    """
    try:
        if record.orientation > 1:
            photo = decode(source, max_pixels=record.width * record.height)
            with folder.replacing(target) as file:
                file.write(jpeg_bytes(Image.fromarray(photo.pixels), quality=95, subsampling=0))
        elif copy:
            with folder.replacing(target) as file:
                _copy(source, file)
        else:
            folder.link(target, source.resolve(strict=True))
    except (ImageError, FileNotFoundError):
        return False
    return True


def _copy(source: Path, file: IO[bytes]) -> None:
    """From a folder or a store."""
    if is_remote(source):
        file.write(read_bytes(source))
    else:
        with open_regular(source) as photo:
            shutil.copyfileobj(photo, file)


def refuse_no_photos(run: RunReader, photos: str) -> None:
    """Raises where photos are to come along, and there is nothing to link to, or none of them is there."""
    if photos == "link" and is_remote(run.image_root):
        raise ConfigError(
            f"{run.image_root}: expected photos on this machine to link to, but they are at a URL; "
            f"{option('photos', 'copy')} fetches them, {option('photos', 'none')} leaves them out"
        )
    if photos != "none":
        refuse_all_gone(run, f", or leave them out with {option('photos', 'none')}")


class Photos:
    """Brings a run's photos along, as `photos` says, and counts those that are gone."""

    def __init__(self, run: RunReader, how: Literal["link", "copy", "none"], folder: OutputFolder) -> None:
        refuse_no_photos(run, how)
        self._folder = folder
        self._root = run.image_root
        self._how = how
        self._missing = 0

    def bring(self, record: ImageRecord, target: Path) -> bool:
        """False where the photo is gone; then its labels are of no use either."""
        source, copy = self._root / record.path, self._how == "copy"
        if self._how == "none" or bring_photo(record, source, self._folder, target, copy=copy):
            return True
        self._missing += 1
        return False

    def note(self, summary: ExportSummary) -> None:
        if self._missing:
            summary.images -= self._missing
            summary.notes.append(f"{are(self._missing, 'photo')} left out: no longer in {self._root}")
