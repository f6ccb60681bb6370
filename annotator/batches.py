"""Parquet files that are written batch by batch and say what is in them: pages have checksums, and in the file's
metadata stands a digest of every column of every batch, which is a row group. What is read is compared with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotator.column_digests import digests_of, not_as_written

WRITTEN = b"written"


class BatchWriter:
    """schema: its metadata goes into the file, too."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)
        self._batches: list[dict[str, str]] = []
        self._told = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}

    def write(self, table: pa.Table) -> None:
        """The table must have rows, and fewer than a row group holds."""
        self._writer.write_table(table)
        self._batches.append(digests_of(table))

    def close(self) -> None:
        self._writer.add_key_value_metadata({WRITTEN: json.dumps({"metadata": self._told, "batches": self._batches})})
        self._writer.close()


def metadata_of(file: pq.ParquetFile) -> dict[str, str]:
    """What the writer's schema told. Raises ValueError where the file is not what was written."""
    found = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
    told = _told(file)
    if told is None:
        return found
    wanted = told["metadata"]
    if {key: found.get(key) for key in wanted} != wanted or len(told["batches"]) != file.num_row_groups:
        raise ValueError("it is not what was written")
    return wanted


def read_batches(file: pq.ParquetFile, rows: int, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Some columns, as batches. Raises ValueError where they are not what was written.

    rows: of a batch, in files that do not say what is in them.
    """
    told = _told(file)
    if told is None:
        found = 0
        for batch in file.iter_batches(rows, columns=columns):
            yield pa.Table.from_batches([batch])
            found += batch.num_rows
        refuse_lost_rows(file, found)
        return
    metadata_of(file)
    for number, digests in enumerate(told["batches"]):
        table = file.read_row_group(number, columns=columns)
        if wrong := not_as_written(table, digests, columns):
            raise ValueError(f"{', '.join(wrong)}: not what was written")
        yield table


def refuse_lost_rows(file: pq.ParquetFile, found: int) -> None:
    """A damaged footer may have lost what was told of a file, and with it rows; how many there were stands apart."""
    if found != file.metadata.num_rows:
        raise ValueError(f"it has {found} rows, and not the {file.metadata.num_rows} that were written")


def _told(file: pq.ParquetFile) -> dict[str, Any] | None:
    """None in a file of an older version or of somebody else."""
    written = (file.metadata.metadata or {}).get(WRITTEN)
    return None if written is None else json.loads(written)
