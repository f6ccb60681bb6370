"""Mask-PNG as Pillow and trainers read it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotator.errors import ConfigError
from annotator.models.compat import prepare_torchvision
from annotator.vocabulary import ClassEntry, Color, Vocabulary
from exporters.base import ExportSummary, export

NAMES = ["background", "cat", "dog"]
# Pascal VOC's published colours: background, aeroplane, bicycle, and the void outline
VOC_COLORS: dict[int, Color] = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 255: (224, 224, 192)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos of 7 x 5 pixels; turned.jpg is stored lying on its side."""
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    rows, columns = np.indices((5, 7))
    pixels = np.repeat((rows * 40 + columns * 12)[..., None], 3, axis=2).astype(np.uint8)
    for name in ("a.jpg", "a.png", "sub/b.webp"):
        Image.fromarray(pixels).save(root / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels).copy()).save(root / "turned.jpg", exif=exif)
    return root


def png(run: Any, out: Path, **options: Any) -> ExportSummary:
    return export("mask-png", run, out, options)


def values(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


@pytest.mark.parametrize(("gray", "mode"), [(False, "P"), (True, "L")])
def test_values_come_back(make_run, noise, tmp_path, gray, mode) -> None:
    maps = {f"sub {seed}/ü.{seed}.jpg": noise(seed, 30 + seed, 40, 3) for seed in range(3)}
    summary = png(make_run({**maps, "bad.jpg": None}, NAMES), tmp_path / "out", gray=gray)
    for path, label_map in maps.items():
        mask = tmp_path / "out" / path.replace(".jpg", ".png")
        assert np.array_equal(values(mask), np.where(label_map < 0, 255, label_map))
        with Image.open(mask) as image:
            assert image.mode == mode
            if not gray:
                palette = np.array(image.getpalette()).reshape(-1, 3)
                assert {value: tuple(palette[value]) for value in VOC_COLORS} == VOC_COLORS
    assert len(tree(tmp_path / "out")) == 3 + 3
    assert (summary.images, summary.skipped) == (3, 1)
    assert summary.notes == ["1 photo left out: failed in the run"]


def test_tables(make_run, tmp_path) -> None:
    loaded = Vocabulary.load(_written(tmp_path / "v.yaml", 'sky:\ncat, lying: {color: "#0a141e"}\n'))
    vocabulary = Vocabulary((*loaded.entries, ClassEntry("bird\nwing", ("bird",))))  # as older versions let it in
    png(make_run({"a.jpg": np.array([[1]], dtype=np.int32)}, vocabulary), tmp_path / "out")
    assert (tmp_path / "out/classes.txt").read_text() == "sky\ncat, lying\nbird wing\n"
    assert json.loads((tmp_path / "out/id2label.json").read_text()) == {
        "0": "sky",
        "1": "cat, lying",
        "2": "bird\nwing",
    }
    assert json.loads((tmp_path / "out/palette.json").read_text()) == {
        "0": [0, 0, 0],
        "1": [10, 20, 30],
        "2": [0, 128, 0],
        "255": [224, 224, 192],
    }
    with Image.open(tmp_path / "out/a.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize(
    ("count", "dtype", "ignored"), [(254, np.uint8, 255), (255, np.int32, 65535), (300, np.int32, 65535)]
)
def test_many_classes_need_sixteen_bits(make_run, tmp_path, count, dtype, ignored) -> None:
    label_map = np.arange(-1, count, dtype=np.int32)[None]
    run = make_run({"a.jpg": label_map}, [f"class {index}" for index in range(count)])
    summary = png(run, tmp_path / "out")
    assert values(tmp_path / "out/a.png").tolist() == [[ignored, *range(count)]]
    assert bool(summary.notes) == (ignored == 65535)
    assert json.loads((tmp_path / "out/palette.json").read_text())[str(ignored)]


def test_open_labels_are_numbered_in_sorted_order(make_run, tmp_path) -> None:
    run = make_run({"a.jpg": np.array([[0, 1, 2, -1]], dtype=np.int32)}, None, labels=["zebra", "a cat", "zebra"])
    png(run, tmp_path / "out")
    assert values(tmp_path / "out/a.png").tolist() == [[1, 0, 1, 255]]
    assert (tmp_path / "out/classes.txt").read_text() == "cat\nzebra\n"


def test_photos_that_differ_in_the_extension_keep_a_mask_each(make_run, tmp_path) -> None:
    """Names between them in the alphabet, and a name that is another's name with an extension, do not confuse it."""
    paths = ["a", "a b.jpg", "a.jpg", "a.jpg.png", "a.k/a.png", "a.png", "a.webp", "b/a.jpg", "b/a.png", "x" * 255]
    maps = {path: np.full((1, 1), index, dtype=np.int32) for index, path in enumerate(paths)}
    summary = png(make_run(maps, [f"class {index}" for index in range(len(paths))]), tmp_path / "out")
    masks = [name for name in tree(tmp_path / "out") if name.endswith(".png")]
    assert sorted(values(tmp_path / "out" / mask).item() for mask in masks) == list(range(len(paths)))
    kept = {"a": 0, "a b": 1, "a.jpg": 3, "a.k/a": 4, "b/a": 7}
    assert {name: values(tmp_path / "out" / f"{name}.png").item() for name in kept} == kept
    assert summary.notes[0].startswith("5 files have eight digits appended")


def test_photos_are_never_written_over(make_run, photos, tmp_path) -> None:
    maps = dict.fromkeys(["a.jpg", "a.png", "sub/b.webp"], np.zeros((5, 7), dtype=np.int32))
    run = make_run(maps, NAMES, root=photos)
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    (tmp_path / "link").symlink_to(photos)
    for out in (photos, photos / "sub", tmp_path, tmp_path / "link", tmp_path / "link" / "sub"):
        with pytest.raises(ConfigError, match="expected a folder apart from the photos"):
            png(run, out)
    # a folder within is fine, as long as no photo lies in it; and what a link there points to is left alone
    (photos / "masks").mkdir()
    (photos / "masks" / "a.png").symlink_to(photos / "a.png")
    png(run, photos / "masks")
    assert values(photos / "masks" / "a.png").tolist() == np.zeros((5, 7)).tolist()
    assert {path: path.read_bytes() for path in before} == before


def test_the_vocabulary_is_not_written_over(make_run, tmp_path) -> None:
    vocabulary = Vocabulary.load(_written(tmp_path / "classes.txt", "cat, kitten\ndog\n"))
    run = make_run({"a.jpg": np.zeros((1, 1), dtype=np.int32)}, vocabulary)
    with pytest.raises(ConfigError, match="is the run's own vocabulary"):
        png(run, tmp_path)
    assert (tmp_path / "classes.txt").read_text() == "cat, kitten\ndog\n"


@pytest.mark.parametrize(
    ("preset", "masks", "images", "lists"),
    [
        (
            "voc",
            "SegmentationClass",
            "JPEGImages",
            {"ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/trainval.txt"},
        ),
        ("mmseg", "ann_dir/train", "img_dir/train", set()),
        ("ade", "annotations/training", "images/training", set()),
        ("hf", "train/labels", "train/images", {"train/metadata.jsonl"}),
    ],
)
@pytest.mark.parametrize("how", ["link", "copy", "none"])
def test_layouts(make_run, noise, photos, tmp_path, preset, masks, images, lists, how) -> None:
    label_map = noise(0, 5, 7, 3)
    maps = dict.fromkeys(["a.jpg", "a.png", "sub/b.webp", "turned.jpg", "vanished.jpg"], label_map)
    out = tmp_path / "out"
    summary = png(make_run(maps, NAMES, root=photos, turned=["turned.jpg"]), out, preset=preset, photos=how)
    written = {name for name in tree(out) if not name.startswith((masks, images))}
    assert written == {"classes.txt", "palette.json", "id2label.json", *lists}
    found = {name.removesuffix(".png") for name in tree(out / masks)}
    assert len(found) == 5
    assert {"a", "sub/b", "turned", "vanished"} < found
    for stem in found:
        expected = (
            np.where(label_map < 0, 0, label_map + 1) if preset == "ade" else np.where(label_map < 0, 255, label_map)
        )
        assert np.array_equal(values(out / masks / f"{stem}.png"), expected)
    if how == "none":
        assert not (out / images).exists()
        return
    assert {name.removesuffix(".jpg") for name in tree(out / images)} == found - {"vanished"}
    assert all(len((out / name).read_text().splitlines()) == 4 for name in lists)
    assert [note for note in summary.notes if note.startswith("1 photo could not be brought along")]
    for stem in found - {"vanished"}:
        photo = out / images / f"{stem}.jpg"
        assert photo.is_symlink() == (how == "link" and stem != "turned")
        assert Image.open(photo).size == (7, 5)
    assert (out / images / "sub/b.jpg").read_bytes() == (photos / "sub/b.webp").read_bytes()


@pytest.mark.parametrize(
    ("preset", "masks", "images"),
    [
        ("mmseg", "ann_dir/{}", "img_dir/{}"),
        ("ade", "annotations/{}", "images/{}"),
        ("hf", "{}/labels", "{}/images"),
        ("voc", "SegmentationClass", "JPEGImages"),
    ],
)
def test_splits(make_run, noise, tmp_path, preset, masks, images) -> None:
    """Each photo and mask is where its split is."""
    maps = {f"{index}.jpg": noise(index, 5, 7, 3) for index in range(30)}
    for path in maps:
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (7, 5)).save(tmp_path / "photos" / path)
    run = make_run(maps, NAMES, root=tmp_path / "photos")
    out = tmp_path / "out"
    for _ in range(2):  # the same once more is fine
        png(run, out, preset=preset, split="0.6/0.4")
    train, val = {"ade": ("training", "validation"), "hf": ("train", "validation")}.get(preset, ("train", "val"))
    if preset == "voc":
        lists = {path.stem: path.read_text().split() for path in (out / "ImageSets/Segmentation").iterdir()}
        assert set(lists) == {"train", "val", "trainval"}
        assert sorted(lists["train"] + lists["val"]) == sorted(lists["trainval"]) == sorted(p[:-4] for p in maps)
        return
    found = {name: tree(out / masks.format(name)) for name in (train, val)}
    assert sorted(found[train] + found[val]) == sorted(path.replace(".jpg", ".png") for path in maps)
    for name, part in found.items():
        assert len(part) > 3
        assert tree(out / images.format(name)) == [each.replace(".png", ".jpg") for each in part]
    if preset == "hf":
        lines = (out / val / "metadata.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["label_file_name"] for line in lines) == [
            f"labels/{name}" for name in found[val]
        ]


def test_plain_has_no_splits(make_run, tmp_path) -> None:
    run = make_run({"a.jpg": np.zeros((1, 1), dtype=np.int32)}, NAMES)
    with pytest.raises(ConfigError, match="preset='plain' has no splits"):
        png(run, tmp_path / "out", split="0.9/0.1")


def test_turned_photos_are_copied_upright(make_run, photos, tmp_path) -> None:
    run = make_run({"turned.jpg": np.zeros((5, 7), dtype=np.int32)}, NAMES, root=photos, turned=["turned.jpg"])
    summary = png(run, tmp_path / "out", preset="mmseg")
    with Image.open(photos / "a.png") as original, Image.open(tmp_path / "out/img_dir/train/turned.jpg") as copy:
        assert copy.getexif().get(0x0112, 1) == 1
        difference = np.asarray(original).astype(int) - np.asarray(copy.convert("RGB")).astype(int)
    assert np.abs(difference).mean() < 3
    assert summary.notes == []


def test_torchvision_reads_the_voc_layout(make_run, noise, photos, tmp_path) -> None:
    prepare_torchvision()
    from torchvision.datasets import VOCSegmentation

    label_map = noise(0, 5, 7, 3)
    paths = ["a.jpg", "a.png", "line\nbreak.jpg", "sub/b.webp"]
    (photos / "line\nbreak.jpg").write_bytes((photos / "a.jpg").read_bytes())
    run = make_run(dict.fromkeys(paths, label_map), NAMES, root=photos)
    summary = png(run, tmp_path / "VOCdevkit/VOC2012", preset="voc")
    dataset = VOCSegmentation(str(tmp_path), year="2012", image_set="train")
    assert len(dataset) == 3
    for image, target in dataset:
        assert image.size == (7, 5)
        assert np.array_equal(np.asarray(target), np.where(label_map < 0, 255, label_map))
    assert any(note.startswith("1 photo is in no list") for note in summary.notes)


def test_mmsegmentation_finds_each_mask(make_run, photos, tmp_path) -> None:
    """It lists the photos and replaces .jpg wherever a path holds it."""
    paths = ["a.jpg", "a.jpg.png", "x.jpg.d/a.jpg"]
    for path in paths:
        (photos / path).parent.mkdir(exist_ok=True)
        (photos / path).write_bytes((photos / "a.jpg").read_bytes())
    png(
        make_run(dict.fromkeys(paths, np.zeros((5, 7), dtype=np.int32)), NAMES, root=photos),
        tmp_path / "o",
        preset="mmseg",
    )
    images = tree(tmp_path / "o/img_dir/train")
    assert len(images) == 3
    assert sorted(image.replace(".jpg", ".png") for image in images) == tree(tmp_path / "o/ann_dir/train")


def test_imagefolder_metadata_names_the_files(make_run, photos, tmp_path) -> None:
    run = make_run(dict.fromkeys(["a.jpg", "sub/b.webp"], np.zeros((5, 7), dtype=np.int32)), NAMES, root=photos)
    png(run, tmp_path / "out", preset="hf")
    lines = [json.loads(line) for line in (tmp_path / "out/train/metadata.jsonl").read_text().splitlines()]
    assert lines == [
        {"file_name": "images/a.jpg", "label_file_name": "labels/a.png"},
        {"file_name": "images/sub/b.jpg", "label_file_name": "labels/sub/b.png"},
    ]
    assert all((tmp_path / "out/train" / name).exists() for line in lines for name in line.values())


def test_a_layout_beside_its_photos(make_run, photos, tmp_path) -> None:
    """Photos that already lie in img_dir: the masks alone are asked for."""
    os.renames(photos, tmp_path / "data/img_dir/train")
    run = make_run({"a.jpg": np.zeros((5, 7), dtype=np.int32)}, NAMES, root=tmp_path / "data/img_dir/train")
    with pytest.raises(ConfigError, match="apart from the photos"):
        png(run, tmp_path / "data", preset="mmseg")
    png(run, tmp_path / "data", preset="mmseg", photos="none")
    assert tree(tmp_path / "data/ann_dir") == ["train/a.png"]


def test_the_same_bytes_however_the_run_was_written(make_run, noise, tmp_path) -> None:
    maps = {f"{seed}.jpg": noise(seed, 30, 20, 3) for seed in range(9)}
    png(make_run(maps, NAMES), tmp_path / "whole")
    png(make_run(dict(reversed(maps.items())), NAMES, part_rows=2), tmp_path / "parts")
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")
    assert all(
        (tmp_path / "whole" / n).read_bytes() == (tmp_path / "parts" / n).read_bytes() for n in tree(tmp_path / "whole")
    )


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
