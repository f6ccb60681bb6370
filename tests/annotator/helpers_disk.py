"""A disk that forgets: what a folder may hold after a power cut at any moment of a piece of work.

`recorded` watches a folder. Nothing is on the disk before it was asked for: a file's bytes when the file was synced,
and names, new ones and moved ones and removed ones, when their folder was. A `Cut` knows what the disk may hold then:
what was not synced is lost, or there, or there by half.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
"""Python's audit events, which come before what they tell of."""
FOLDER = -1
"""Takes the place of a file's inode."""

Names = dict[str, int]
Unsynced = Literal["lost", "half", "whole"]


@dataclass(frozen=True)
class Cut:
    """The power fails here.

    names, disk_names: of each folder below the one that is watched, as programs see them and as the disk has them.
    bytes, disk_bytes: of each file, by inode.
    promised: what the work had said is safe.
    """

    names: dict[str, Names]
    bytes: dict[int, bytes]
    disk_names: dict[str, Names]
    disk_bytes: dict[int, bytes]
    promised: tuple[str, ...]

    def outcomes(self) -> Iterator[tuple[set[str], Unsynced]]:
        """Folders whose changed names are lost, and what becomes of bytes that were not synced."""
        changed = [folder for folder, names in self.names.items() if self.disk_names.get(folder, {}) != names]
        lost: list[set[str]] = [set(), set(changed), *({folder} for folder in changed)]
        unsynced = any(self.disk_bytes.get(inode) != content for inode, content in self.bytes.items())
        kinds: tuple[Unsynced, ...] = ("lost", "half", "whole") if unsynced else ("whole",)
        yield from itertools.product(lost if len(changed) > 1 else lost[: 1 + len(changed)], kinds)

    def after(self, lost: set[str], unsynced: Unsynced, folder: str = ".") -> dict[str, bytes | None]:
        """What is there when the power is back, by its path; None is a folder."""
        found: dict[str, bytes | None] = {}
        for name, inode in (self.disk_names if folder in lost else self.names).get(folder, {}).items():
            path = os.path.normpath(f"{folder}/{name}")
            found[path] = None if inode == FOLDER else self._content(inode, unsynced)
            if inode == FOLDER:
                found.update(self.after(lost, unsynced, path))
        return found

    def _content(self, inode: int, unsynced: Unsynced) -> bytes:
        on_disk = self.disk_bytes.get(inode, b"")
        content = self.bytes.get(inode, on_disk)
        if content == on_disk or unsynced == "lost":
            return on_disk
        return content if unsynced == "whole" else content[: len(content) // 2]


def write(files: dict[str, bytes | None], target: Path) -> None:
    """files: as `Cut.after` gives them, a folder before what is in it."""
    target.mkdir()
    for path, content in files.items():
        (target / path).mkdir() if content is None else (target / path).write_bytes(content)


@dataclass
class Recording:
    root: Path
    cuts: list[Cut] = field(default_factory=list)
    promised: list[str] = field(default_factory=list)
    _names: dict[str, Names] = field(default_factory=dict)
    _bytes: dict[int, bytes] = field(default_factory=dict)
    _disk_names: dict[str, Names] = field(default_factory=dict)
    _disk_bytes: dict[int, bytes] = field(default_factory=dict)

    def promise(self, what: str) -> None:
        """From here on it must survive."""
        self.promised.append(what)
        self.look()

    def look(self) -> None:
        """The power may fail now."""
        before = set(self._bytes)
        self._names, self._bytes = {}, {}
        for folder, below, files in os.walk(self.root):
            names = self._names.setdefault(os.path.relpath(folder, self.root), dict.fromkeys(below, FOLDER))
            for file in files:
                path = Path(folder, file)
                inode = names[file] = path.lstat().st_ino
                self._bytes[inode] = path.read_bytes() if path.is_file() else b""
        for inode in set(self._bytes) - before:
            self._disk_bytes.pop(inode, None)  # of a file that is gone
        kept = [{name: dict(names) for name, names in each.items()} for each in (self._names, self._disk_names)]
        self.cuts.append(Cut(kept[0], dict(self._bytes), kept[1], dict(self._disk_bytes), tuple(self.promised)))

    def sync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if not path.is_relative_to(self.root):
            return
        self.look()
        if path.is_dir():
            folder = os.path.relpath(path, self.root)
            self._disk_names[folder] = dict(self._names[folder])
        else:
            inode = os.fstat(descriptor).st_ino
            self._disk_bytes[inode] = self._bytes.get(inode, b"")
        self.look()


_active: list[Recording] = []
_hooked: list[bool] = []


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if not _active or event not in CHANGES:
        return
    (recording,) = _active
    is_reading = event == "open" and isinstance(arguments[2], int) and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if not is_reading and isinstance(arguments[0], str | Path) and Path(arguments[0]).is_relative_to(recording.root):
        _active.clear()  # looking opens files
        recording.look()
        _active.append(recording)


@contextmanager
def recorded(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recording]:
    """root: a folder that is on the disk with all that is in it when the block begins."""
    recording = Recording(root)
    recording.look()
    recording._disk_names = {name: dict(names) for name, names in recording._names.items()}
    recording._disk_bytes = dict(recording._bytes)
    recording.cuts.clear()
    if not _hooked:  # a hook stays as long as the process
        sys.addaudithook(_heard)
        _hooked.append(True)

    def sync(descriptor: int) -> None:
        _active.clear()
        recording.sync(descriptor)
        _active.append(recording)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        _active.append(recording)
        try:
            yield recording
        finally:
            _active.clear()
    recording.look()
