"""Exports need memory for a photo, not for the run."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from exporters.base import export

NAMES = [f"class {index}" for index in range(8)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("coco", {"segmentation": "rle"}),
        ("coco", {"variant": "panoptic"}),
        ("mask-png", {"preset": "hf"}),
    ],
)
def test_ten_times_the_photos_take_no_more_memory(make_run, noise, tmp_path, name, options) -> None:
    label_map = noise(0, 8, 12, 8)

    def peak(photos: int, out: Path) -> int:
        maps = {f"folder {index // 300:02d}/{index:06d}.jpg": label_map for index in range(photos)}
        run: Any = make_run(maps, NAMES, part_rows=64)
        tracemalloc.start()
        summary = export(name, run, out, options)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert summary.images == photos
        return most

    peak(10, tmp_path / "first" / "out.json")  # what is imported or cached once
    few, many = peak(200, tmp_path / "few" / "out.json"), peak(2000, tmp_path / "many" / "out.json")
    assert many < 2 * few  # the reader holds one part or two
