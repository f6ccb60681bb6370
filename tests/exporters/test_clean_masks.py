"""`min_area` and `fill_holes` of formats that write masks of classes, against maps drawn by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers_formats import save_photos
from numpy.typing import NDArray
from PIL import Image

from exporters.base import export

NAMES = ["background", "cat", "dog"]
VALUES = {".": 0, "C": 1, "D": 2, " ": -1}

DRAWN = [
    "........  ",
    ".CCCCC.   ",
    ".C DDC. D ",  # a hole in the cat, half of it a dog of two pixels; a dog of one pixel among nothing
    ".CCCCC.   ",
    "....D...  ",  # a dog of one pixel on the background
    ". ......CC",  # a hole in the background; a cat of two pixels
    ".........C",
]
SMALL_OUT = [
    "........  ",
    ".CCCCC.   ",
    ".C   C.   ",
    ".CCCCC.   ",
    ".... ...  ",
    ". ......CC",
    ".........C",
]
FILLED = [
    "........  ",
    ".CCCCC.   ",
    ".CCDDC. D ",
    ".CCCCC.   ",
    "....D...  ",
    "........CC",
    ".........C",
]
BOTH = [
    "........  ",
    ".CCCCC.   ",
    ".CCCCC.   ",
    ".CCCCC.   ",
    "........  ",
    "........CC",
    ".........C",
]
CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, DRAWN),
    ({"min_area": 1}, DRAWN),
    ({"min_area": 3}, SMALL_OUT),
    ({"fill_holes": True}, FILLED),
    ({"min_area": 3, "fill_holes": True}, BOTH),
]
FORMS = [
    ("mask-png", {}, "a.png"),
    ("mask-png", {"preset": "voc"}, "SegmentationClass/a.png"),
    ("mask-png", {"preset": "mmseg"}, "ann_dir/train/a.png"),
    ("mask-png", {"preset": "ade"}, "annotations/training/a.png"),
    ("mask-png", {"preset": "hf"}, "train/labels/a.png"),
    ("hf-dataset", {}, "data/train-00000.parquet"),
    ("voc", {}, "SegmentationClass/a.png"),
]


def values_of(lines: list[str]) -> NDArray[np.int32]:
    return np.array([[VALUES[sign] for sign in line] for line in lines], dtype=np.int32)


def read(path: Path) -> NDArray[np.uint8]:
    """Of a Parquet file its first mask."""
    source = path if path.suffix == ".png" else io.BytesIO(pq.read_table(path)["mask"][0].as_py()["bytes"])
    return np.asarray(Image.open(source))


@pytest.mark.parametrize(("given", "expected"), CASES)
@pytest.mark.parametrize(("name", "layout", "file"), FORMS)
def test_small_regions_go_and_then_holes(make_run, tmp_path, name, layout, file, given, expected) -> None:
    maps = {"a.jpg": values_of(DRAWN)}
    run = make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps))
    export(name, run, tmp_path / "out", {**layout, **given})
    wanted = values_of(expected)
    if layout.get("preset") == "ade":
        wanted = wanted + 1
    else:
        wanted[wanted == -1] = 255
    assert read(tmp_path / "out" / file).tolist() == wanted.tolist()


def test_classes_that_are_left_out_are_unlabelled(make_run, tmp_path) -> None:
    """Of free-text labels, as too rare: no region of any class, however large."""
    maps = {"a.jpg": values_of(DRAWN), "b.jpg": np.ones((2, 2), dtype=np.int32)}
    run = make_run(maps, None, labels=["ground", "cat", "dog"])
    export("mask-png", run, tmp_path / "out", {"min_count": 2, "min_area": 3})
    found = read(tmp_path / "out/a.png")
    assert found.tolist() == np.where(values_of(SMALL_OUT) == 1, 0, 255).tolist()


@pytest.mark.parametrize("side", [24, 60])
def test_noise_against_regions_grown_by_hand(make_run, noise, tmp_path, side) -> None:
    """Each region grown pixel by pixel from its first one."""
    label_map = noise(side, side, side + 7, 3)
    run = make_run({"a.jpg": label_map}, NAMES)
    export("mask-png", run, tmp_path / "out", {"min_area": 9})
    found = read(tmp_path / "out/a.png").astype(np.int32)
    kept = found != 255
    assert np.array_equal(found[kept], label_map[kept])
    for value in range(3):
        large = np.zeros(label_map.shape, dtype=bool)
        left = label_map == value
        while left.any():
            region = np.zeros(label_map.shape, dtype=bool)
            region[tuple(np.argwhere(left)[0])] = True
            while (grown := _grown(region) & left).sum() > region.sum():
                region = grown
            left &= ~region
            if region.sum() >= 9:
                large |= region
        assert np.array_equal(found == value, large)


def _grown(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """By one pixel, across corners too."""
    padded = np.pad(region, 1)
    height, width = region.shape
    return np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
