"""Files of this machine that appear whole or not at all, and only where they belong.

A file is written beside its place, under a hidden name that nobody can know in advance, and takes its own name when it
is whole. The hidden name must be free, so no link is followed; a link at the file's own name is replaced and what it
points to is left alone. A process that is killed leaves at most a hidden file that ends in `.tmp`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from annotator.blame import blaming
from annotator.errors import ConfigError


class Draft:
    """A file on its way: `file` is open for writing under the hidden name, and `publish` gives it its own.

    durable: its content is on the disk before it has its name, and its name before `publish` returns.
    text:    `file` takes text, which is written in UTF-8.
    """

    def __init__(self, path: Path, *, durable: bool = False, text: bool = False) -> None:
        self.path = path
        self._durable = durable
        self._hidden = hidden_name(path)
        handle = _open_itself(self._hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self.file: IO[Any] = os.fdopen(handle, "w", encoding="utf-8", newline="\n") if text else os.fdopen(handle, "wb")

    def close(self) -> None:
        """Nothing more will be written. Once more does no harm."""
        if not self.file.closed:
            if self._durable:
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()

    def publish(self, path: Path | None = None) -> Path:
        """Moves the file to its place, over what is there; to `path`, in the same folder, where one is given."""
        self.close()
        self.path = path or self.path
        move(self._hidden, self.path, durable=self._durable)
        return self.path

    def discard(self) -> None:
        with suppress(OSError):  # a full disk, which has been reported
            self.file.close()
        self._hidden.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A new file, open for writing, that takes the place of `path` when the block ends well, else is removed."""
    with _published(Draft(path, durable=durable)) as file:
        yield file


@contextmanager
def replacing_text(path: Path, *, durable: bool = False) -> Iterator[IO[str]]:
    """`replacing`, for text."""
    with _published(Draft(path, durable=durable, text=True)) as file:
        yield file


@contextmanager
def _published(draft: Draft) -> Iterator[IO[Any]]:
    try:
        with blaming(draft.path):
            yield draft.file
            draft.publish()
    except BaseException:
        draft.discard()
        raise


def replace_with_link(path: Path, target: Path) -> None:
    """Makes `path` a symbolic link to `target`."""
    hidden = hidden_name(path)
    hidden.symlink_to(target)
    try:
        move(hidden, path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def append_text(path: Path) -> IO[str]:
    """Opens a text file to add to it; a link there is an `OSError`."""
    return open(path, "a", encoding="utf-8", newline="\n", opener=_open_itself)


def move(written: Path, final: Path, *, durable: bool = False) -> None:
    """A whole file to its place in the same file system, over what is there."""
    os.replace(written, final)
    if durable:
        sync_folder(final.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, where they are not there; their names survive a power cut from here on."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        with suppress(PermissionError):  # of a folder that takes new names and does not list them
            sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """The names in the folder survive a power cut from here on."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hidden_name(path: Path) -> Path:
    """A name in the same folder that nobody can know in advance; short enough whatever the file's own length."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")


def refuse_leading_out(path: Path, root: Path) -> None:
    """Raises `ConfigError` where `path`, a folder below `root`, lies somewhere else: by a link, or by its own name.

    `root` itself may be a link, as the user named it.
    """
    real = Path(os.path.realpath(path))
    if real.is_relative_to(os.path.realpath(root)):
        return
    below = [folder for folder in (*reversed(path.parents), path) if root in folder.parents]
    if link := next((folder for folder in below if folder.is_symlink()), None):
        raise ConfigError(f"{link}: expected a folder inside {root}, but found a link to {real}; remove the link")
    raise ConfigError(
        f"{path}: expected a folder inside {root}, but a path of the run leads out of it; label its photos again"
    )


def _open_itself(path: str | Path, flags: int) -> int:
    """Opens a file, never what a link points to. A new one gets the mode that the umask leaves."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
