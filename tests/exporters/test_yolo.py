"""YOLO segmentation as Ultralytics and supervision read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision
import yaml
from helpers_formats import HOSTILE, files_below, objects_of, same, save_photos
from numpy.typing import NDArray
from PIL import Image

from annotator.errors import ConfigError
from annotator.vocabulary import ClassEntry, Vocabulary
from exporters.base import ExportSummary, export

NAMES = ["background", "cat", "dog", "bird"]


def yolo(run: Any, out: Path, **options: Any) -> ExportSummary:
    return export("yolo-seg", run, out, options)


def dataset(out: Path, split: str = "train") -> dict[Path, list[tuple[int, NDArray[np.int32]]]]:
    """Photo -> (class, polygon in whole pixels), the way Ultralytics documents its reading: all photos below the folder
    that data.yaml names, for each a label file, found by replacing the last `images` folder and the suffix, and
    coordinates in single precision, truncated."""
    folder = out / yaml.safe_load((out / "data.yaml").read_text())[split]
    found = {}
    for photo in sorted(path for path in folder.rglob("*.*") if not path.is_dir()):
        label = "/labels/".join(str(photo).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
        with Image.open(photo) as image:
            sides = np.array(image.size, dtype=np.float32)
        rows = [line.split() for line in Path(label).read_text().splitlines()]
        values = [(int(row[0]), np.array(row[1:], dtype=np.float32).reshape(-1, 2)) for row in rows]
        assert all(((shares >= 0) & (shares <= 1)).all() and len(shares) >= 3 for _, shares in values)
        found[photo] = [(number, (shares * sides).astype(np.int32)) for number, shares in values]
    return found


def mask_of(polygon: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """As OpenCV's `fillPoly` draws it."""
    mask: NDArray[np.bool_] = supervision.polygon_to_mask(polygon, resolution_wh=size[::-1]) > 0
    return mask


def test_masks_come_back(make_run, noise, tmp_path) -> None:
    maps = {f"{index}/{size}.jpg": noise(index, size, size + 7, 4) for index in range(3) for size in (1, 5, 64)}
    run = make_run({**maps, "bad.jpg": None}, NAMES, root=save_photos(tmp_path / "photos", maps))
    summary = yolo(run, tmp_path / "out", split="")
    found = dataset(tmp_path / "out")
    assert {str(path.relative_to(tmp_path / "out/images/train")) for path in found} == set(maps)
    for path, objects in found.items():
        label_map = maps[str(path.relative_to(tmp_path / "out/images/train"))]
        masks = [(number + 1, mask_of(polygon, label_map.shape)) for number, polygon in objects]
        assert same(masks, objects_of(label_map))
    assert (summary.images, summary.skipped) == (len(maps), 1)
    assert summary.annotations == sum(map(len, found.values()))
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert data == {"train": "images/train", "val": "images/train", "names": {0: "cat", 1: "dog", 2: "bird"}}
    assert "no photo is in val, so data.yaml validates on train" in summary.notes


def test_a_label_file_by_hand(make_run, tmp_path) -> None:
    maps = {"a.jpg": np.array([[1, 1, 0, 2], [1, 1, 2, 0]], dtype=np.int32), "b.jpg": np.zeros((2, 2), dtype=np.int32)}
    yolo(make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps)), tmp_path / "out", split="")
    # a quarter pixel into pixels (0, 0), (1, 0), (1, 1), (0, 1); the dog's two pixels are one object, its path goes
    # four times through (3, 0), with a step to (2, 1) between, as there the two touch
    cat, dog = (tmp_path / "out/labels/train/a.txt").read_text().splitlines()
    assert cat == "0 0.0625000 0.1250000 0.3125000 0.1250000 0.3125000 0.6250000 0.0625000 0.6250000"
    assert set(zip(dog.split()[1::2], dog.split()[2::2], strict=True)) == {
        ("0.8125000", "0.1250000"),
        ("0.5625000", "0.6250000"),
    }
    assert (tmp_path / "out/labels/train/b.txt").read_text() == ""


def test_a_hole_and_parts_of_a_class_in_one_path(make_run, tmp_path) -> None:
    label_map = np.zeros((12, 12), dtype=np.int32)
    label_map[1:8, 1:8], label_map[3:5, 3:5], label_map[10:, 9:] = 1, 0, 1
    run = make_run({"a.jpg": label_map}, NAMES, root=save_photos(tmp_path / "photos", {"a.jpg": label_map}))
    yolo(run, tmp_path / "parts", split="")
    assert len(dataset(tmp_path / "parts").popitem()[1]) == 2
    yolo(run, tmp_path / "whole", split="", instances=False)
    ((number, polygon),) = dataset(tmp_path / "whole").popitem()[1]
    assert number == 0
    line = mask_of(polygon, label_map.shape) & (label_map != 1)
    assert 0 < line.sum() <= 10  # the way from one part to the other
    assert (mask_of(polygon, label_map.shape) | line)[label_map == 1].all()


def test_supervision_reads_it(make_run, tmp_path) -> None:
    """Masks are exact, boxes a pixel narrower and lower."""
    rows, columns = np.ogrid[:120, :160]
    label_map = np.zeros((120, 160), dtype=np.int32)
    label_map[np.hypot(rows - 50, columns - 60) < 40] = 3
    label_map[80:110, 110:150] = 1
    maps = {"a.jpg": label_map, "b.jpg": np.zeros((20, 30), dtype=np.int32)}
    yolo(make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps)), tmp_path / "out", split="")
    out = tmp_path / "out"
    loaded = supervision.DetectionDataset.from_yolo(
        str(out / "images/train"), str(out / "labels/train"), str(out / "data.yaml"), force_masks=True
    )
    assert loaded.classes == NAMES[1:]
    found = {Path(path).name: detections for path, _, detections in loaded}
    assert len(found["b.jpg"]) == 0
    assert found["a.jpg"].class_id.tolist() == [0, 2]
    assert found["a.jpg"].xyxy.round(2).tolist() == [[110.25, 80.25, 149.25, 109.25], [21.25, 11.25, 99.25, 89.25]]
    assert np.array_equal(found["a.jpg"].mask, [label_map == 1, label_map == 3])


@pytest.mark.parametrize("how", ["link", "copy", "none"])
def test_photos_come_along(make_run, tmp_path, how) -> None:
    maps = dict.fromkeys(["a.png", "sub/b.jpg", "gone.jpg"], np.ones((4, 6), dtype=np.int32))
    root = save_photos(tmp_path / "photos", maps)
    (root / "gone.jpg").unlink()
    summary = yolo(make_run(maps, NAMES, root=root), tmp_path / "out", split="", photos=how)
    if how == "none":
        assert files_below(tmp_path / "out") == [
            "data.yaml",
            *(f"labels/train/{n}.txt" for n in ("a", "gone", "sub/b")),
        ]
        return
    assert files_below(tmp_path / "out/images") == ["train/a.jpg", "train/sub/b.jpg"]
    assert files_below(tmp_path / "out/labels") == ["train/a.txt", "train/sub/b.txt"]
    assert (tmp_path / "out/images/train/a.jpg").is_symlink() == (how == "link")
    assert summary.images == 2
    assert f"1 photo is left out: no longer in {root}" in summary.notes


def test_splits(make_run, tmp_path) -> None:
    maps = {f"{index}.jpg": np.ones((4, 6), dtype=np.int32) for index in range(30)}
    run = make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps))
    for _ in range(2):  # the same once more is fine
        summary = yolo(run, tmp_path / "out", split="0.5/0.3/0.2", seed=1)
    parts = {split: {path.name for path in dataset(tmp_path / "out", split)} for split in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 30
    assert ", ".join(f"{split}: {len(part)} photos" for split, part in parts.items()) in summary.notes
    # with another seed some photo would be in two
    with pytest.raises(ConfigError, match="expected a folder without other splits, but there is"):
        yolo(run, tmp_path / "out", split="0.5/0.3/0.2", seed=2)


def test_hostile_names(make_run, tmp_path) -> None:
    """Each photo finds its labels, also below folders named `images`."""
    paths = sorted([*HOSTILE, "images/a.jpg", "a/images/b.jpg", "a/images.jpg", "a.png", "a.jpg"])
    maps = {path: np.ones((2, 3 + place), dtype=np.int32) for place, path in enumerate(paths)}
    names = ["background", "ca: t\n#'\"{}", "yes", "~"]
    vocabulary = Vocabulary(tuple(ClassEntry(name, (name,), background=name == "background") for name in names))
    run = make_run(maps, vocabulary, root=save_photos(tmp_path / "photos", maps))
    summary = yolo(run, tmp_path / "out", split="")
    found = dataset(tmp_path / "out")
    assert len(found) == summary.annotations == len(paths)
    assert not any(part.startswith(".") for photo in found for part in photo.relative_to(tmp_path / "out").parts)
    widths = [polygon[:, 0].max() + 1 for objects in found.values() for _, polygon in objects]
    assert sorted(widths) == sorted(label_map.shape[1] for label_map in maps.values())
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert list(data["names"].values()) == names[1:]


def test_fewer_corners_at_a_stated_cost(make_run, tmp_path) -> None:
    rows, columns = np.ogrid[:200, :200]
    label_map = (np.hypot(rows - 100, columns - 100) < 80).astype(np.int32)
    run = make_run({"a.jpg": label_map}, NAMES, root=save_photos(tmp_path / "photos", {"a.jpg": label_map}))
    summary = yolo(run, tmp_path / "out", split="", simplify=2.0)
    ((_, polygon),) = dataset(tmp_path / "out").popitem()[1]
    mask = mask_of(polygon, label_map.shape)
    cost = (mask & (label_map == 1)).sum() / (mask | (label_map == 1)).sum()
    assert 8 <= len(polygon) <= 40
    assert 0.95 < cost < 1
    (stated,) = re.findall(r"^simplify 2: mean IoU with the exact masks (0\.\d{4}) over 1 mask;", summary.notes[-1])
    assert abs(float(stated) - cost) < 0.005  # slanting lines are not drawn alike by Pillow and OpenCV


def test_refusals(make_run, tmp_path) -> None:
    maps = {"a.jpg": np.ones((2, 2), dtype=np.int32)}
    root = save_photos(tmp_path / "images" / "train", maps)
    run = make_run(maps, NAMES, root=root)
    before = (root / "a.jpg").read_bytes()
    with pytest.raises(ConfigError, match="apart from the photos"):
        yolo(run, tmp_path)
    with pytest.raises(ConfigError, match="simplify: expected at least 0"):
        yolo(run, tmp_path / "out", simplify=-1.0)
    assert (root / "a.jpg").read_bytes() == before
