"""The parts of a run: Parquet files of up to some hundred rows, sorted by path, which appear whole or not at all.

A part says what is in it: pages have checksums, and in the file's metadata stand its first and last path and a
digest of every column. What is read is compared with them, and then checked as if a stranger had written it
(`row_check`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotator import storage
from annotator.column_digests import BYTES, digests_of, not_as_written
from annotator.errors import RunError
from annotator.record import ROW, ImageRecord, to_table
from annotator.row_check import refuse_nonsense, refuse_other_columns
from annotator.storage import StoredFile
from annotator.wording import one_line

UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What reading a Parquet file raises that is not what it should be."""
_SPAN, _ROWS = "span", "rows"
"""Beside the digests of columns."""
_PART = re.compile(r"part-(\d+)\.parquet")


class DamagedPart(RunError):
    def __init__(self, part: Path, reason: str) -> None:
        super().__init__(
            f"{part}: damaged ({reason}); `annotate status --verify` sets such parts aside, and `annotate run` then "
            "labels their photos again"
        )
        self.reason = reason


def parts_folder(directory: Path) -> Path:
    return directory / "parts"


def part_number(name: str) -> int:
    match = _PART.fullmatch(name)
    assert match
    return int(match[1])


def part_path(directory: Path, number: int) -> Path:
    return parts_folder(directory) / f"part-{number:06d}.parquet"


def list_parts(directory: Path) -> list[StoredFile]:
    """Closed parts in the order of their numbers."""
    files = storage.list_files(parts_folder(directory))
    return sorted((file for file in files if _PART.fullmatch(file.name)), key=lambda file: part_number(file.name))


def part_files(directory: Path) -> list[Path]:
    """The same as paths."""
    folder = parts_folder(directory)
    return [folder / file.name for file in list_parts(directory)]


def write_part(directory: Path, number: int, records: Iterable[ImageRecord]) -> Path:
    """Writes one closed part. Any process may, without the run's lock, and the same rows again do no harm."""
    path = part_path(directory, number)
    write_table(path, to_table(records))
    return path


def write_table(path: Path, table: pa.Table) -> None:
    """The same of rows that are sorted by path already; they must be one or more."""
    first, last = table["path"][0].as_py(), table["path"][-1].as_py()
    digests = json.dumps({**digests_of(table), _SPAN: _digest_of_span(first, last), _ROWS: table.num_rows})
    metadata = {"first_path": first, "last_path": last, "digests": digests}
    content = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), content, compression="zstd", write_page_checksum=True)
    storage.write_bytes(path, content.getvalue().to_pybytes())


def read_columns(part: Path, columns: list[str], classes: int | None = None) -> pa.Table:
    """Some columns of a part; `segments.list.element.area` names one inside the segments.

    classes: how many the run's vocabulary has, where class numbers matter.
    """
    with _opened(part) as file:
        rows = _read(file, columns)
        refuse_nonsense(rows, classes)
        return rows


def _read(file: pq.ParquetFile, columns: list[str]) -> pa.Table:
    refuse_other_columns(file.schema_arrow)
    rows = file.read(columns=columns)
    refuse_other_columns(rows.schema, columns)
    told = _told_digests(file)
    if told is not None and (wrong := not_as_written(rows, told, columns)):
        raise ValueError(f"{', '.join(wrong)}: not what was written")
    return rows


def read_all(parts: Sequence[Path], columns: list[str]) -> Iterator[pa.Table]:
    """`read_columns` of each, in order."""
    return storage.each(partial(read_columns, columns=columns), parts)


def damage(part: Path) -> str:
    """What is wrong with what the part holds, told by its checksums and digests; "" where nothing is."""
    try:
        with _opened(part) as file:
            _read(file, ROW.names)
    except DamagedPart as error:
        return error.reason
    return ""


def set_aside(part: Path) -> Path:
    """Where it is no longer a part of the run, but can still be looked at."""
    target = part.with_name(f"{part.name}.damaged")
    storage.move(part, target)
    return target


def row_count(part: Path) -> int:
    with _opened(part) as file:
        rows: int = file.metadata.num_rows
        told = _told_digests(file)
        if told is not None and told.get(_ROWS, rows) != rows:  # parts of older versions do not say it
            raise ValueError("it has not as many rows as were written")
    return rows


def span(part: Path) -> tuple[str, str]:
    """First and last path of a part."""
    with _opened(part) as file:
        first, last = (file.schema_arrow.metadata[name].decode() for name in (b"first_path", b"last_path"))
        told = _told_digests(file)
        if told is not None and told[_SPAN] != _digest_of_span(first, last):
            raise ValueError("its first and last path are not what was written")
    return first, last


def _told_digests(file: pq.ParquetFile) -> dict[str, Any] | None:
    """None in a part of an older version, which has none."""
    found = (file.schema_arrow.metadata or {}).get(b"digests")
    return None if found is None else json.loads(found)


def _digest_of_span(first: str, last: str) -> str:
    return hashlib.blake2b(json.dumps([first, last]).encode(), digest_size=BYTES).hexdigest()


@contextmanager
def _opened(part: Path) -> Iterator[pq.ParquetFile]:
    source = pa.BufferReader(storage.read_bytes(part)) if storage.is_remote(part) else part
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file
    except UNREADABLE as error:
        if getattr(error, "errno", None) is not None:  # of the system, which says nothing of what is in the part
            raise RunError(
                f"{part}: cannot be read ({getattr(error, 'strerror', error)}); keep it, as it may be good: make it "
                "readable, and try again"
            ) from None
        reason = one_line(error)
        raise DamagedPart(part, reason) from None
