"""Rows that somebody changed by hand, and whoever reads them: one line, and nothing is written."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_formats import save_photos

from annotator.commands.report import report
from annotator.errors import RunError
from annotator.record import ROW
from annotator.run import RunReader, part_files
from exporters.base import available, export, find

MAP = np.repeat(np.array([[0, 1, -1, 1]], np.int32), 3, axis=0)
SEGMENTS = "segments"
CHANGES: dict[str, dict[str, Any]] = {
    "no path": {"path": None},
    "a path out of the folder": {"path": "../a.jpg"},
    "an absolute path": {"path": "/etc/hostname"},
    "no width": {"width": None},
    "a width of 0": {"width": 0},
    "a width of a billion": {"width": 10**9},
    "no height": {"height": None},
    "another height": {"height": 4},
    "no run lengths": {SEGMENTS: {"rle": None}},
    "run lengths that are too short": {SEGMENTS: {"rle": b"11"}},
    "run lengths that are none": {SEGMENTS: {"rle": b"\xff"}},
    "a class beyond the last": {SEGMENTS: {"class_id": 2}},
    "a box outside": {SEGMENTS: {"bbox": [0, 0, 5, 3]}},
    "no label": {SEGMENTS: {"label": None}},
    "a history that is none": {"history": "{"},
}


def write_report(run: RunReader, out: Path) -> None:
    with redirect_stdout(io.StringIO()):
        report(run.directory, out=out)


WAYS: dict[str, Callable[[RunReader, Path], object]] = {
    **{name: lambda run, out, name=name: export(name, run, out.with_suffix(find(name).suffix)) for name in available()},
    "report": write_report,
    "corrections": lambda run, out: list(run.records()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_cannot_be(way: str, change: str, make_run: Callable, tmp_path: Path) -> None:
    root = save_photos(tmp_path / "photos", {"a.jpg": MAP, "b.jpg": MAP})
    run = make_run({"a.jpg": MAP, "b.jpg": MAP}, ["cat", "dog"], root=root)
    (part,) = part_files(run.directory)
    rows = pq.read_table(part, partitioning=None).to_pylist()
    values = dict(CHANGES[change])
    rows[1][SEGMENTS][0].update(values.pop(SEGMENTS, {}))
    rows[1].update(values)
    table = pa.Table.from_pylist(rows, schema=ROW)
    pq.write_table(table.replace_schema_metadata({"first_path": "a.jpg", "last_path": "b.jpg"}), part)
    photos = {file: file.read_bytes() for file in root.iterdir()}
    with pytest.raises(RunError) as caught:
        WAYS[way](run, tmp_path / "out")
    assert str(caught.value).isprintable()
    assert {file: file.read_bytes() for file in root.iterdir()} == photos
    assert {each.name for each in tmp_path.iterdir()} <= {"photos", "out", run.directory.name}
