"""Where a mask and its photo go, and which line names them, in each trainer's layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from annotator.decode import decode
from annotator.errors import ConfigError, ImageError
from annotator.run import ImageRecord, RunReader
from annotator.spelling import option
from annotator.storage import is_remote
from annotator.whereabouts import refuse_all_gone
from annotator.wording import are
from exporters.base import ExportSummary
from exporters.files import copy_file, json_line, replacing
from exporters.options import SPLITS

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
                copy_file(source, temporary)
            else:
                temporary.symlink_to(source.resolve(strict=True))
    except (ImageError, FileNotFoundError):
        return False
    return True


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

    def __init__(self, run: RunReader, how: Literal["link", "copy", "none"]) -> None:
        refuse_no_photos(run, how)
        self._root = run.image_root
        self._how = how
        self._missing = 0

    def bring(self, record: ImageRecord, target: Path) -> bool:
        """False where the photo is gone; then its labels are of no use either."""
        if self._how == "none" or bring_photo(record, self._root / record.path, target, copy=self._how == "copy"):
            return True
        self._missing += 1
        return False

    def note(self, summary: ExportSummary) -> None:
        if self._missing:
            summary.images -= self._missing
            summary.notes.append(f"{are(self._missing, 'photo')} left out: no longer in {self._root}")
