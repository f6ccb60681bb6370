"""A run on disk: `run.json` and Parquet parts, one row per photo.

    runs/holiday-dinoiser/
        run.json                      what was asked for, with which weights, and how it went
        parts/part-000000.parquet     up to 256 photos; closed parts never change
        ledger/ledger-000000.parquet  what many parts hold, in short (`annotator.ledger`)
        run.lock                      held while a process writes

A part appears whole or not at all, so that a killed process loses at most the open part. Rows of a part are sorted
by path and its first and last path stand in its metadata, so a reader walks all photos in path order while holding
only the parts that overlap. The directory may be the URL of an object store (`annotator.storage`).
"""

from __future__ import annotations

import heapq
import logging
import re
import threading
import time
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from annotator import conditional, ledger, storage
from annotator.errors import RunError
from annotator.files import make_folder, move
from annotator.ledger import finished_paths as finished_paths
from annotator.locks import Lock, acquire
from annotator.maker import maker_in
from annotator.manifest import MOVING, generation_of
from annotator.manifest import Manifest as Manifest
from annotator.manifest import write_atomically as write_atomically
from annotator.parts import (
    encoded,
    next_generation,
    outdated_parts,
    part_number,
    part_path,
    parts_folder,
    read_all,
    rewrite,
    row_count,
    span,
    take_number,
    without,
)
from annotator.parts import part_files as part_files
from annotator.parts import read_columns as read_columns
from annotator.parts import write_part as write_part
from annotator.record import LABELS, ROW, from_row, to_table
from annotator.record import ImageRecord as ImageRecord
from annotator.run_check import cannot_be_written, check_run, refuse_other_config
from annotator.storage import place
from annotator.verify import set_damaged_aside
from annotator.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

PART_ROWS = 256
PART_SECONDS = 30.0

_HALF_WRITTEN = re.compile(
    r"\.(run\.json|mapping\.csv|part-\d+(-g\d+)?\.parquet|ledger-\d+\.parquet)(\.[0-9a-f-]+)?\.tmp"
)


class RunWriter:
    """The one process that writes a run's manifest, made by `open`. A context manager: leaving it closes the open part.

    `finished` knows the photos that have a row already. No second row must be written for them: `rewrite` and `drop`
    take out those that are to be written again.
    """

    def __init__(self, directory: Path, manifest: Manifest, lock: Lock, stamp: str | None) -> None:
        """Takes the run over: what others still write of `run.json` is refused in a store.

        stamp: of the `run.json` that this one replaces.
        """
        self.directory = directory
        self.manifest = manifest
        self._lock = lock
        self._stamp = stamp
        self._rows: list[ImageRecord] = []
        self._opened = 0.0
        self._changing_parts = threading.Lock()  # an engine may look for photos in a thread of its own
        self._others: set[str] = set()
        self._made_with = maker_in(manifest)
        self._save()

    def _survey(self) -> None:
        directory = self.directory
        surveyed = ledger.renew_ledgers(directory, open_labels=self.manifest.open_labels)
        self._without_ledger = [part.name for part in surveyed.rest]
        covered = [part.name for each in surveyed.ledgers for part in each.parts]
        self._next = max(map(part_number, [*covered, *self._without_ledger]), default=-1) + 1
        self.finished = finished_paths(directory, surveyed=surveyed)

    @classmethod
    def open(
        cls, directory: Path, manifest: Manifest, *, overwrite: bool = False, retry_failed: bool = False
    ) -> RunWriter:
        """Starts a run, or resumes the one that is there when its configuration is the same."""
        check_run(directory, manifest, overwrite=overwrite)
        try:
            if not storage.is_remote(directory):
                make_folder(parts_folder(directory))
            lock = acquire(directory)
        except OSError as error:
            raise cannot_be_written(directory, error) from None
        try:
            stamp = _stamp(directory / "run.json")
            if stamp is not None and not overwrite:
                refuse_other_config(directory, manifest)  # another process may have begun it since it was checked
            lock.sign()
            is_anew = overwrite and stamp is not None
            manifest.generation = next_generation(directory) if is_anew else generation_of(directory)
            writer = cls(directory, manifest, lock, stamp)
            _remove_leftovers(directory)
            for part, reason, _ in set_damaged_aside(ledger.survey(directory).rest):
                _log.warning("%s: damaged (%s); set aside, and its photos are labelled again", part, reason)
            if retry_failed:
                _drop_failed(directory, lock)
            writer._survey()
            return writer
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, record: ImageRecord) -> None:
        if not self._rows:
            self._opened = time.monotonic()
        self._rows.append(record)
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._opened >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Closes the open part."""
        self._lock.check()
        if self._rows:
            self._append(encoded(to_table(self._rows), self._lock.token, self._made_with))
            self._rows = []

    def adopt(self, part: Path) -> None:
        """Moves a part into the run that another process wrote elsewhere."""
        self._lock.check()
        if storage.is_remote(part):
            self._append(storage.read_bytes(part))
            storage.delete(part)
        else:
            move(part, self._next_part(), durable=True)
            self._count_part()

    def rewrite(self, part: Path, stamp: str, rows: pa.Table) -> None:
        """Puts these rows in the place of a part's. Its ledger does not count any more.

        stamp: of the part when it was read.
        """
        self._lock.check()
        with self._changing_parts:
            _rewrite(part, stamp, rows, self._lock)
            if part.name in self._without_ledger and not storage.exists(part):
                self._without_ledger.remove(part.name)

    def drop(self, paths: Collection[str]) -> None:
        """Takes the rows of these photos out of the run."""
        wanted = pa.array(sorted(paths), pa.string())
        for part in part_files(self.directory) if paths else ():
            stamp = storage.describe(part).stamp
            if pc.any(pc.is_in(read_columns(part, ["path"])["path"], wanted)).as_py():
                rows = read_columns(part, ROW.names)
                self.rewrite(part, stamp, rows.filter(pc.invert(pc.is_in(rows["path"], wanted))))

    def close(self) -> None:
        try:
            self.flush()
            self._save()
        finally:
            self._lock.release()

    def _append(self, content: bytes) -> None:
        """Writes a part under the next number.

        In a store another writer may have taken it, who was thought dead or thinks so of this one. Whoever comes second
        leaves out the photos of the first, so that none is in the run twice.
        """
        content = without(content, self._others) if self._others else content
        while content and not take_number(self._next_part(), content):
            self._lock.check(closely=True)
            _log.warning("%s: taken in from another process that writes this run", self._next_part())
            self._others.update(read_columns(self._next_part(), ["path"])["path"].to_pylist())
            self._count_part()
            content = without(content, self._others)
        if content:
            self._count_part()

    def _next_part(self) -> Path:
        return part_path(self.directory, self._next, self.manifest.generation)

    def _count_part(self) -> None:
        """The next part is there."""
        with self._changing_parts:
            self._without_ledger.append(self._next_part().name)
            self._next += 1
            if len(self._without_ledger) >= ledger.LEDGER_PARTS:
                names = sorted(self._without_ledger)
                try:
                    ledger.make_ledger(self.directory, names, open_labels=self.manifest.open_labels)
                except FileNotFoundError:  # another process started the run anew
                    self._lock.check(closely=True)
                    raise
                self._without_ledger = []

    def _save(self) -> None:
        """Writes `run.json`; in a store only over the one that this process knows."""
        path = self.directory / "run.json"
        if not storage.is_remote(path):
            self.manifest.save(self.directory)
            return
        content, known = self.manifest.encoded(), self._stamp
        self._stamp = conditional.replace(path, content, known) if known else conditional.create(path, content)
        if self._stamp is None:
            self._lock.check(closely=True)
            raise RunError(f"{path}: another process wrote it just now; give the same command again")


class RunReader:
    """A run, finished or not, as closed parts show it.

    images: folder or URL of its photos, where they are no longer where the run found them.
    """

    def __init__(self, directory: str | Path, images: str | Path | None = None) -> None:
        self.directory = place(directory)
        self.manifest = Manifest.load(self.directory)
        if self.manifest.state == MOVING:
            raise RunError(
                f"{self.directory}: its photos were being given other paths when the process ended; the same "
                "`annotate run` again finishes that"
            )
        self._images = images

    def __repr__(self) -> str:
        return f"<run {self.directory} of {self.manifest.labeler}, {len(self)} photos>"

    def __len__(self) -> int:
        ledgers, rest = ledger.survey(self.directory)
        return sum(part.rows for each in ledgers for part in each.parts) + sum(storage.each(row_count, rest))

    def __iter__(self) -> Iterator[ImageRecord]:
        return self.records()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """None for a labeler that names its own classes."""
        return Vocabulary.from_dict(self.manifest.vocabulary) if self.manifest.vocabulary else None

    @cached_property
    def image_root(self) -> Path:
        return place(self._images or self.manifest.image_root)

    def records(self, *, segments: bool = True) -> Iterator[ImageRecord]:
        """Every photo in path order, streamed; `segments=False` leaves the masks and histories unread."""
        return self._merged([name for name in ROW.names if segments or name not in LABELS])

    def labelled(self) -> Iterator[ImageRecord]:
        """Every photo that was labelled, without its masks."""
        return (record for record in self.records(segments=False) if record.status == "ok")

    def failures(self) -> Iterator[ImageRecord]:
        columns = [name for name in ROW.names if name not in LABELS]
        return (record for record in self._merged(columns, failed=True) if record.status == "failed")

    def _merged(self, columns: list[str], *, failed: bool = False) -> Iterator[ImageRecord]:
        """Rows of all parts, or of those that may hold failures; a part is opened when the walk gets to it."""
        folder = parts_folder(self.directory)
        classes = len(self.vocabulary.names) if self.vocabulary else None
        ledgers, rest = ledger.survey(self.directory)
        waiting = list(zip((first for first, _ in storage.each(span, rest)), rest, strict=True))
        for each in ledgers:
            waiting += [(part.first, folder / part.name) for part in each.parts if part.failed or not failed]
        del ledgers, rest
        waiting.sort(reverse=True)
        active: list[tuple[str, int, ImageRecord, Iterator[ImageRecord]]] = []
        while waiting or active:
            while waiting and (not active or waiting[-1][0] <= active[0][0]):
                rows: Iterator[ImageRecord] = map(
                    from_row, read_columns(waiting.pop()[1], columns, classes).to_pylist()
                )
                _push(active, rows, len(waiting))
            if active:  # else the parts had no rows
                _, part, record, rows = heapq.heappop(active)
                yield record
                _push(active, rows, part)


def open_run(path: str | Path, images: str | Path | None = None) -> RunReader:
    """Opens a run directory, or its URL, for reading; `images` says where its photos are now, if they have moved."""
    return RunReader(path, images)


def _remove_leftovers(directory: Path) -> None:
    """What a killed process had half written, of which there is nothing in a store, and parts that do not count."""
    for _ in storage.each(storage.delete, outdated_parts(directory)):
        pass
    if not storage.is_remote(directory):
        for folder in (directory, parts_folder(directory), directory / "ledger"):
            for leftover in folder.glob(".*.tmp"):
                if _HALF_WRITTEN.fullmatch(leftover.name):
                    leftover.unlink(missing_ok=True)


def _stamp(path: Path) -> str | None:
    """None where there is no such file."""
    try:
        return storage.describe(path).stamp
    except FileNotFoundError:
        return None


def _drop_failed(directory: Path, lock: Lock) -> None:
    """Rewrites the parts that hold failures without them, so that these photos are tried again."""
    ledgers, parts = ledger.survey(directory)
    folder = parts_folder(directory)
    parts += [folder / part.name for each in ledgers for part in each.parts if part.failed]
    for part, rows in zip(parts, read_all(parts, ["status"]), strict=True):
        if "failed" in rows["status"].to_pylist():
            stamp = storage.describe(part).stamp
            table = read_columns(part, ROW.names)
            _rewrite(part, stamp, table.filter(pc.equal(table["status"], "ok")), lock)


def _rewrite(part: Path, stamp: str, rows: pa.Table, lock: Lock) -> None:
    if not rewrite(part, stamp, rows):
        lock.check(closely=True)
        raise RunError(f"{part}: another process wrote it just now; give the same command again")


def _push(
    heap: list[tuple[str, int, ImageRecord, Iterator[ImageRecord]]], rows: Iterator[ImageRecord], part: int
) -> None:
    if (record := next(rows, None)) is not None:
        heapq.heappush(heap, (record.path, part, record, rows))
