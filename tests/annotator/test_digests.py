"""A file that is not what was written is never believed, also where its pages are whole: footers are damaged, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_fuzz import is_one_line
from helpers_fuzz_inputs import hf_dataset, sound_labels
from helpers_fuzz_runs import RECORDS, record, run_of_one_part, said_of

from annotator import ledger
from annotator.batches import WRITTEN, BatchWriter, metadata_of, read_batches
from annotator.corrections import append, pulls, reviewed
from annotator.errors import ConfigError, RunError
from annotator.parts import DamagedPart, read_columns, row_count, span, write_part
from annotator.record import ROW
from annotator.run import RunReader
from annotator.summary import summarise


def with_other(file: Path, rows: pa.Table, **metadata: str) -> None:
    """The file with these rows and what it said of the ones before: all its pages are right."""
    kept = {**pq.read_schema(file).metadata, **{name.encode(): value.encode() for name, value in metadata.items()}}
    pq.write_table(rows.replace_schema_metadata(kept), file, write_page_checksum=True)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return run_of_one_part(tmp_path)


def test_other_rows_in_a_part(part: Path) -> None:
    table = pq.read_table(part, partitioning=None)
    with_other(part, table.set_column(3, "width", pa.array([9, 9, 8], pa.int32())))
    with pytest.raises(DamagedPart, match="width: not what was written"):
        read_columns(part, ROW.names)


@pytest.mark.parametrize("name", ["history", "embedding"])
def test_a_column_of_another_name(part: Path, name: str) -> None:
    """Else it would pass for that of an older version, which has none of these."""
    content = part.read_bytes()
    assert name.encode() in content
    part.write_bytes(content.replace(name.encode(), b"x" + name.encode()[1:]))
    with pytest.raises(DamagedPart, match=name):
        read_columns(part, ROW.names)
    assert read_columns(part, ["path", "status"]).num_rows == 3


def test_fewer_rows_in_a_part(part: Path) -> None:
    assert row_count(part) == 3
    with_other(part, pq.read_table(part, partitioning=None).slice(0, 2))
    with pytest.raises(DamagedPart, match="not as many rows as were written"):
        row_count(part)


def test_other_ends_of_a_part(part: Path) -> None:
    with_other(part, pq.read_table(part, partitioning=None), last_path="c.jpg")
    with pytest.raises(DamagedPart, match="first and last path"):
        span(part)


def test_a_damaged_page_of_a_part_without_digests(part: Path) -> None:
    """Its checksums are enough."""
    table = pq.read_table(part, partitioning=None).replace_schema_metadata({"first_path": "a", "last_path": "d"})
    pq.write_table(table, part, write_page_checksum=True, compression="none", use_dictionary=False)
    content = part.read_bytes()
    part.write_bytes(content.replace(b"b/c.jpg", b"b/d.jpg", 1))
    with pytest.raises(DamagedPart, match=r"(?i)crc|checksum"):
        read_columns(part, ["path"])


def zeroed(content: bytes, step: int) -> Iterator[bytes]:
    """With 64 zeros in any place of it, as where a piece was never written."""
    for begin in range(0, len(content), step):
        yield (content[:begin] + bytes(64) + content[begin + 64 :])[: len(content)]


def test_zeros_in_a_part(part: Path) -> None:
    good, refused = read_columns(part, ROW.names).to_pylist(), 0
    for content in zeroed(part.read_bytes(), step=3):
        part.write_bytes(content)
        try:
            assert read_columns(part, ROW.names).to_pylist() == good
        except DamagedPart:
            refused += 1
    assert refused > 100


def test_zeros_in_a_shard(tmp_path: Path) -> None:
    """Among them those that take with the row what the file says of it."""
    shard = hf_dataset(tmp_path)
    good, refused = sound_labels(tmp_path / "hf"), 0
    for content in zeroed(shard.read_bytes(), step=1):
        shard.write_bytes(content)
        try:
            assert sound_labels(tmp_path / "hf") == good
        except ConfigError as error:
            refused += 1
            is_one_line(error)
    assert refused > 100


@pytest.fixture
def ledger_file(part: Path) -> Path:
    directory = part.parents[1]
    write_part(directory, 1, [record("e.jpg", 3)])
    ledger.make_ledger(directory, ["part-000000.parquet", "part-000001.parquet"], open_labels=False)
    (file,) = (directory / "ledger").iterdir()
    return file


def test_a_ledger_that_says_something_else(ledger_file: Path) -> None:
    directory, good = ledger_file.parents[1], summarise(ledger_file.parents[1])
    table = pq.read_table(ledger_file, partitioning=None)
    assert len(ledger.survey(directory).ledgers) == 1
    told = json.loads(table.schema.metadata[b"ledger"])
    told["summary"]["ok"] += 1
    with_other(ledger_file, table, ledger=json.dumps(told))
    assert ledger.survey(directory).ledgers == []
    assert summarise(directory) == good


def test_a_ledger_of_other_rows(ledger_file: Path) -> None:
    """Else a photo without a row would pass for a finished one."""
    directory = ledger_file.parents[1]
    table = pq.read_table(ledger_file, partitioning=None)
    with_other(ledger_file, table.set_column(0, "high", pa.array([1, 2, 3, 4], pa.uint64())))
    asked = ledger.finished_paths(directory)
    assert asked.among(["a.jpg", "b/c.jpg", "d.jpg", "e.jpg", "f.jpg"]).tolist() == [True] * 4 + [False]


SCHEMA = pa.schema([("name", pa.string()), ("flag", pa.bool_())], metadata={"created": "today"})
BATCHES = [
    pa.table({"name": ["a", "b"], "flag": [True, None]}, SCHEMA),
    pa.table({"name": ["c"], "flag": [False]}, SCHEMA),
]


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    file = tmp_path / "batches.parquet"
    with file.open("wb") as opened:
        writer = BatchWriter(opened, SCHEMA)
        for batch in BATCHES:
            writer.write(batch)
        writer.close()
    return file


def read(file: Path, columns: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    with pq.ParquetFile(file, page_checksum_verification=True) as opened:
        metadata_of(opened)
        yield from (batch.to_pylist() for batch in read_batches(opened, 1, columns))


def test_batches_come_back(batches: Path) -> None:
    assert list(read(batches)) == [batch.to_pylist() for batch in BATCHES]
    assert list(read(batches, ["flag"])) == [[{"flag": True}, {"flag": None}], [{"flag": False}]]


def test_batches_of_others_are_read_as_they_are(batches: Path) -> None:
    pq.write_table(pa.concat_tables(BATCHES), batches)
    assert list(read(batches)) == [[row] for batch in BATCHES for row in batch.to_pylist()]


def rewritten(file: Path, tables: list[pa.Table], schema: pa.Schema) -> None:
    with pq.ParquetFile(file) as opened:
        told = opened.metadata.metadata[WRITTEN]
    with pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table)
        writer.add_key_value_metadata({WRITTEN: told})


@pytest.mark.parametrize(
    ("tables", "schema"),
    [
        (BATCHES[:1], SCHEMA),  # as where the footer lost one
        ([], SCHEMA),
        (BATCHES[::-1], SCHEMA),
        ([BATCHES[0], pa.table({"name": ["c"], "flag": [True]}, SCHEMA)], SCHEMA),
        ([BATCHES[0], pa.table({"name": ["d"], "flag": [False]}, SCHEMA)], SCHEMA),
        (BATCHES, SCHEMA.with_metadata({"created": "tomorrow"})),
    ],
)
def test_batches_that_are_not_what_was_written(batches: Path, tables: list[pa.Table], schema: pa.Schema) -> None:
    rewritten(batches, tables, schema)
    with pytest.raises(ValueError, match="not what was written"):
        list(read(batches))


def test_a_pull_that_is_not_what_was_written(tmp_path: Path) -> None:
    """A rejected photo would be exported, or an approved one left out."""
    run_of_one_part(tmp_path)
    append(tmp_path, said_of(RECORDS[0]))
    (file,) = (tmp_path / "corrections").glob("*.parquet")
    table = pq.read_table(file, partitioning=None)
    rewritten(file, [table.set_column(3, "verdict", pa.array(["reject"]))], table.schema)
    for ask in (lambda: list(reviewed(RunReader(tmp_path))), lambda: pulls(tmp_path)):
        with pytest.raises(RunError, match=r"000001\.parquet: cannot be read \(verdict: not what .*; move it away"):
            ask()
