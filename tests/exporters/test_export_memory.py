"""Exports need memory for a photo, not for the run."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from annotator.run import RunReader
from exporters.base import export, find

pytestmark = pytest.mark.slow

TABLE_OF_NAMES = "not even when Python's own table of interned strings, which paths go to, did not grow meanwhile"
NAMES = [f"class {index}" for index in range(8)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("coco", {"segmentation": "rle"}),
        ("coco", {"variant": "panoptic"}),
        ("mask-png", {"preset": "hf", "photos": "none"}),
    ],
)
def test_ten_times_the_photos_take_no_more_memory(make_run, noise, tmp_path, name, options) -> None:
    label_map = noise(0, 8, 12, 8)
    few, many = (run_of(make_run, photos, label_map) for photos in (200, 2000))
    peak(name, options, few, tmp_path / "first")  # what is imported or cached once
    most = 2 * peak(name, options, few, tmp_path / "few")  # the reader holds one part or two
    assert any(peak(name, options, many, tmp_path / f"many{turn}") < most for turn in range(2)), TABLE_OF_NAMES


@pytest.mark.parametrize("name", ["yolo-seg", "voc", "labelme", "cvat", "label-studio", "datumaro", "hf-dataset"])
def test_so_it_is_for_every_format(make_run, tmp_path, name) -> None:
    """Fewer and simpler photos, so that this stays quick."""
    label_map = np.kron(np.array([[0, 1], [2, 1]], dtype=np.int32), np.ones((4, 6), dtype=np.int32))
    few, many = (run_of(make_run, photos, label_map, part_rows=16) for photos in (48, 288))
    options = {"photos": "none"} if "photos" in find(name).options.__dataclass_fields__ else {}
    peak(name, options, few, tmp_path / "first")
    most = 2 * peak(name, options, few, tmp_path / "few")
    assert any(peak(name, options, many, tmp_path / f"many{turn}") < most for turn in range(2)), TABLE_OF_NAMES


def run_of(make_run: Any, photos: int, label_map: NDArray[np.int32], part_rows: int = 64) -> RunReader:
    maps = {f"folder {index // 300:02d}/{index:06d}.jpg": label_map for index in range(photos)}
    run: RunReader = make_run(maps, NAMES, part_rows=part_rows)
    return run


def peak(name: str, options: dict[str, Any], run: RunReader, folder: Path) -> int:
    """Bytes that an export needs at most."""
    tracemalloc.start()
    summary = export(name, run, folder / f"out{find(name).suffix}", options)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert summary.images == len(run)
    return most
