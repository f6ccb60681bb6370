"""A run on disk: `run.json` and Parquet parts, one row per photo.

    runs/holiday-dinoiser/
        run.json                      what was asked for, with which weights, and how it went
        parts/part-000000.parquet     up to 256 photos; closed parts never change
        run.lock                      held while a process writes

A part is written under a temporary name, fsynced and renamed, so that a killed process loses at most the
open part. Rows of a part are sorted by path and its first and last path stand in its metadata, so a reader
walks all photos in path order while holding only the parts that overlap.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annotator.errors import RunError
from annotator.record import LABELS, ROW, from_row, to_table
from annotator.record import ImageRecord as ImageRecord
from annotator.vocabulary import Vocabulary

SCHEMA_VERSION = 1
PART_ROWS = 256
PART_SECONDS = 30.0


@dataclass
class Manifest:
    """`run.json`. `config` holds what decides the labels, and `config_hash` is over it alone;
    `execution` holds what only decides speed."""

    config: dict[str, Any]
    config_hash: str
    image_root: str
    tool_version: str
    labeler: str
    vocabulary: dict[str, Any] | None = None
    pack: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    state: Literal["running", "interrupted", "partial", "complete"] = "running"
    schema: int = SCHEMA_VERSION

    def save(self, directory: Path) -> None:
        write_atomically(directory / "run.json", json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        path = directory / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] == SCHEMA_VERSION:
                return cls(**content)
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{directory}: no run here (run.json is missing); `annotate run` makes one") from None
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}: damaged ({error}); the parts beside it are unharmed: put it back, "
                "or start anew with --overwrite"
            ) from None
        raise RunError(
            f"{path}: expected schema {SCHEMA_VERSION}, but found {content['schema']}; "
            "read it with the version of the tool that made it"
        )


class RunWriter:
    """The one process that writes a run, made by `open`. A context manager: leaving it closes the open part.

    `finished` is the set of paths that have a row already; rows for them must not be written again.
    """

    def __init__(self, directory: Path, manifest: Manifest, lock: int) -> None:
        self.directory = directory
        self.manifest = manifest
        self._lock = lock
        self._rows: list[ImageRecord] = []
        self._opened = 0.0
        for leftover in _parts_folder(directory).glob(".*.tmp"):
            leftover.unlink()
        self.finished = finished_paths(directory)
        parts = part_files(directory)
        self._next = int(parts[-1].stem.split("-")[1]) + 1 if parts else 0
        manifest.save(directory)

    @classmethod
    def open(
        cls, directory: Path, manifest: Manifest, *, overwrite: bool = False, retry_failed: bool = False
    ) -> RunWriter:
        """Starts a run, or resumes the one that is there when its configuration is the same."""
        if not (directory / "run.json").exists() and _is_foreign(directory):
            raise RunError(
                f"{directory}: expected an empty or new folder, but it holds other files; choose another --out"
            )
        try:
            _parts_folder(directory).mkdir(parents=True, exist_ok=True)
            lock = _lock(directory)
        except OSError as error:
            raise RunError(f"{directory}: cannot be written ({error.strerror}); choose another --out") from None
        try:
            if overwrite:
                _remove_parts(directory)
            elif (directory / "run.json").exists():
                _refuse_other_config(directory, manifest)
            if retry_failed:
                _drop_failed(directory)
            return cls(directory, manifest, lock)
        except BaseException:
            os.close(lock)
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
        if self._rows:
            _write_part(_parts_folder(self.directory) / f"part-{self._next:06d}.parquet", to_table(self._rows))
            self._next += 1
            self._rows = []

    def close(self) -> None:
        try:
            self.flush()
            self.manifest.save(self.directory)
        finally:
            os.close(self._lock)


class RunReader:
    """A run, finished or not, as closed parts show it."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest = Manifest.load(self.directory)

    def __repr__(self) -> str:
        return f"<run {self.directory} of {self.manifest.labeler}, {len(self)} photos>"

    def __len__(self) -> int:
        return sum(_row_count(part) for part in part_files(self.directory))

    def __iter__(self) -> Iterator[ImageRecord]:
        return self.records()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """None for a labeler that names its own classes."""
        return Vocabulary.from_dict(self.manifest.vocabulary) if self.manifest.vocabulary else None

    @property
    def image_root(self) -> Path:
        return Path(self.manifest.image_root)

    def records(self, *, segments: bool = True) -> Iterator[ImageRecord]:
        """Every photo in path order, streamed; `segments=False` leaves the masks and histories unread."""
        columns = [name for name in ROW.names if segments or name not in LABELS]
        waiting = sorted((_span(part), part) for part in part_files(self.directory))
        waiting.reverse()
        active: list[tuple[str, int, ImageRecord, Iterator[ImageRecord]]] = []
        while waiting or active:
            while waiting and (not active or waiting[-1][0][0] <= active[0][0]):
                rows = _rows_of(waiting.pop()[1], columns)
                _push(active, rows, len(waiting))
            _, part, record, rows = heapq.heappop(active)
            yield record
            _push(active, rows, part)

    def failures(self) -> Iterator[ImageRecord]:
        return (record for record in self.records(segments=False) if record.status == "failed")


def open_run(path: str | Path) -> RunReader:
    """Opens a run directory for reading."""
    return RunReader(path)


def part_files(directory: Path) -> list[Path]:
    """Closed parts in the order in which they were written."""
    return sorted(_parts_folder(directory).glob("part-*.parquet"))


def finished_paths(directory: Path, *, only_ok: bool = False) -> set[str]:
    """Paths that have a row already, read from that column alone (and the status, for `only_ok`)."""
    finished: set[str] = set()
    for part in part_files(directory):
        table = read_columns(part, ["path", "status"] if only_ok else ["path"])
        kept = table.filter(pc.equal(table["status"], "ok")) if only_ok else table
        finished.update(kept["path"].to_pylist())
    return finished


def read_columns(part: Path, columns: list[str]) -> pa.Table:
    """Some columns of a part; `segments.list.element.area` names one inside the segments."""
    with _opened(part) as file:
        return file.read(columns=columns)


def write_atomically(path: Path, text: str) -> None:
    """The file has its old or its new content at every moment, even when the process is killed."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _parts_folder(directory: Path) -> Path:
    return directory / "parts"


def _is_foreign(directory: Path) -> bool:
    """Whether a folder holds more than what a process leaves that was killed before it wrote `run.json`."""
    return any(path.name not in ("parts", "run.lock", ".run.json.tmp") for path in directory.rglob("*"))


def _lock(directory: Path) -> int:
    """Held by the open file, so it goes with the process however that ends."""
    handle = os.open(directory / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 64).decode(errors="replace").strip()
        os.close(handle)
        raise RunError(
            f"{directory}: another process ({holder}) is writing this run; wait for it or choose another --out"
        ) from None
    os.ftruncate(handle, 0)
    os.write(handle, f"pid {os.getpid()}".encode())
    return handle


def _refuse_other_config(directory: Path, manifest: Manifest) -> None:
    found = Manifest.load(directory)
    if found.config_hash == manifest.config_hash:
        return
    given = json.loads(json.dumps(manifest.config, default=str))  # as it would come back: lists for tuples
    changed = sorted(key for key in {*found.config, *given} if found.config.get(key) != given.get(key))
    raise RunError(
        f"{directory}: holds a run with another {', '.join(changed) or 'configuration'}; "
        "--overwrite starts anew, --out DIR keeps both"
    )


def _remove_parts(directory: Path) -> None:
    """`run.json` stays until the new one takes its place: a folder without it would not be known as a run."""
    for part in part_files(directory):
        part.unlink()


def _drop_failed(directory: Path) -> None:
    """Rewrites the parts that hold failures without them, so that these photos are tried again."""
    for part in part_files(directory):
        if "failed" in read_columns(part, ["status"])["status"].to_pylist():
            table = read_columns(part, ROW.names)
            kept = table.filter(pc.equal(table["status"], "ok"))
            if kept.num_rows:
                _write_part(part, kept)
            else:
                part.unlink()


def _write_part(path: Path, table: pa.Table) -> None:
    first, last = table["path"][0].as_py(), table["path"][-1].as_py()
    metadata = {"first_path": first, "last_path": last}
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # the new name must survive a power cut too
    os.close(folder)


@contextmanager
def _opened(part: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(part) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise RunError(
            f"{part}: cannot be read ({error}); delete it, and `annotate run` labels its photos again"
        ) from None


def _row_count(part: Path) -> int:
    with _opened(part) as file:
        return file.metadata.num_rows


def _span(part: Path) -> tuple[str, str]:
    """First and last path of a part."""
    with _opened(part) as file:
        metadata = file.schema_arrow.metadata
    return metadata[b"first_path"].decode(), metadata[b"last_path"].decode()


def _rows_of(part: Path, columns: list[str]) -> Iterator[ImageRecord]:
    return map(from_row, read_columns(part, columns).to_pylist())


def _push(
    heap: list[tuple[str, int, ImageRecord, Iterator[ImageRecord]]], rows: Iterator[ImageRecord], part: int
) -> None:
    if (record := next(rows, None)) is not None:
        heapq.heappush(heap, (record.path, part, record, rows))
