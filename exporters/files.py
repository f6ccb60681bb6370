"""Which photos an export holds, what their files are called, and JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from annotator.errors import ConfigError
from annotator.finite_json import json_text
from annotator.run import ImageRecord, RunReader
from annotator.spelling import option
from annotator.wording import are, count
from exporters.base import ExportSummary

LONGEST_NAME = 255
"""Bytes that a file system allows for a name."""

SUFFIX_BYTES = 4
"""Of `.png` and `.jpg`."""

LineWriter = Callable[[Any], object]


def refuse_other_splits(paths: Iterable[Path]) -> None:
    """Raises where an earlier export, or someone else, has a file in a split that now belongs to another, or to none:
    a trainer would find both, and it may not be ours to remove."""
    for path in paths:
        if path.exists() or path.is_symlink():
            raise ConfigError(
                f"expected a folder without other splits, but there is {path}; delete it or choose another "
                f"{option('out')}"
            )


def labelled(run: RunReader, summary: ExportSummary, *, upright: bool = False) -> Iterator[ImageRecord]:
    """The run's photos that have labels, in path order, counted; afterwards the summary says what is left out.

    upright: the export brings its own photos along, with EXIF applied.
    """
    turned = 0
    for record in run.records():
        if record.status == "failed":
            summary.skipped += 1
            continue
        summary.images += 1
        turned += record.orientation > 1
        yield record
    if summary.skipped:
        summary.notes.append(f"{count(summary.skipped, 'photo')} left out: failed in the run")
    if turned and not upright:
        summary.notes.append(
            f"{are(turned, 'photo')} turned by EXIF: masks and sizes are those of the photo as a viewer shows it, "
            "so load them with EXIF applied (Pillow: ImageOps.exif_transpose)"
        )


class Names:
    """Names for files that stand for a photo: its path without the extension.

    Where two photos of a folder differ in the extension only, the second and later ones get `-` and eight
    digits of their path's SHA-256 appended; so do names too long to take another extension (of `suffix_bytes`), and
    those that hold `unwanted` (a regular expression), which becomes `_`. Photos must come in path order: then only
    stems that the current path begins with can be met again, and no more are kept.
    """

    def __init__(self, unwanted: str | None = None, suffix_bytes: int = SUFFIX_BYTES) -> None:
        self.changed = 0
        self._unwanted = unwanted
        self._room = LONGEST_NAME - suffix_bytes
        self._taken: list[str] = []

    def stem(self, path: str) -> str:
        """`dir/photo.jpg` -> `dir/photo`."""
        stem = str(PurePosixPath(path).with_suffix(""))
        wanted = re.sub(self._unwanted, "_", stem) if self._unwanted else stem
        self._taken = [name for name in self._taken if path.startswith(name)]
        if wanted == stem not in self._taken and len(PurePosixPath(stem).name.encode()) <= self._room:
            self._taken.append(stem)
            return stem
        self.changed += 1
        mark = "-" + hashlib.sha256(path.encode()).hexdigest()[:8]
        shortened = PurePosixPath(wanted).name.encode()[: self._room - len(mark)].decode(errors="ignore")
        return str(PurePosixPath(wanted).with_name(shortened + mark))

    def note(self, summary: ExportSummary) -> None:
        if self.changed:
            summary.notes.append(
                f"{self.changed:,} files have eight digits appended to the photo's name: "
                "another photo differs only in the extension, or the name cannot be used as it is"
            )


def json_line(content: Any) -> str:
    """Compact and in ASCII, which every reader opens correctly whatever its locale; never NaN, which is no JSON."""
    return json_text(content, separators=(",", ":"))


def list_writer(write: Callable[[str], object]) -> LineWriter:
    """Writes the items of a JSON list, an item per line; what opens and closes the list is the caller's."""
    separator = "\n"

    def add(item: Any) -> None:
        nonlocal separator
        write(separator + json_line(item))
        separator = ",\n"

    return add
