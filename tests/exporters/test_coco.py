"""COCO JSON as pycocotools and trainers read it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from annotator.errors import ConfigError
from annotator.run import ImageRecord, write_part
from annotator.vocabulary import ClassEntry, Vocabulary
from exporters.base import ExportSummary, export

NAMES = ["background", "cat", "dog", "bird"]
HOSTILE = [
    "ünïcödé/猫 🐈.jpg",
    "new\nline.jpg",
    "quo\"te'.jpg",
    "back\\slash.jpg",
    "<script>alert(1)</script>.jpg",
    "{}%s$HOME.jpg",
    "x" * 251 + ".jpg",
]


def coco(run: Any, out: Path, **options: Any) -> tuple[ExportSummary, dict[str, Any]]:
    summary = export("coco", run, out, options)
    return summary, json.loads(out.read_text(encoding="ascii"))


def decoded(form: Any, size: tuple[int, int]) -> np.ndarray:
    """As loaders do that know one form only; polygons the way of torchvision's detection reference."""
    if isinstance(form, list):
        return coco_mask.decode(coco_mask.frPyObjects(form, *size)).any(axis=2)
    if isinstance(form["counts"], list):
        form = coco_mask.frPyObjects(form, *size)
    return coco_mask.decode(form).astype(bool)


@pytest.mark.parametrize("segmentation", ["polygon", "rle", "rle-uncompressed"])
@pytest.mark.parametrize("instances", [False, True])
def test_masks_come_back(make_run, noise, tmp_path, segmentation, instances) -> None:
    maps = {f"{size}/{seed}.jpg": noise(seed, size, size + 7, 4) for seed in range(3) for size in (1, 5, 64)}
    summary, content = coco(
        make_run(maps, NAMES), tmp_path / "labels.json", segmentation=segmentation, instances=instances
    )
    loaded = COCO(str(tmp_path / "labels.json"))
    assert [image["file_name"] for image in content["images"]] == sorted(maps)
    assert summary.images == len(maps)
    assert summary.annotations == len(content["annotations"])
    for image in content["images"]:
        label_map = maps[image["file_name"]]
        assert (image["height"], image["width"]) == label_map.shape
        annotations = loaded.imgToAnns[image["id"]]
        painted = np.zeros(label_map.shape, dtype=np.int64)
        for annotation in annotations:
            mask = loaded.annToMask(annotation)
            assert np.array_equal(mask, decoded(annotation["segmentation"], label_map.shape))
            assert not painted[mask > 0].any(), "masks of a photo are disjoint"
            painted[mask > 0] = annotation["category_id"]
            rle = loaded.annToRLE(annotation)
            assert annotation["area"] == coco_mask.area(rle)
            assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()
            assert annotation["iscrowd"] == 0
        # category id = class index + 1; the background and pixels without a label are in no mask
        assert np.array_equal(painted, np.where(label_map > 0, label_map + 1, 0))


def test_what_is_in_the_json(make_run, tmp_path) -> None:
    label_map = np.array([[0, 1, 1], [2, 2, -1]], dtype=np.int32)
    run = make_run({"sub/a.jpg": label_map}, NAMES, scores=[0.9, 0.25, 0.5, 0.1])
    summary, content = coco(run, tmp_path / "labels.json")
    assert content == {
        "info": {"description": "Masks by the labeler test", "version": "1.2", "contributor": "annotate 1.2"},
        "licenses": [],
        "categories": [
            {"id": 2, "name": "cat", "supercategory": "object"},
            {"id": 3, "name": "dog", "supercategory": "object"},
            {"id": 4, "name": "bird", "supercategory": "object"},
        ],
        "images": [{"id": 1, "width": 3, "height": 2, "file_name": "sub/a.jpg"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2,
                "segmentation": [[1, 0, 3, 0, 3, 1, 1, 1]],
                "area": 2,
                "bbox": [1, 0, 2, 1],
                "iscrowd": 0,
                "score": 0.25,
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 3,
                "segmentation": [[0, 1, 2, 1, 2, 2, 0, 2]],
                "area": 2,
                "bbox": [0, 1, 2, 1],
                "iscrowd": 0,
                "score": 0.5,
            },
        ],
    }
    assert summary.notes == []
    assert not any("score" in a for a in coco(run, tmp_path / "strict.json", strict=True)[1]["annotations"])


def test_ids_are_unique_and_failed_photos_left_out(make_run, noise, tmp_path) -> None:
    maps = {f"{index}.jpg": noise(index, 40, 40, 4) if index % 3 else None for index in range(9)}
    summary, content = coco(make_run(maps, NAMES), tmp_path / "labels.json", instances=True)
    assert [image["id"] for image in content["images"]] == list(range(1, 7))
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) > 50
    assert (summary.images, summary.skipped) == (6, 3)
    assert summary.notes == ["3 photos left out: failed in the run"]


def test_a_run_without_masks(make_run, tmp_path) -> None:
    """No label, only background, a run of no photo at all: still a JSON that loads."""
    nothing, background = np.full((2, 2), -1, dtype=np.int32), np.zeros((2, 2), dtype=np.int32)
    _, content = coco(make_run({"a.jpg": nothing, "b.jpg": background}, NAMES), tmp_path / "labels.json")
    assert (len(content["images"]), content["annotations"]) == (2, [])
    assert len(COCO(str(tmp_path / "labels.json")).getImgIds()) == 2
    _, content = coco(make_run({}, NAMES), tmp_path / "empty.json")
    assert (content["images"], content["annotations"]) == ([], [])
    _, content = coco(make_run({}, None), tmp_path / "open.json")
    assert content["categories"] == []


def test_open_labels_become_categories_in_sorted_order(make_run, tmp_path) -> None:
    """Two segments of one name are one annotation; its score is the mean over pixels."""
    label_map = np.array([[0, 1, 2, 2, 2]], dtype=np.int32)
    run = make_run({"a.jpg": label_map}, None, labels=["zebra", "a cat", "zebra"], scores=[0.2, 0.7, 0.6])
    _, content = coco(run, tmp_path / "labels.json", segmentation="rle")
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "cat"), (2, "zebra")]
    cat, zebra = content["annotations"]
    assert (cat["category_id"], cat["area"], cat["bbox"], cat["score"]) == (1, 1, [1, 0, 1, 1], 0.7)
    assert (zebra["category_id"], zebra["area"], zebra["bbox"], zebra["score"]) == (2, 4, [0, 0, 5, 1], 0.5)
    assert decoded(zebra["segmentation"], (1, 5)).tolist() == [[True, False, True, True, True]]


@pytest.mark.parametrize("variant", ["instances", "panoptic", "stuff"])
def test_hostile_names(make_run, tmp_path, variant) -> None:
    label_map = np.array([[1, 2]], dtype=np.int32)
    _, content = coco(make_run(dict.fromkeys(HOSTILE, label_map), NAMES), tmp_path / "labels.json", variant=variant)
    assert [image["file_name"] for image in content["images"]] == sorted(HOSTILE)
    if variant == "panoptic":
        pngs = [annotation["file_name"] for annotation in content["annotations"]]
        assert len(set(pngs)) == len(HOSTILE)
        assert all((tmp_path / "labels" / name).is_file() for name in pngs)


@pytest.mark.parametrize("variant", ["instances", "panoptic", "stuff"])
def test_the_same_bytes_however_the_run_was_written(make_run, noise, tmp_path, variant) -> None:
    maps = {f"{seed}.jpg": noise(seed, 30, 20, 4) for seed in range(12)}
    shuffled = {path: maps[path] for path in random.Random(7).sample(sorted(maps), len(maps))}
    whole, parts = make_run(maps, NAMES), make_run(shuffled, NAMES, part_rows=5)
    for run, folder in ((whole, tmp_path / "whole"), (parts, tmp_path / "parts")):
        coco(run, folder / "labels.json", variant=variant)
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*"))
    assert files == sorted(path.relative_to(tmp_path / "parts") for path in (tmp_path / "parts").rglob("*.*"))
    assert all((tmp_path / "whole" / f).read_bytes() == (tmp_path / "parts" / f).read_bytes() for f in files)


def test_panoptic(make_run, noise, tmp_path) -> None:
    maps = {"sub/a.jpg": noise(1, 60, 50, 4), "sub/a.png": noise(2, 20, 30, 4)}
    summary, content = coco(make_run(maps, NAMES), tmp_path / "panoptic.json", variant="panoptic", instances=True)
    assert [category["isthing"] for category in content["categories"]] == [1, 1, 1]
    assert len({a["file_name"] for a in content["annotations"]}) == 2
    assert any("differs only in the extension" in note for note in summary.notes)
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        assert annotation["image_id"] == image["id"]
        with Image.open(tmp_path / "panoptic" / annotation["file_name"]) as png:
            assert png.mode == "RGB"
            red, green, blue = np.moveaxis(np.asarray(png).astype(np.int64), 2, 0)
        ids = red + 256 * green + 256**2 * blue
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert len(segments) == len(annotation["segments_info"])
        assert set(np.unique(ids)) == {0, *segments}
        categories = np.zeros_like(ids)
        for number, segment in segments.items():
            rle = coco_mask.encode(np.asfortranarray(ids == number, dtype=np.uint8))
            assert segment["area"] == coco_mask.area(rle)
            assert segment["bbox"] == coco_mask.toBbox(rle).tolist()
            assert segment["iscrowd"] == 0
            categories[ids == number] = segment["category_id"]
        label_map = maps[image["file_name"]]
        assert np.array_equal(categories, np.where(label_map > 0, label_map + 1, 0))  # void where background


def test_panoptic_ids_need_more_than_a_byte(make_run, tmp_path) -> None:
    dots = np.full((64, 64), -1, dtype=np.int32)
    dots[::2, ::2] = 0  # 1,024 parts
    _, content = coco(make_run({"a.jpg": dots}, ["cat"]), tmp_path / "p.json", variant="panoptic", instances=True)
    assert len(content["annotations"][0]["segments_info"]) == 1024
    pixels = np.asarray(Image.open(tmp_path / "p" / "a.png")).astype(np.int64)
    assert np.array_equal(np.unique(pixels @ [1, 256, 65536]), np.arange(1025))


def test_stuff_has_one_mask_per_class_and_the_background(make_run, noise, tmp_path) -> None:
    label_map = noise(5, 40, 40, 4)
    _, content = coco(make_run({"a.jpg": label_map}, NAMES), tmp_path / "stuff.json", variant="stuff")
    assert [category["id"] for category in content["categories"]] == [1, 2, 3, 4]
    assert content["categories"][0]["supercategory"] == "background"
    assert [annotation["category_id"] for annotation in content["annotations"]] == [1, 2, 3, 4]
    for annotation in content["annotations"]:
        assert isinstance(annotation["segmentation"]["counts"], str)
        found = decoded(annotation["segmentation"], label_map.shape)
        assert np.array_equal(found, label_map == annotation["category_id"] - 1)


def test_classes_that_are_not_written_have_no_category(make_run, tmp_path) -> None:
    vocabulary = Vocabulary(
        (
            ClassEntry("dog", ("dog",), color=(1, 2, 3)),
            ClassEntry("watermark", ("watermark",), ignore=True),
            ClassEntry("puppy", ("puppy",), merge_into="dog"),
            ClassEntry("bird", ("bird",)),
        )
    )
    run = make_run({"a.jpg": np.array([[0, 1]], dtype=np.int32)}, vocabulary)
    _, content = coco(run, tmp_path / "labels.json", variant="panoptic")
    # the vocabulary's colour, or Pascal VOC's for the category's id
    assert [(c["id"], c["name"], c["color"]) for c in content["categories"]] == [
        (1, "dog", [1, 2, 3]),
        (2, "bird", [0, 128, 0]),
    ]


def test_turned_photos_are_told_of(make_run, tmp_path) -> None:
    maps = dict.fromkeys(["a.jpg", "b.jpg"], np.zeros((2, 3), dtype=np.int32))
    summary, content = coco(make_run(maps, ["cat"], turned=["b.jpg"]), tmp_path / "labels.json")
    assert [(image["width"], image["height"]) for image in content["images"]] == [(3, 2), (3, 2)]
    assert [note for note in summary.notes if note.startswith("1 photo is turned by EXIF")] == summary.notes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mirrored_photo_is_turned_too(make_run, tmp_path, orientation: int) -> None:
    run = make_run({}, ["cat"])
    write_part(run.directory, 0, [ImageRecord("a.jpg", "ok", width=3, height=2, orientation=orientation)])
    summary, _ = coco(run, tmp_path / "labels.json")
    assert bool(summary.notes) == (orientation != 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("labels.json", {"segmentation": "polygons"}, "expected one of polygon, rle, rle-uncompressed"),
        ("labels.json", {"min_area": -1}, "min_area: expected at least 0, but got -1"),
        ("labels.json", {"variant": "stuff", "instances": True}, "one mask per class"),
        ("labels.txt", {}, "expected out, for the format coco, to name a file that ends in .json"),
        ("photos.json", {"variant": "panoptic"}, "expected a folder apart from the photos"),
    ],
)
def test_refusals(make_run, tmp_path, name, options, message) -> None:
    run = make_run({"a.jpg": np.zeros((1, 1), dtype=np.int32)}, ["cat"], root=tmp_path / "photos")
    with pytest.raises(ConfigError, match=message):
        coco(run, tmp_path / name, **options)
    assert not (tmp_path / name).exists()


def test_an_older_export_stays_until_the_new_one_is_whole(make_run, tmp_path, monkeypatch) -> None:
    run = make_run({"a.jpg": np.zeros((1, 1), dtype=np.int32)}, ["cat"])
    out = tmp_path / "out" / "labels.json"
    before = coco(run, out)[1]
    monkeypatch.setattr("exporters.simplify.polygons", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export("coco", run, out)
    assert json.loads(out.read_text()) == before
    assert [path.name for path in out.parent.iterdir()] == ["labels.json"]
