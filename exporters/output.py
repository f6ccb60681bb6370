"""Where an export writes: inside its own folder, and never over a photo."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from annotator.errors import ConfigError
from annotator.files import Draft, refuse_leading_out, replace_with_link, replacing, replacing_text
from annotator.run import RunReader
from annotator.spelling import option
from annotator.storage import is_remote


class OutputFolder:
    """The folder that an export of a run fills. Files in it appear whole or not at all (`annotator.files`).

    Raises `ConfigError` for a path that leads out of the folder, be it by a link that lies there or by the path of a
    photo in the run, and for one that is a photo of the run. The folder itself may be a link.
    """

    def __init__(self, run: RunReader, root: Path) -> None:
        self._root = root
        self._photos = _Photos(run)

    def replacing(self, path: Path) -> AbstractContextManager[IO[bytes]]:
        """A file open for writing."""
        self._make_way(path)
        return replacing(path)

    def writing(self, path: Path) -> AbstractContextManager[IO[str]]:
        """A text file that is safe on the disk before it has its name."""
        self._make_way(path)
        return replacing_text(path, durable=True)

    def write_text(self, path: Path, text: str) -> None:
        """One of many small files, which need not each be safe on the disk at once."""
        self._make_way(path)
        with replacing_text(path) as file:
            file.write(text)

    def link(self, path: Path, target: Path) -> None:
        """A symbolic link at `path`."""
        self._make_way(path)
        replace_with_link(path, target)

    def draft(self, path: Path) -> Draft:
        """A file that gets its name later."""
        self._make_way(path)
        return Draft(path, durable=True)

    def _make_way(self, path: Path) -> None:
        refuse_leading_out(path.parent, self._root)
        self._photos.refuse(path)
        path.parent.mkdir(parents=True, exist_ok=True)


class _Photos:
    """Tells the photos of a run by device and inode, whatever path leads to them; 8 bytes a photo."""

    def __init__(self, run: RunReader) -> None:
        self._run = run

    def refuse(self, path: Path) -> None:
        """Raises where a photo would be written over. A link to one is no photo, as it is replaced."""
        with suppress(FileNotFoundError, NotADirectoryError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and self._has(found):
                raise ConfigError(
                    f"{path}: expected no photo of the run in the way, but this is one; choose another {option('out')}"
                )

    def _has(self, found: os.stat_result) -> bool:
        inodes = self._inodes.get(found.st_dev)
        if inodes is None:
            return False
        place = int(np.searchsorted(inodes, found.st_ino))
        return place < len(inodes) and int(inodes[place]) == found.st_ino

    @cached_property
    def _inodes(self) -> dict[int, NDArray[np.uint64]]:
        """Sorted, by device; asked for only where a file is in the way."""
        by_device: dict[int, array[int]] = {}
        for photo in _local_photos(self._run):
            with suppress(OSError, ValueError):  # gone, or no path at all, so it cannot be written over
                found = photo.stat()
                by_device.setdefault(found.st_dev, array("Q")).append(found.st_ino)
        return {device: np.sort(np.frombuffer(inodes, np.uint64)) for device, inodes in by_device.items()}


def refuse_among_photos(run: RunReader, folder: Path) -> None:
    """Raises where any photo of the run lies in or below a folder that is to be written to; none does at a URL.

    Also where neither is there, as a disk may be that is not mounted now.
    """
    target = folder.resolve()
    clear: set[Path] = set()
    for photo in _local_photos(run):
        if photo.parent not in clear and photo.parent.resolve().is_relative_to(target):
            raise ConfigError(
                f"expected a folder apart from the photos, but {folder} holds {photo}; choose another {option('out')}"
            )
        clear.add(photo.parent)


def _local_photos(run: RunReader) -> Iterator[Path]:
    if not is_remote(run.image_root):
        yield from (run.image_root / record.path for record in run.records(segments=False))
