"""Datumaro's JSON, read as it documents it; by Datumaro itself where that is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_formats import HOSTILE, files_below, objects_of, same, save_photos
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from annotator.errors import ConfigError
from exporters.base import ExportSummary, export

NAMES = ["background", "cat", "dog", "bird"]


def datumaro(run: Any, out: Path, **options: Any) -> ExportSummary:
    return export("datumaro", run, out, options)


def content_of(out: Path, split: str = "train") -> dict[str, Any]:
    return json.loads((out / "annotations" / f"{split}.json").read_text(encoding="ascii"))


def objects_in(item: dict[str, Any], names: list[str]) -> list[tuple[int, NDArray[np.bool_]]]:
    found = []
    for each in item["annotations"]:
        assert each["type"] == "mask"
        mask = coco_mask.decode({**each["rle"], "counts": each["rle"]["counts"].encode()}).astype(np.bool_)
        assert mask.shape == tuple(item["image"]["size"])
        found.append((NAMES.index(names[each["label_id"]]), mask))
    return found


def test_masks_come_back(make_run, noise, tmp_path) -> None:
    maps = {f"sub/{index}/{size}.jpg": noise(index, size, size + 7, 4) for index in range(3) for size in (1, 5, 64)}
    run = make_run({**maps, "bad.jpg": None}, NAMES, root=save_photos(tmp_path / "photos", maps))
    summary = datumaro(run, tmp_path / "out", instances=True)
    content = content_of(tmp_path / "out")
    names = [label["name"] for label in content["categories"]["label"]["labels"]]
    assert names == NAMES[1:]
    assert [item["id"] for item in content["items"]] == [path.removesuffix(".jpg") for path in sorted(maps)]
    for item in content["items"]:
        assert same(objects_in(item, names), objects_of(maps[item["attr"]["path"]]))
        with Image.open(tmp_path / "out/images/train" / item["image"]["path"]) as image:
            assert image.size == maps[item["attr"]["path"]].shape[::-1]
    assert summary.annotations == sum(len(item["annotations"]) for item in content["items"])
    assert (summary.images, summary.skipped) == (len(maps), 1)


def test_what_is_in_the_json(make_run, tmp_path) -> None:
    maps = {"a.jpg": np.array([[0, 1, 1]], dtype=np.int32)}
    run = make_run(maps, NAMES, scores=[0.9, 0.25, 0.9, 0.9], root=save_photos(tmp_path / "photos", maps))
    datumaro(run, tmp_path / "out")
    content = content_of(tmp_path / "out")
    assert (content["dm_format_version"], content["media_type"]) == ("1.0", 2)
    assert content["categories"]["mask"]["colormap"][1] == {"label_id": 1, "r": 128, "g": 128, "b": 0}
    (item,) = content["items"]
    counts = item["annotations"][0]["rle"].pop("counts")
    assert counts == coco_mask.encode(np.asfortranarray([[0, 1, 1]], dtype=np.uint8))["counts"].decode()
    assert item == {
        "id": "a",
        "attr": {"path": "a.jpg"},
        "image": {"path": "a.jpg", "size": [1, 3]},
        "annotations": [
            {
                "id": 1,
                "type": "mask",
                "attributes": {"score": 0.25},
                "group": 1,
                "label_id": 0,
                "rle": {"size": [1, 3]},
                "z_order": 0,
            }
        ],
    }


def test_splits(make_run, tmp_path) -> None:
    maps = {f"{index}.jpg": np.ones((4, 6), dtype=np.int32) for index in range(20)}
    run = make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps))
    datumaro(run, tmp_path / "out", split="0.5/0.3/0.2")
    items = {split: content_of(tmp_path / "out", split)["items"] for split in ("train", "val", "test")}
    assert sum(map(len, items.values())) == len(maps)
    images = sorted(f"{split}/{item['image']['path']}" for split, part in items.items() for item in part)
    assert files_below(tmp_path / "out/images") == images
    with pytest.raises(ConfigError, match=r"expected a folder without other splits, but there is .*test\.json"):
        datumaro(run, tmp_path / "out", split="0.5/0.5")
    with pytest.raises(ConfigError, match=r"expected a folder without other splits, but there is .*\.jpg"):
        datumaro(run, tmp_path / "out", split="0.5/0.3/0.2", seed=2)  # some photo would be in two


def test_hostile_names(make_run, tmp_path) -> None:
    maps = {path: np.ones((2, 3 + place), dtype=np.int32) for place, path in enumerate([*HOSTILE, "a.jpg", "a.png"])}
    datumaro(make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps)), tmp_path / "out")
    items = content_of(tmp_path / "out")["items"]
    assert [item["attr"]["path"] for item in items] == sorted(maps)
    assert len({item["id"] for item in items}) == len(maps)
    for item in items:
        with Image.open(tmp_path / "out/images/train" / item["image"]["path"]) as image:
            assert image.size == maps[item["attr"]["path"]].shape[::-1]


def test_datumaro_reads_it(make_run, noise, tmp_path) -> None:
    """All names, and photos with pixels: it refuses what leads out of the dataset's folder."""
    base = pytest.importorskip("datumaro.plugins.data_formats.datumaro.base", reason="datumaro is not installed")
    maps = {path: noise(place, 9, 10 + place, 4) for place, path in enumerate([*HOSTILE, "a.jpg", "a.png"])}
    datumaro(make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps)), tmp_path / "out", instances=True)
    items = list(base.DatumaroBase(str(tmp_path / "out/annotations/train.json")))
    assert len(items) == len(maps)
    for item in items:
        label_map = maps[item.attributes["path"]]
        found = [(each.label + 1, np.asarray(each.image).astype(np.bool_)) for each in item.annotations]
        assert same(found, objects_of(label_map))
        assert item.media.data.shape[:2] == label_map.shape


def test_photos_left_where_they_are(make_run, tmp_path) -> None:
    maps = dict.fromkeys(["a.jpg", "gone.jpg"], np.ones((4, 6), dtype=np.int32))
    root = save_photos(tmp_path / "images", maps)
    (root / "gone.jpg").unlink()
    run = make_run(maps, NAMES, root=root)
    with pytest.raises(ConfigError, match="apart from the photos"):
        datumaro(run, tmp_path)
    assert datumaro(run, tmp_path / "out", photos="none").images == 2
    assert datumaro(run, tmp_path / "out").notes == [f"1 photo is left out: no longer in {root}"]
    assert len(content_of(tmp_path / "out")["items"]) == 1
