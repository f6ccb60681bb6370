"""What must survive a power cut is on the disk before its name says so, and the name is on the disk, too.

Every fsync and rename of the process is watched; the real ones still happen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers_runs import manifest
from reference.open_runs import Labelled, write_run

from annotator import ledger, relabel, storage
from annotator.corrections import Correction, append, fingerprint, undo
from annotator.parts import part_path, set_aside
from annotator.run import ImageRecord, RunReader, RunWriter, write_part
from annotator.vocabulary import Vocabulary
from exporters import base as exporters


@dataclass(frozen=True)
class Sync:
    """Of a file or a folder, with the size it had."""

    inode: int
    size: int


@dataclass(frozen=True)
class Move:
    """A file of this inode and size gets its name in that folder."""

    name: str
    inode: int
    size: int
    folder: int


@dataclass(frozen=True)
class Disk:
    """What happened, in order."""

    events: list[Sync | Move] = field(default_factory=list)

    @property
    def moves(self) -> list[Move]:
        return [event for event in self.events if isinstance(event, Move)]

    def has_bytes(self, move: Move) -> bool:
        """Whether all of the file was on the disk before it had its name."""
        return Sync(move.inode, move.size) in self.events[: self.events.index(move)]

    def has_name(self, move: Move) -> bool:
        """Whether the folder was synced after it."""
        later = self.events[self.events.index(move) :]
        return any(isinstance(event, Sync) and event.inode == move.folder for event in later)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    sync, replace = os.fsync, os.replace

    def watched_sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        disk.events.append(Sync(status.st_ino, status.st_size))
        sync(descriptor)

    def watched_replace(source: str | Path, target: str | Path) -> None:
        status, folder = Path(source).stat(), Path(target).parent.stat()
        disk.events.append(Move(Path(target).name, status.st_ino, status.st_size, folder.st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return disk


CAT = Labelled([[0, 1]], ["background", "cat"])
CLASSES = Vocabulary.of(["background", "cat"])


def write_one_part(folder: Path) -> None:
    (folder / "parts").mkdir()
    write_part(folder, 0, [ImageRecord("a.jpg", "failed", error="empty file")])


def set_one_aside(folder: Path) -> None:
    write_one_part(folder)
    set_aside(part_path(folder, 0))


def write_whole_run(folder: Path) -> None:
    """run.json, parts and a ledger."""
    with RunWriter.open(folder, manifest()) as writer:
        for number in range(6):
            writer.write(ImageRecord(f"{number}.jpg", "failed", error="empty file"))
            writer.flush()


def write_pull(folder: Path) -> None:
    run = write_run(folder / "run", {"a.jpg": CAT}, CLASSES)
    (record,) = run.records()
    append(run.directory, [Correction("a.jpg", 2, 1, "approve", False, fingerprint(record.segments), ())])


def undo_pull(folder: Path) -> None:
    write_pull(folder)
    undo(folder / "run", 1)


def write_mapping(folder: Path) -> None:
    with relabel._mapping(folder) as write:
        write(["a.jpg", 0, "dog"])


def test_the_first_pulls_folder_is_on_the_disk_before_its_file(tmp_path: Path, disk: Disk) -> None:
    """Else a power cut takes the folder away, with a pull in it that was said to be safe."""
    run = write_run(tmp_path / "run", {"a.jpg": CAT}, CLASSES)
    disk.events.clear()
    append(run.directory, [Correction("a.jpg", 2, 1, "reject")])
    (pulled,) = disk.moves
    synced = [event.inode for event in disk.events[: disk.events.index(pulled)] if isinstance(event, Sync)]
    assert run.directory.stat().st_ino in synced


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (lambda folder: storage.write_bytes(folder / "a.bin", b"12345"), {"a.bin"}),
        (write_one_part, {"part-000000.parquet"}),
        (set_one_aside, {"part-000000.parquet.damaged"}),
        (write_whole_run, {"run.json", "part-000005.parquet", "ledger-000000.parquet"}),
        (write_pull, {"000001.parquet"}),
        (undo_pull, {"000001.undone"}),
        (write_mapping, {"mapping.csv"}),
    ],
)
def test_bytes_and_name_are_on_the_disk(
    write: Callable[[Path], object], names: set[str], disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LEDGER_PARTS", 3)
    write(tmp_path)
    assert names <= {move.name for move in disk.moves}
    assert all(disk.has_bytes(move) and disk.has_name(move) for move in disk.moves)


@pytest.mark.parametrize("format_", ["coco", "cvat", "label-studio"])
def test_a_large_file_of_an_export_is_on_the_disk_before_it_has_its_name(
    format_: str, disk: Disk, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", {"a.jpg": CAT}, CLASSES)
    disk.events.clear()
    exporters.export(format_, run, tmp_path / ("out.xml" if format_ == "cvat" else "out.json"))
    assert all(disk.has_bytes(move) and move.size > 0 for move in disk.moves)
    assert disk.moves[0].name.startswith("out.")


def test_the_file_has_its_old_content_until_the_new_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full in the middle of a part: no torn file under the name, nothing left beside it."""
    file = tmp_path / "part.parquet"
    storage.write_bytes(file, b"old")
    seen: list[bytes] = []

    def full(descriptor: int) -> None:
        seen.append(file.read_bytes())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(file, b"new and longer")
    assert seen == [b"old"]
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_part_written_again_with_the_same_size_is_not_what_its_ledger_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LEDGER_PARTS", 3)
    write_whole_run(tmp_path)
    assert len(ledger.survey(tmp_path).ledgers) == 2
    part = tmp_path / "parts" / "part-000001.parquet"
    status = part.stat()
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    found = ledger.survey(tmp_path)
    assert [each.parts[0].name for each in found.ledgers] == ["part-000003.parquet"]
    assert [path.name for path in found.rest] == [f"part-00000{number}.parquet" for number in range(3)]
    assert len(RunReader(tmp_path)) == 6
