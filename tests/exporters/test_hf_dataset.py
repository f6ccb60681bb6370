"""Parquet shards as Hugging Face's `datasets` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_formats import HOSTILE, files_below, save_photos
from PIL import Image

from annotator.errors import ConfigError
from exporters import hf_dataset
from exporters.base import ExportSummary, export

NAMES = ["background", "cat", "dog", "bird"]


def hf(run: Any, out: Path, **options: Any) -> ExportSummary:
    return export("hf-dataset", run, out, options)


def load(out: Path, cache: Path) -> Any:
    """As a user does; a cache of its own for each reading."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.load_dataset(str(out), cache_dir=str(cache))


@pytest.mark.parametrize("photos", ["copy", "link", "none"])
def test_masks_and_photos_come_back(make_run, noise, tmp_path, photos) -> None:
    maps = {f"sub/{index}.jpg": noise(index, 20 + index, 30, 4) for index in range(5)}
    root = save_photos(tmp_path / "photos", maps)
    summary = hf(make_run({**maps, "bad.jpg": None}, NAMES, root=root), tmp_path / "out", photos=photos)
    loaded = load(tmp_path / "out", tmp_path / "cache")
    assert list(loaded) == ["train"]
    assert loaded["train"].num_rows == 5
    for row in loaded["train"]:
        label_map = maps[row["path"]]
        assert np.array_equal(np.asarray(row["mask"]), np.where(label_map < 0, 255, label_map))
        assert (row["height"], row["width"]) == label_map.shape
        assert ("image" in row) == (photos != "none")
        if photos != "none":
            with Image.open(root / row["path"]) as original:
                assert np.array_equal(np.asarray(row["image"].convert("RGB")), np.asarray(original))
    assert (summary.images, summary.skipped) == (5, 1)
    assert json.loads((tmp_path / "out/id2label.json").read_text()) == {
        str(index): name for index, name in enumerate(NAMES)
    }


def test_splits_and_shards(make_run, noise, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hf_dataset, "GROUP_ROWS", 3)
    monkeypatch.setattr(hf_dataset, "SHARD_BYTES", 2000)
    maps = {f"{index:02d}.jpg": noise(index, 6, 6, 3) for index in range(40)}
    run = make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps))
    hf(run, tmp_path / "out", split="0.6/0.2/0.2", photos="none")
    loaded = load(tmp_path / "out", tmp_path / "cache")
    assert list(loaded) == ["train", "validation", "test"]
    paths = {split: list(part["path"]) for split, part in loaded.items()}
    assert all(part == sorted(part) for part in paths.values())
    assert sorted(path for part in paths.values() for path in part) == sorted(maps)
    shards = files_below(tmp_path / "out/data")
    assert sum(name.startswith("train-") for name in shards) > 2
    # fewer rows, one split: nothing of before is read any more
    hf(make_run(dict(list(maps.items())[:5]), NAMES, root=tmp_path / "photos"), tmp_path / "out", photos="none")
    assert [name for name in files_below(tmp_path / "out/data") if "train" in name] == ["train-00000.parquet"]
    loaded = load(tmp_path / "out", tmp_path / "cache2")
    assert (list(loaded), loaded["train"].num_rows) == (["train"], 5)
    with pytest.raises(
        ConfigError, match=r"expected a folder without other splits, but there is .*test-0000.\.parquet"
    ):
        hf(run, tmp_path / "out", split="0.5/0.5", photos="none")


def test_many_classes_and_hostile_names(make_run, tmp_path) -> None:
    names = [f"class {index}" for index in range(300)]
    maps = {path: np.full((2, 3 + place), 299 - place, dtype=np.int32) for place, path in enumerate(HOSTILE)}
    maps["turned.jpg"] = np.full((2, 40), -1, dtype=np.int32)
    root = save_photos(tmp_path / "photos", maps)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2, 40), (9, 99, 200)).save(root / "turned.jpg", exif=exif)
    hf(make_run(maps, names, root=root, turned=["turned.jpg"]), tmp_path / "out")
    rows = {row["path"]: row for row in load(tmp_path / "out", tmp_path / "cache")["train"]}
    assert sorted(rows) == sorted(maps)
    for path, row in rows.items():
        mask = np.asarray(row["mask"]).astype(np.int64)
        assert np.array_equal(mask, np.where(maps[path] < 0, 65535, maps[path]))
        assert row["image"].size == mask.shape[::-1]
    assert rows["turned.jpg"]["image"].getexif().get(0x0112, 1) == 1


def test_an_older_export_stays_until_the_new_one_is_whole(make_run, tmp_path, monkeypatch) -> None:
    maps = dict.fromkeys(["a.jpg", "b.jpg", "gone.jpg"], np.ones((4, 6), dtype=np.int32))
    root = save_photos(tmp_path / "photos", maps)
    (root / "gone.jpg").unlink()
    run = make_run(maps, NAMES, root=root)
    assert hf(run, tmp_path / "out").notes == [f"1 photo is left out: no longer in {root}"]
    before = (tmp_path / "out/data/train-00000.parquet").read_bytes()
    calls = iter([b"x"])
    monkeypatch.setattr(hf_dataset, "_mask", lambda *_: next(calls))
    with pytest.raises(StopIteration):
        hf(run, tmp_path / "out")
    assert (tmp_path / "out/data/train-00000.parquet").read_bytes() == before
    assert files_below(tmp_path / "out/data") == ["train-00000.parquet"]
    with pytest.raises(ConfigError, match="apart from the photos"):
        hf(run, root)
