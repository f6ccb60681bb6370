"""The parts of a run: Parquet files of up to some hundred rows, sorted by path, which appear whole or not at all.

In a store a number is given once (`take_number`): writers that do not know of each other cannot overwrite each other's
parts, and one that finds a number taken reads what was written meanwhile. So a part that gives up its rows stays there,
without any.

A run that is started anew gets the next generation, which `run.json` tells and the names of its parts: those of an
earlier one do not count, however late they come.

    parts/part-000012.parquet       a part of a run that was never started anew
    parts/part-000012-g3.parquet    one of a run that was started anew three times

A part says what is in it: pages have checksums, and in the file's metadata stand its first and last path and a
digest of every column. What is read is compared with them, and then checked as if a stranger had written it
(`row_check`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annotator import conditional, storage
from annotator.batches import refuse_lost_rows
from annotator.column_digests import BYTES, digests_of, not_as_written
from annotator.errors import RunError
from annotator.files import move
from annotator.maker import KEY as MADE_WITH
from annotator.maker import maker_of
from annotator.manifest import generation_of
from annotator.record import ROW, ImageRecord, to_table
from annotator.row_check import refuse_nonsense, refuse_other_columns
from annotator.storage import StoredFile
from annotator.wording import one_line

UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What reading a Parquet file raises that is not what it should be."""
_SPAN, _ROWS = "span", "rows"
"""Beside the digests of columns."""
_WRITER = "writer"
_PART = re.compile(r"part-(\d+)(?:-g(\d+))?\.parquet")


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
    return _parsed(name)[0]


def part_path(directory: Path, number: int, generation: int = 0) -> Path:
    suffix = f"-g{generation}" if generation else ""
    return parts_folder(directory) / f"part-{number:06d}{suffix}.parquet"


def list_parts(directory: Path) -> list[StoredFile]:
    """Closed parts in the order of their numbers."""
    generation = generation_of(directory)
    files = {file: _parsed(file.name) for file in _listed(directory)}
    if (highest := max((its for _, its in files.values()), default=0)) > generation:
        raise RunError(
            f"{directory}/run.json: expected a copy of this run's own, but its generation is {generation} and that of "
            f'the parts is {highest}; set "generation" in it to {highest}, and take the line "digest" out'
        )
    return sorted((file for file, (_, its) in files.items() if its == generation), key=lambda file: files[file])


def part_files(directory: Path) -> list[Path]:
    """The same as paths."""
    folder = parts_folder(directory)
    return [folder / file.name for file in list_parts(directory)]


def next_generation(directory: Path) -> int:
    """Higher than that of every part, also where run.json cannot be read."""
    return max([generation_of(directory), *(_parsed(file.name)[1] for file in _listed(directory))]) + 1


def outdated_parts(directory: Path) -> list[Path]:
    """Those of earlier generations, which nobody needs any more."""
    generation = generation_of(directory)
    files = _listed(directory) if generation else []
    return [parts_folder(directory) / file.name for file in files if _parsed(file.name)[1] < generation]


def write_part(directory: Path, number: int, records: Iterable[ImageRecord], made_with: str = "") -> Path:
    """Writes one closed part where only one process writes, or the same rows again."""
    path = part_path(directory, number)
    storage.write_bytes(path, encoded(to_table(records), made_with=made_with))
    return path


def take_number(part: Path, content: bytes) -> bool:
    """Writes a new part; False where the number is taken, which only happens in a store."""
    if storage.is_remote(part):
        return conditional.create(part, content) is not None
    storage.write_bytes(part, content)
    return True


def write_table(path: Path, table: pa.Table) -> None:
    """Writes rows that are sorted by path already."""
    storage.write_bytes(path, encoded(table))


def encoded(table: pa.Table, writer: str = "", made_with: str = "") -> bytes:
    """What a part of these rows is; they are sorted by path already.

    writer:    its token, with which no other writer's part is the same.
    made_with: what `maker` says; that of the part that the rows were read from where it is not given.
    """
    first, last = (table["path"][row].as_py() if table.num_rows else "" for row in (0, -1))
    made_with = made_with or maker_of(table)
    told = {_SPAN: _digest_of_span(first, last), _ROWS: table.num_rows, MADE_WITH: made_with}
    metadata = {
        "first_path": first,
        "last_path": last,
        "digests": json.dumps({**digests_of(table), **told}),
        **({_WRITER: writer} if writer else {}),
        **({MADE_WITH: made_with} if made_with else {}),
    }
    content = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), content, compression="zstd", write_page_checksum=True)
    return content.getvalue().to_pybytes()


def without(content: bytes, paths: Collection[str]) -> bytes:
    """A part without the rows of some photos; empty where none is left."""
    table = pq.read_table(pa.BufferReader(content))
    left = table.filter(pc.invert(pc.is_in(table["path"], pa.array(list(paths), pa.string()))))
    writer = (table.schema.metadata or {}).get(_WRITER.encode(), b"").decode()
    return encoded(left, writer) if left.num_rows else b""


def rewrite(part: Path, stamp: str, table: pa.Table) -> bool:
    """Writes other rows over a part; without any it goes, or in a store stays empty.

    stamp: of the part that was read. False where it was written again since then, which is noticed in a store.
    """
    if storage.is_remote(part):
        return conditional.replace(part, encoded(table), stamp) is not None
    if table.num_rows:
        write_table(part, table)
    else:
        storage.delete(part)
    return True


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
    refuse_lost_rows(file, rows.num_rows)
    told = _told_digests(file)
    if told is not None:
        if wrong := not_as_written(rows, told, columns):
            raise ValueError(f"{', '.join(wrong)}: not what was written")
        if told.get(MADE_WITH, maker_of(rows)) != maker_of(rows):
            raise ValueError("what made it: not what was written")
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
    if storage.is_remote(part):
        stamp = storage.describe(part).stamp
        storage.write_bytes(target, storage.read_bytes(part))
        rewrite(part, stamp, ROW.empty_table())
    else:
        move(part, target, durable=True)
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


def _listed(directory: Path) -> list[StoredFile]:
    """Parts of all generations."""
    return [file for file in storage.list_files(parts_folder(directory)) if _PART.fullmatch(file.name)]


def _parsed(name: str) -> tuple[int, int]:
    """Number and generation of a part."""
    match = _PART.fullmatch(name)
    assert match
    return int(match[1]), int(match[2] or 0)


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
