"""Labels of others that are wrong on purpose: taken, or one line with the file's name, and nothing else ever."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from annotator.errors import AnnotatorError
from annotator.imported.convert import convert
from annotator.run import RunReader
from exporters.base import export

MAP = np.repeat(np.array([[0, 1, 2, -1]], np.int32), 3, axis=0)
NAMES = ["background", "cat", "dog"]


@pytest.fixture
def shard(make_run: Any, tmp_path: Path) -> Path:
    run: RunReader = make_run({"a.jpg": MAP}, NAMES, root=tmp_path / "photos")
    export("hf-dataset", run, tmp_path / "hf", {"photos": "none"})
    (found,) = (tmp_path / "hf/data").glob("*.parquet")
    return found


def png(array: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        {"mask": None},
        {"mask": {"bytes": None, "path": None}},
        {"mask": {"bytes": b"", "path": None}},
        {"mask": {"bytes": b"no picture", "path": None}},
        {"mask": {"bytes": png([[0, 1]]), "path": None}},
        {"mask": {"bytes": png([[0, 1, 99, 0]] * 3), "path": None}},
        {"mask": "text"},
        {"mask": 5},
        {"path": None},
        {"path": 5},
        {"path": ""},
        {"path": "/etc/passwd"},
        {"path": "../a.jpg"},
        {"path": "a\0.jpg"},
        {"width": None},
        {"width": 0},
        {"width": -4},
        {"width": "4"},
        {"width": 2**31 - 1},
        {"height": 2.5},
    ],
)
def test_a_row_of_a_shard_that_cannot_be(shard: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    (row,) = pq.read_table(shard, partitioning=None).to_pylist()
    pq.write_table(pa.Table.from_pylist([row | change]), shard)
    with pytest.raises(AnnotatorError) as caught:
        convert(tmp_path / "hf", "coco", tmp_path / "b.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b.json").exists()


def test_a_flipped_shard_gives_the_same_labels_or_an_error(shard: Path, tmp_path: Path) -> None:
    content = shard.read_bytes()
    convert(tmp_path / "hf", "coco", tmp_path / "good.json")
    good = json.loads((tmp_path / "good.json").read_text())
    errors = 0
    for bit in random.Random(0).sample(range(8 * len(content)), 150):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(changed)
        try:
            convert(tmp_path / "hf", "coco", tmp_path / "b.json")
        except AnnotatorError:
            errors += 1
            continue
        assert json.loads((tmp_path / "b.json").read_text())["annotations"] == good["annotations"], bit
    assert errors > 30


@pytest.mark.parametrize(
    "text", ['{"0": "cat", "0": "dog"}', '{"0": null}', '{"x": "cat"}', "[]", '[["0", "cat"]]', "[" * 100_000, "5", ""]
)
def test_a_list_of_values_that_is_none(shard: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "hf/id2label.json").write_text(text)
    with pytest.raises(AnnotatorError, match=r"id2label\.json"):
        convert(tmp_path / "hf", "coco", tmp_path / "b.json")
