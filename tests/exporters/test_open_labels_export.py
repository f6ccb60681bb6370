"""Runs whose labeler named the classes itself, as trainers get them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers_formats import save_photos
from PIL import Image
from pycocotools.coco import COCO

from annotator.errors import ConfigError
from exporters.base import export, find

LABELS = ["a dog", "Dogs", "the sky", "zebra"]
MAPS = {
    "a.jpg": np.array([[0, 1, 2, 3]], dtype=np.int32),
    "b.jpg": np.array([[1, 1, 2, -1]], dtype=np.int32),
    "c.jpg": np.array([[0, 0, 0, 0]], dtype=np.int32),
    "d.jpg": None,
}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["dog", "sky", "zebra"]),
        ({"min_count": 2}, ["dog", "sky"]),
        ({"top": 1}, ["dog"]),
        ({"min_count": 2, "top": 5}, ["dog", "sky"]),
    ],
)
def test_coco_categories(make_run, tmp_path, options, names) -> None:
    out = tmp_path / "labels.json"
    summary = export("coco", make_run(MAPS, None, labels=LABELS), out, options)
    loaded = COCO(str(out))
    assert [(c["id"], c["name"]) for c in loaded.dataset["categories"]] == list(enumerate(names, start=1))
    areas = {
        (image["file_name"], loaded.cats[annotation["category_id"]]["name"]): int(loaded.annToMask(annotation).sum())
        for image in loaded.dataset["images"]
        for annotation in loaded.imgToAnns[image["id"]]
    }
    everything = {  # "a dog" and "Dogs" of one photo are one mask
        ("a.jpg", "dog"): 2, ("a.jpg", "sky"): 1, ("a.jpg", "zebra"): 1,
        ("b.jpg", "dog"): 2, ("b.jpg", "sky"): 1, ("c.jpg", "dog"): 4,
    }  # fmt: skip
    assert areas == {key: area for key, area in everything.items() if key[1] in names}
    left_out = 3 - len(names)
    told = [note for note in summary.notes if "too rare" in note]
    assert told == ([f"{left_out} of 3 labels are left out as too rare"] if left_out else [])


@pytest.mark.parametrize("name", ["coco", "yolo-seg", "voc", "labelme", "cvat", "label-studio", "datumaro"])
def test_two_segments_of_one_class_that_touch_are_two_instances(make_run, tmp_path, name) -> None:
    """Of two dogs side by side, one in two parts, and a sky: one mask per class, or every segment's own parts."""
    label_map = np.array([[0, 0, 1, 1], [2, 2, 1, 1], [2, 2, 2, 2], [0, 2, 2, 2]], dtype=np.int32)
    root = save_photos(tmp_path / "photos", {"a.jpg": label_map})
    run = make_run({"a.jpg": label_map}, None, labels=["a dog", "Dogs", "the sky"], root=root)
    for instances, count in ((False, 2), (True, 4)):
        out = (tmp_path / f"out-{instances}" / "out").with_suffix(find(name).suffix)
        assert export(name, run, out, {"instances": instances}).annotations == count


def test_touching_instances_in_coco_and_its_panoptic_form(make_run, tmp_path) -> None:
    label_map = np.array([[0, 0, 1, 1], [2, 2, 1, 1]], dtype=np.int32)
    run = make_run({"a.jpg": label_map}, None, labels=["a dog", "Dogs", "the sky"], scores=[0.3, 0.8, 0.5])
    export("coco", run, tmp_path / "labels.json", {"instances": True})
    loaded = COCO(str(tmp_path / "labels.json"))
    masks = [(each["score"], loaded.annToMask(each).tolist()) for each in loaded.dataset["annotations"]]
    assert masks == [
        (0.3, [[1, 1, 0, 0], [0, 0, 0, 0]]),
        (0.8, [[0, 0, 1, 1], [0, 0, 1, 1]]),
        (0.5, [[0, 0, 0, 0], [1, 1, 0, 0]]),
    ]
    export("coco", run, tmp_path / "panoptic.json", {"instances": True, "variant": "panoptic"})
    assert np.asarray(Image.open(tmp_path / "panoptic/a.png"))[..., 0].tolist() == [[1, 1, 2, 2], [3, 3, 2, 2]]


def test_masks_hold_nothing_where_a_label_is_left_out(make_run, tmp_path) -> None:
    export("mask-png", make_run(MAPS, None, labels=LABELS), tmp_path / "out", {"min_count": 2})
    assert (tmp_path / "out/classes.txt").read_text() == "dog\nsky\n"
    assert json.loads((tmp_path / "out/id2label.json").read_text()) == {"0": "dog", "1": "sky"}
    assert np.asarray(Image.open(tmp_path / "out/a.png")).tolist() == [[0, 0, 1, 255]]


def test_overlays_leave_rare_labels_unpainted(make_run, tmp_path) -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(gray).save(tmp_path / "photos" / name)
    halves = np.repeat([[0, 1]], 32, axis=1).repeat(64, axis=0).astype(np.int32)
    maps = {"a.png": halves, "b.png": np.zeros((64, 64), np.int32)}
    run = make_run(maps, None, labels=["cat", "rare thing"], root=tmp_path / "photos")
    export("overlay", run, tmp_path / "out", {"min_count": 2, "opacity": 1.0})
    drawn = np.asarray(Image.open(tmp_path / "out/a.jpg").convert("RGB")).astype(int)
    assert abs(drawn[32, 48] - 128).max() < 8  # as in the photo
    assert abs(drawn[32, 8] - 128).max() > 60  # painted


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        (["dog", "sky", "x", "y"], {"top": 3}, "this run has a vocabulary; leave them out"),
        (None, {"min_count": 4}, "the most common, 'dog', is in 3; lower min_count"),
        (None, {"min_count": 0}, "min_count: expected at least 1, but got 0"),
        (None, {"top": 0}, "top: expected at least 1, but got 0"),
    ],
)
def test_refusals(make_run, tmp_path, vocabulary, options, message) -> None:
    run = make_run(MAPS, vocabulary, labels=LABELS)
    for name, out in (("coco", "labels.json"), ("mask-png", "masks"), ("overlay", "overlays")):
        with pytest.raises(ConfigError, match=message):
            export(name, run, tmp_path / out, options)
        assert not (tmp_path / out).exists()
