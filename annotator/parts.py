"""The parts of a run: Parquet files of up to some hundred rows, sorted by path, which appear whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from annotator import storage
from annotator.errors import RunError
from annotator.record import ImageRecord, to_table
from annotator.storage import StoredFile

_PART = re.compile(r"part-(\d+)\.parquet")


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
    metadata = {"first_path": table["path"][0].as_py(), "last_path": table["path"][-1].as_py()}
    content = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), content, compression="zstd")
    storage.write_bytes(path, content.getvalue().to_pybytes())


def read_columns(part: Path, columns: list[str]) -> pa.Table:
    """Some columns of a part; `segments.list.element.area` names one inside the segments."""
    with _opened(part) as file:
        return file.read(columns=columns)


def read_all(parts: Sequence[Path], columns: list[str]) -> Iterator[pa.Table]:
    """`read_columns` of each, in order."""
    return storage.each(partial(read_columns, columns=columns), parts)


def row_count(part: Path) -> int:
    with _opened(part) as file:
        return file.metadata.num_rows


def span(part: Path) -> tuple[str, str]:
    """First and last path of a part."""
    with _opened(part) as file:
        metadata = file.schema_arrow.metadata
    return metadata[b"first_path"].decode(), metadata[b"last_path"].decode()


@contextmanager
def _opened(part: Path) -> Iterator[pq.ParquetFile]:
    try:
        source = pa.BufferReader(storage.read_bytes(part)) if storage.is_remote(part) else part
        with pq.ParquetFile(source) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise RunError(
            f"{part}: cannot be read ({error}); delete it, and `annotate run` labels its photos again"
        ) from None
