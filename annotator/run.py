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
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pyarrow.compute as pc

from annotator import ledger, storage
from annotator.files import make_folder
from annotator.ledger import finished_paths as finished_paths
from annotator.locks import Lock, acquire
from annotator.manifest import Manifest as Manifest
from annotator.manifest import write_atomically as write_atomically
from annotator.parts import part_files as part_files
from annotator.parts import part_number, part_path, parts_folder, read_all, row_count, span, write_table
from annotator.parts import read_columns as read_columns
from annotator.parts import write_part as write_part
from annotator.record import LABELS, ROW, from_row
from annotator.record import ImageRecord as ImageRecord
from annotator.run_check import cannot_be_written, check_run, refuse_other_config
from annotator.storage import place
from annotator.verify import set_damaged_aside
from annotator.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

PART_ROWS = 256
PART_SECONDS = 30.0

_HALF_WRITTEN = re.compile(r"\.(run\.json|mapping\.csv|part-\d+\.parquet|ledger-\d+\.parquet)(\.[0-9a-f-]+)?\.tmp")


class RunWriter:
    """The one process that writes a run's manifest, made by `open`. A context manager: leaving it closes the open part.

    `finished` knows the paths that have a row already; rows for them must not be written again.
    """

    def __init__(self, directory: Path, manifest: Manifest, lock: Lock) -> None:
        self.directory = directory
        self.manifest = manifest
        self._lock = lock
        self._rows: list[ImageRecord] = []
        self._opened = 0.0
        _remove_leftovers(directory)
        surveyed = ledger.renew_ledgers(directory, open_labels=manifest.open_labels)
        self._without_ledger = [part.name for part in surveyed.rest]
        covered = [part.name for each in surveyed.ledgers for part in each.parts]
        self._known = {part_number(name) for name in [*covered, *self._without_ledger]}
        self._next = max(self._known, default=-1) + 1
        self.finished = finished_paths(directory, surveyed=surveyed)
        manifest.save(directory)

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
            if not overwrite and storage.exists(directory / "run.json"):
                refuse_other_config(directory, manifest)  # another process may have begun it since it was checked
            lock.sign()
            if overwrite:
                _remove_parts(directory)
            for part, reason, _ in set_damaged_aside(ledger.survey(directory).rest):
                _log.warning("%s: damaged (%s); set aside, and its photos are labelled again", part, reason)
            if retry_failed:
                _drop_failed(directory)
            return cls(directory, manifest, lock)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def next_part_number(self) -> int:
        """Higher than that of every part there is."""
        return self._next

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
            number = self._next
            write_part(self.directory, number, self._rows)
            self._rows = []
            self.adopt(number)

    def adopt(self, number: int) -> None:
        """Takes in a part that this or another process wrote with `write_part`; once more does no harm."""
        if number in self._known:
            return
        self._known.add(number)
        self._next = max(self._next, number + 1)
        self._without_ledger.append(part_path(self.directory, number).name)
        if len(self._without_ledger) >= ledger.LEDGER_PARTS:
            names = sorted(self._without_ledger)
            ledger.make_ledger(self.directory, names, open_labels=self.manifest.open_labels)
            self._without_ledger = []

    def close(self) -> None:
        try:
            self.flush()
            self.manifest.save(self.directory)
        finally:
            self._lock.release()


class RunReader:
    """A run, finished or not, as closed parts show it.

    images: folder or URL of its photos, where they are no longer where the run found them.
    """

    def __init__(self, directory: str | Path, images: str | Path | None = None) -> None:
        self.directory = place(directory)
        self.manifest = Manifest.load(self.directory)
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
            _, part, record, rows = heapq.heappop(active)
            yield record
            _push(active, rows, part)


def open_run(path: str | Path, images: str | Path | None = None) -> RunReader:
    """Opens a run directory, or its URL, for reading; `images` says where its photos are now, if they have moved."""
    return RunReader(path, images)


def _remove_leftovers(directory: Path) -> None:
    """What a killed process had half written; in a store nothing is."""
    if not storage.is_remote(directory):
        for folder in (directory, parts_folder(directory), directory / "ledger"):
            for leftover in folder.glob(".*.tmp"):
                if _HALF_WRITTEN.fullmatch(leftover.name):
                    leftover.unlink(missing_ok=True)


def _remove_parts(directory: Path) -> None:
    """`run.json` stays until the new one takes its place: a folder without it would not be known as a run."""
    ledger.remove_ledgers(directory)
    for _ in storage.each(storage.delete, part_files(directory)):
        pass


def _drop_failed(directory: Path) -> None:
    """Rewrites the parts that hold failures without them, so that these photos are tried again."""
    ledgers, parts = ledger.survey(directory)
    folder = parts_folder(directory)
    parts += [folder / part.name for each in ledgers for part in each.parts if part.failed]
    for part, rows in zip(parts, read_all(parts, ["status"]), strict=True):
        if "failed" in rows["status"].to_pylist():
            table = read_columns(part, ROW.names)
            kept = table.filter(pc.equal(table["status"], "ok"))
            if kept.num_rows:
                write_table(part, kept)
            else:
                storage.delete(part)


def _push(
    heap: list[tuple[str, int, ImageRecord, Iterator[ImageRecord]]], rows: Iterator[ImageRecord], part: int
) -> None:
    if (record := next(rows, None)) is not None:
        heapq.heappush(heap, (record.path, part, record, rows))
