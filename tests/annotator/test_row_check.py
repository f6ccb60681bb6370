"""Parts that a stranger wrote or a disk changed: each row is what it must be, or the part is an error with its name."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator.errors import RunError
from annotator.parts import DamagedPart, damage, part_path, read_columns, span, write_part, write_table
from annotator.prediction import Prediction, Segment
from annotator.record import LABELS, ROW, ImageRecord, from_row, to_table
from annotator.row_check import MOST_PIXELS, YOUNGER, refuse_nonsense
from annotator.run_lengths import run_lengths, totals

HEIGHT, WIDTH = 7, 9
EVERYTHING = ROW.names


def record(path: str, seed: int = 0) -> ImageRecord:
    labels = np.random.default_rng(seed).integers(-1, 3, (HEIGHT, WIDTH)).astype(np.int32)
    segments = tuple(Prediction(labels, ("cat", "dog", "sky"), (0, 1, 2), (0.5, 0.25, 1.0)).segments())
    return ImageRecord(path, "ok", width=WIDTH, height=HEIGHT, segments=segments, history={"steps": [seed]})


RECORDS = [record("a.jpg", 1), record("b/c.jpg", 2), replace(record("d.jpg"), status="failed", error="x", segments=())]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    return write_part(tmp_path, 0, RECORDS)


def tampered(part: Path, change: Callable[[list[dict[str, Any]]], Any], schema: pa.Schema = ROW) -> Path:
    """As somebody else may write a part: with other rows, and nothing that says what was in it."""
    rows = to_table(RECORDS).to_pylist()
    change(rows)
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table.replace_schema_metadata({"first_path": "a.jpg", "last_path": "d.jpg"}), part)
    return part


def row(**values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda rows: rows[1].update(values)


def segment(**values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda rows: rows[1]["segments"][0].update(values)


def of_ones(pixels: int) -> bytes:
    """Runs of one pixel each."""
    return (b"111" + b"0" * pixels)[:pixels]


FAULTS = [
    *((row(path=path), "does not lead to a place inside") for path in (
        "", ".", "..", "../b.jpg", "b/../../c.jpg", "b/..", "/etc/passwd", "//b.jpg", "b\x00.jpg"
    )),
    (row(path=None), "path is missing"),
    (row(status=None), "status is missing"),
    (row(status="okay"), "status is neither ok nor failed"),
    (row(width=None), "width is missing"),
    (row(width=0), "no photo has this size"),
    (row(height=-5), "no photo has this size"),
    (row(width=2**16, height=2**15), "no photo has this size"),
    (row(width=10**9), "no photo has this size"),
    (row(width=10**7), "are not those of a photo of this size"),
    (row(width=WIDTH - 1), "is not inside|are not those of a photo of this size"),
    (row(segments=[None]), "a segment is missing"),
    (segment(label=None), "label is missing"),
    (segment(rle=None), "rle is missing"),
    (segment(score=None), "score is missing"),
    (segment(area=None), "area is missing"),
    (segment(bbox=None), "bbox is missing"),
    (segment(bbox=[1, 1, None, 1]), "bbox is missing"),
    (segment(class_id=-2), "class_id is no class"),
    (segment(area=0), "has no area"),
    (segment(area=HEIGHT * WIDTH), "area is not that of its run lengths"),
    (segment(bbox=[0, 0, WIDTH + 1, 1]), "not inside"),
    (segment(bbox=[-1, 0, 2, 2]), "not inside"),
    (segment(bbox=[0, 0, 0, 1]), "not inside"),
    (segment(bbox=[0, HEIGHT, 1, 1]), "not inside"),
    (segment(bbox=[2**31 - 1, 0, 2**31 - 1, 1]), "not inside"),
    (segment(embedding=b"abc"), "embedding is cut off"),
    (segment(embedding=b""), "embedding is cut off"),
    *((segment(rle=rle), "run lengths are not those") for rle in (
        b"", b"11", b"o", b"oooooooo0", b"\x00", b"\xff\xff", b"~1", b"oooooooooooooooooooooooooooooo0", b"O1", b"1O",
        of_ones(HEIGHT * WIDTH - 1), of_ones(HEIGHT * WIDTH + 1), of_ones(HEIGHT * WIDTH) + b"o",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), FAULTS)
def test_a_row_that_cannot_be_is_an_error_with_its_place(part: Path, change: Callable, reason: str) -> None:
    with pytest.raises(RunError, match=rf"part-000000\.parquet: .*row 2.*: .*({reason})") as caught:
        read_columns(tampered(part, change), EVERYTHING)
    assert "\n" not in str(caught.value)


def test_the_rows_as_they_were_are_fine(part: Path) -> None:
    tampered(part, lambda rows: None)
    assert list(map(from_row, read_columns(part, EVERYTHING).to_pylist())) == RECORDS
    assert read_columns(part, ["path", "segments.list.element.area"]).num_rows == 3
    tampered(part, segment(class_id=-1))
    assert read_columns(part, EVERYTHING).num_rows == 3


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name not in YOUNGER])
def test_a_column_that_is_not_there_or_of_another_type(part: Path, name: str) -> None:
    table = to_table(RECORDS)
    place = EVERYTHING.index(name)
    for other, reason in (
        (table.drop_columns(name), f"expected a column '{name}'"),
        (table.set_column(place, name, pa.array([{"x": 1}] * 3)), f"expected '{name}' to be of type"),
    ):
        pq.write_table(other, part)
        with pytest.raises(RunError, match=reason):
            read_columns(part, EVERYTHING)


@pytest.mark.parametrize("name", [field.name for field in ROW.field("segments").type.value_type])
def test_a_field_of_a_segment_that_is_not_there(part: Path, name: str) -> None:
    fields = [field for field in ROW.field("segments").type.value_type if field.name != name]
    schema = ROW.set(EVERYTHING.index("segments"), pa.field("segments", pa.list_(pa.struct(fields))))

    def without(rows: list[dict[str, Any]]) -> None:
        for each in rows:
            for found in each["segments"]:
                del found[name]

    tampered(part, without, schema)
    if name == "embedding":  # younger than the first runs
        assert list(map(from_row, read_columns(part, EVERYTHING).to_pylist())) == RECORDS
    else:
        with pytest.raises(RunError, match=f"expected segments with a '{name}'"):
            read_columns(part, EVERYTHING)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [EVERYTHING, ["path", "status"], ["path", "segments.list.element.area"]])
def test_no_flipped_bit_goes_unnoticed(part: Path, columns: list[str]) -> None:
    """What is read is what was written, or an error with the part's name."""
    content, good, ends = part.read_bytes(), read_columns(part, columns), span(part)
    errors = []
    for bit in random.Random(len(columns)).sample(range(8 * len(content)), 500):
        part.write_bytes(flipped(content, bit))
        try:
            found = read_columns(part, columns), span(part)
        except RunError as error:
            errors.append(str(error))
        else:
            assert found == (good, ends), bit
    assert all(error.startswith(f"{part}: ") for error in errors)
    assert len(errors) > (300 if columns == EVERYTHING else 50)


@pytest.mark.parametrize("left", [0, 1, 4, 100, -8, -1])
def test_a_part_that_is_cut_off(part: Path, left: int) -> None:
    part.write_bytes(part.read_bytes()[:left])
    with pytest.raises(RunError, match=r"part-000000\.parquet: "):
        read_columns(part, EVERYTHING)


def test_a_part_that_the_system_does_not_give_is_not_damaged(part: Path) -> None:
    """Else it would be set aside because a disk was away."""
    part.unlink()
    with pytest.raises(RunError, match=r"part-000000\.parquet: cannot be read \(.*No such file.*; keep it"):
        damage(part)


@pytest.mark.parametrize("name", ["history", "checksum"])
def test_a_younger_column_that_was_written_does_not_go_missing(part: Path, name: str) -> None:
    """As where its name is damaged."""
    table = pq.read_table(part)
    renamed = table.rename_columns([f"{each}x" if each == name else each for each in table.column_names])
    pq.write_table(renamed.replace_schema_metadata(table.schema.metadata), part)
    with pytest.raises(DamagedPart, match=f"{name}: not what was written"):
        read_columns(part, EVERYTHING)


def test_parts_of_older_versions_are_read_as_before(part: Path) -> None:
    """They have no digests."""
    table = to_table(RECORDS).replace_schema_metadata({"first_path": "a.jpg", "last_path": "d.jpg"})
    pq.write_table(table, part)
    assert read_columns(part, EVERYTHING) == to_table(RECORDS)
    assert span(part) == ("a.jpg", "d.jpg")


@given(st.lists(st.binary(max_size=12), max_size=6))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_run_lengths_or_not(strings: list[bytes]) -> None:
    """Each string by itself, one character after the other, as COCO's format says."""
    bounds = np.cumsum([0, *map(len, strings)])
    found = totals(np.frombuffer(b"".join(strings), np.uint8), bounds)
    for index, string in enumerate(strings):
        lengths = read_slowly(string)
        assert found.whole[index] == (lengths is not None)
        if lengths is not None:
            assert (found.pixels[index], found.area[index]) == (sum(lengths), sum(lengths[1::2]))
            assert run_lengths(string).tolist() == lengths


def read_slowly(string: bytes) -> list[int] | None:
    """None for what no run lengths are: a run has 0 to 2^31 pixels, and a number 7 characters at most."""
    lengths: list[int] = []
    value = characters = 0
    for character in string:
        bits = character - 48
        if not 0 <= bits < 64 or characters == 7:
            return None
        value |= (bits & 31) << 5 * characters
        characters += 1
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << 5 * characters
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        if not 0 <= lengths[-1] <= 2**31:
            return None
        value = characters = 0
    return lengths if lengths and not characters else None


def test_many_rows_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotator.row_check.AT_ONCE", 3)
    table = to_table(record(f"{seed}.jpg", seed) for seed in range(20))
    refuse_nonsense(table)
    refuse_nonsense(table.slice(7, 5))
    wrong = replace(record("9.jpg", 9), segments=(*record("9.jpg", 9).segments[:-1], bad_last()))
    with pytest.raises(ValueError, match=r"row 1, '9\.jpg': a segment's area"):
        refuse_nonsense(to_table([wrong]))


def bad_last() -> Segment:
    last = record("9.jpg", 9).segments[-1]
    return replace(last, area=last.area + 1)


def test_the_largest_photo() -> None:
    side = {"width": 2**16 - 1, "height": 2**15}
    assert side["width"] * side["height"] <= MOST_PIXELS < 2**31
    refuse_nonsense(to_table([ImageRecord("a.jpg", "ok", **side)]).drop_columns([*LABELS]))


def test_a_table_is_written_whole(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write_table(part_path(tmp_path, 3), to_table(RECORDS))
    assert read_columns(part_path(tmp_path, 3), EVERYTHING) == to_table(RECORDS)
