"""Whether the folder or store that photos come from is still the one that it was."""

from __future__ import annotations

import os
from pathlib import Path

from annotator.errors import BrokenError
from annotator.storage import ask, is_remote

Identity = tuple[int, int]
"""(st_dev, st_ino): another one when something was mounted there, or is no longer."""


class PhotoFolders:
    """Remembers folders of photos, to tell a photo that cannot be read from a disk that is gone."""

    def __init__(self) -> None:
        self._identities: dict[Path, Identity | None] = {}

    def remember(self, root: Path) -> None:
        """As it is now; the first time counts. One that is not there, as a list may name it, is not missed later."""
        if root not in self._identities:
            self._identities[root] = _identity(root)

    def check(self, root: Path) -> None:
        """Raises `BrokenError` where the whole folder went away since it was remembered."""
        if is_remote(root):
            _check_store(root)
        elif (before := self._identities.get(root)) is not None:
            _list(root)
            if _identity(root) != before:
                raise _gone(root, "another folder is there now")


def holds_something(root: Path) -> bool:
    """Whether a folder of this machine is there, and not empty."""
    try:
        return not is_remote(root) and _list(root)
    except BrokenError:
        return False


def require_photos(root: Path) -> None:
    """Raises `BrokenError` where a folder that another machine has is not there on this one, or is empty."""
    if not _list(root):
        raise _gone(root, "the folder is empty")


def _list(root: Path) -> bool:
    """Whether anything is in it."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is not None
    except OSError as error:
        raise _gone(root, (error.strerror or str(error)).lower()) from None


def _check_store(root: Path) -> None:
    try:
        ask(root, lambda files, name: files.info(name))
    except OSError as error:
        raise _gone(root, error.strerror or str(error)) from None


def _identity(root: Path) -> Identity | None:
    if is_remote(root):
        return None
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _gone(root: Path, reason: str) -> BrokenError:
    return BrokenError(
        f"{root}: the photos cannot be read here any more: {reason}; the rest is left open: bring them back, and the "
        "same command goes on"
    )
