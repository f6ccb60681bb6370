"""`annotate convert`: labels from format to format without a run, read back by pycocotools, Pillow and datasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_labels import (
    NAMES,
    Map,
    annotation,
    coco_of,
    read_coco,
    read_masks,
    said,
    same,
    scene,
    write_coco,
    write_masks,
)
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from annotator.errors import AnnotatorError, ConfigError
from annotator.imported.convert import convert

PHOTOS = ["a.jpg", "sub/a.jpg", "sub/deep/ü☃.jpg"]


@pytest.fixture
def maps() -> dict[str, Map]:
    return {name: scene(seed) for seed, name in enumerate(PHOTOS)}


@pytest.mark.parametrize("form", ["polygon", "rle", "rle-uncompressed"])
def test_coco_to_masks_and_back(tmp_path: Path, maps: dict[str, Map], form: str) -> None:
    """Every pixel, name, folder and size, whatever signs are in the names; the first COCO in each of its forms."""
    convert(coco_of(tmp_path / "first.json", maps), "coco", tmp_path / "form.json", {"segmentation": form})
    assert same(read_coco(tmp_path / "form.json"), maps)
    said(tmp_path / "form.json", "--to", "mask-png", "--out", tmp_path / "masks")
    assert same(read_masks(tmp_path / "masks"), maps)
    output = said(tmp_path / "masks", "--to", "coco", "--out", tmp_path / "last.json", "--set", f"segmentation={form}")
    assert "3 photos" in output
    assert "NAME.png is taken for that of NAME.jpg" in output
    assert same(read_coco(tmp_path / "last.json"), maps)
    first, last = (json.loads((tmp_path / name).read_text()) for name in ("form.json", "last.json"))
    assert first["annotations"] == last["annotations"]
    assert first["categories"] == last["categories"]
    assert [(each["id"], each["name"]) for each in last["categories"]] == list(enumerate(NAMES, start=1))
    assert all("score" not in each for each in last["annotations"])  # nobody said one


def test_masks_to_coco_and_back(tmp_path: Path, maps: dict[str, Map]) -> None:
    """With a background and pixels without a label: `stuff` keeps both; the class list is the same file again."""
    names = ["background", "cat", "dog"]
    folder = write_masks(tmp_path / "masks", maps, names)
    said(folder, "--to", "coco", "--out", tmp_path / "a.json", "--set", "variant=stuff")
    said(tmp_path / "a.json", "--to", "mask-png", "--out", tmp_path / "again")
    assert same(read_masks(tmp_path / "again"), maps)
    assert (tmp_path / "again/classes.txt").read_text() == (folder / "classes.txt").read_text()
    for file in folder.rglob("*.png"):
        again = Image.open(tmp_path / "again" / file.relative_to(folder))
        assert np.array_equal(np.asarray(again), np.asarray(Image.open(file)))


def test_a_background_that_objects_do_not_have(tmp_path: Path) -> None:
    """What is lost is counted; where nothing else is unlabelled, the class list brings the background back."""
    label_map = np.array([[0, 0, 1], [2, -1, -1]], dtype=np.int32)
    folder = write_masks(tmp_path / "masks", {"a.jpg": label_map}, ["background", "cat", "dog"])
    output = said(folder, "--to", "coco", "--out", tmp_path / "a.json")
    assert "'background' is no object, so coco leaves it out; 2 pixels without a label" in output
    assert [each["category_id"] for each in json.loads((tmp_path / "a.json").read_text())["annotations"]] == [2, 3]
    whole = {"a.jpg": np.where(label_map < 0, 0, label_map)}
    folder = write_masks(tmp_path / "whole", whole, ["background", "cat", "dog"])
    output = said(folder, "--to", "coco", "--out", tmp_path / "a.json")
    assert "leaves it out; --set variant=stuff" in output
    arguments = ("--to", "mask-png", "--out", tmp_path / "again", "--classes", folder / "classes.txt")
    assert "pixels without an annotation are 'background'" in said(tmp_path / "a.json", *arguments)
    assert same(read_masks(tmp_path / "again"), whole)


def test_overlaps_are_counted_and_refused_or_painted(tmp_path: Path) -> None:
    """By hand: a dog of 12 pixels on a cat of 24; another cat on the first is of the same class and no overlap."""
    cat, dog, second = (np.zeros((6, 8), dtype=bool) for _ in range(3))
    cat[0:3, :] = True
    dog[1:5, 2:5] = True  # 2 x 3 of it on the cat
    second[0:1, :] = True
    boxes = [annotation(dog, 2), annotation(cat, 1), annotation(second, 1), annotation(dog, 3, 2)]
    file = write_coco(tmp_path / "a.json", {"a.jpg": (6, 8), "b.jpg": (6, 8)}, boxes)
    out = tmp_path / "masks"
    with pytest.raises(ConfigError, match=r"classes share 6 pixels in 1 of 2 photos; overlap='smaller-on-top' gives"):
        convert(file, "mask-png", out)
    assert not out.exists()
    output = said(file, "--to", "mask-png", "--out", out, "--overlap", "smaller-on-top")
    assert "share 6 pixels in 1 of 2 photos: given to the smaller annotation" in output
    assert "2 annotations share photo and class with another, and are one mask\n" in output
    expected = np.full((6, 8), -1, dtype=np.int32)
    expected[cat], expected[dog] = 0, 1
    assert np.array_equal(read_masks(out)["a.jpg"], expected)


def test_instances_are_kept_where_they_are_parts(tmp_path: Path) -> None:
    """Two cats apart stay two; two dogs that touch become one, which is counted."""
    first, second, left, right = (np.zeros((8, 12), dtype=bool) for _ in range(4))
    first[0:2, 0:3], second[0:2, 5:9] = True, True
    left[4:7, 0:4], right[4:7, 4:8] = True, True
    boxes = [annotation(first, 1), annotation(second, 1), annotation(left, 2), annotation(right, 2)]
    file = write_coco(tmp_path / "a.json", {"a.jpg": (8, 12)}, boxes)
    output = said(file, "--to", "coco", "--out", tmp_path / "b.json", "--instances")
    assert "2 of 4 annotations are a connected part of their own and kept" in output
    found = COCO(tmp_path / "b.json")
    masks = [found.annToMask(each).astype(bool) for each in found.dataset["annotations"]]
    assert [each["category_id"] for each in found.dataset["annotations"]] == [1, 1, 2]
    assert all(np.array_equal(*pair) for pair in zip(masks, [first, second, left | right], strict=True))
    alone = write_coco(tmp_path / "c.json", {"a.jpg": (8, 12)}, boxes[:3])
    assert "note" not in said(alone, "--to", "coco", "--out", tmp_path / "b.json", "--instances")
    together = said(file, "--to", "coco", "--out", tmp_path / "b.json")
    assert "4 annotations share photo and class with another, and are one mask; --instances" in together
    assert "which 2 of 4 annotations are" in together
    assert [each["area"] for each in json.loads((tmp_path / "b.json").read_text())["annotations"]] == [14, 24]


def test_crowds_scores_ids_and_empty_annotations_are_said(tmp_path: Path) -> None:
    cat, crowd, nothing = (np.zeros((6, 8), dtype=bool) for _ in range(3))
    cat[0:2], crowd[1:4] = True, True
    boxes = [annotation(cat, 17, score=0.25), annotation(crowd, 18, iscrowd=1), annotation(nothing, 18)]
    file = write_coco(tmp_path / "a.json", {"a.jpg": (6, 8), "none.jpg": (2, 3)}, boxes, {18: "dog", 17: "cat"})
    output = said(file, "--to", "coco", "--out", tmp_path / "b.json")
    assert "1 crowd regions are no objects" in output
    assert "1 annotations cover no pixel" in output
    content = json.loads((tmp_path / "b.json").read_text())
    assert [(each["category_id"], each["area"], each["score"]) for each in content["annotations"]] == [(17, 16, 0.25)]
    assert [each["file_name"] for each in content["images"]] == ["a.jpg", "none.jpg"]
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    assert "category ids are not kept, such as 18 (dog), 17 (cat)" in said(
        file, "--to", "mask-png", "--out", tmp_path / "numbered"
    )
    convert(file, "mask-png", tmp_path / "masks", classes=tmp_path / "classes.txt")
    values = np.asarray(Image.open(tmp_path / "masks/a.png"))
    assert values[:, 0].tolist() == [1, 1, 255, 255, 0, 0]  # the crowd is nothing, not background


@pytest.mark.parametrize("variant", ["instances", "stuff", "panoptic"])
def test_coco_to_coco_keeps_its_own_entries(tmp_path: Path, variant: str) -> None:
    """Ids of images and categories, to which other files refer, and what else stands beside them; also in splits."""
    maps = {f"{letter}.jpg": scene(seed) for seed, letter in enumerate("dcba")}
    file = coco_of(tmp_path / "a.json", maps)
    content = json.loads(file.read_text())
    for number, each in enumerate(content["images"]):
        each |= {"id": 900 - number, "date_captured": "1999"}
    for each in content["annotations"]:
        each |= {"image_id": 901 - each["image_id"], "category_id": each["category_id"] * 10}
    content["categories"] = [{"id": 10 * n, "name": name, "supercategory": "x"} for n, name in enumerate(NAMES, 1)]
    file.write_text(json.dumps(content))
    said(file, "--to", "coco", "--out", tmp_path / "b.json", "--set", f"variant={variant}", "--split", "0.5/0.5")
    images = {}
    for split in ("train", "val"):
        found = json.loads((tmp_path / f"b-{split}.json").read_text())
        kept = [{key: each[key] for key in ("id", "name", "supercategory")} for each in found["categories"]]
        assert kept == content["categories"]
        named = {each["id"]: each["file_name"] for each in found["images"]}
        images |= {each["id"]: each for each in found["images"]}
        areas = {
            (named[each["image_id"]], labelled["category_id"] // 10 - 1): labelled["area"]
            for each in found["annotations"]
            for labelled in each.get("segments_info", [each])
        }
        assert areas == {
            (name, int(value)): int((maps[name] == value).sum())
            for name in named.values()
            for value in np.unique(maps[name][maps[name] >= 0])
        }
    assert images == {each["id"]: each for each in content["images"]}


def test_photos_come_along_and_name_masks(tmp_path: Path, maps: dict[str, Map]) -> None:
    """Photos that differ in the extension only have masks with digits of their own, which lead back to them."""
    maps = {"a.jpg": scene(0), "a.png": scene(1), "sub/b.jpeg": scene(2)}
    photos = tmp_path / "photos"
    for name, label_map in maps.items():
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(label_map.shape, 7, dtype=np.uint8)).save(photos / name)
    file = coco_of(tmp_path / "a.json", maps)
    assert "eight digits" in said(file, "--to", "mask-png", "--out", tmp_path / "masks", "--images", photos)
    said(tmp_path / "masks", "--to", "coco", "--out", tmp_path / "b.json", "--images", photos)
    assert same(read_coco(tmp_path / "b.json"), maps)
    said(file, "--to", "yolo-seg", "--out", tmp_path / "yolo", "--images", photos, "--photos", "copy")
    assert len([each for each in (tmp_path / "yolo/images").rglob("*") if each.is_file()]) == 3
    without = said(file, "--to", "yolo-seg", "--out", tmp_path / "bare", "--split", "0.5/0.5")
    assert "3 photos" in without
    (photos / "a.png").unlink()
    with pytest.raises(ConfigError, match="but 1 have none, such as 'a-"):
        convert(tmp_path / "masks", "coco", tmp_path / "b.json", images=photos)
    with pytest.raises(ConfigError, match=r"expected the photo 'a\.png'"):
        convert(file, "mask-png", tmp_path / "again", images=photos)
    Image.new("L", (3, 2)).save(photos / "a.png")
    with pytest.raises(AnnotatorError, match=r"a\.png: expected the size of its photo, 3 x 2"):
        convert(file, "mask-png", tmp_path / "again", images=photos)


def test_a_hugging_face_export_comes_back(tmp_path: Path, maps: dict[str, Map]) -> None:
    import datasets

    file = coco_of(tmp_path / "a.json", maps)
    said(file, "--to", "hf-dataset", "--out", tmp_path / "hf")
    rows = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["path"] == sorted(PHOTOS)
    said(tmp_path / "hf", "--to", "coco", "--out", tmp_path / "b.json")
    assert same(read_coco(tmp_path / "b.json"), maps)


def test_masks_that_begin_at_one_or_have_sixteen_bits(tmp_path: Path) -> None:
    """id2label.json leaves 0 to pixels without a label, as ADE does."""
    folder = tmp_path / "ade"
    folder.mkdir()
    (folder / "id2label.json").write_text(json.dumps({"1": "cat", "300": "dog"}))
    Image.fromarray(np.array([[0, 1], [255, 1]], dtype=np.uint8)).save(folder / "a.png")
    Image.fromarray(np.array([[0, 300], [65535, 1]], dtype=np.uint16)).save(folder / "b.png")
    convert(folder, "coco", tmp_path / "a.json")
    expected = {"a.jpg": [[-1, 0], [-1, 0]], "b.jpg": [[-1, 1], [-1, 0]]}
    assert {name: found.tolist() for name, found in read_coco(tmp_path / "a.json").items()} == expected
    Image.fromarray(np.array([[9]], dtype=np.uint8)).save(folder / "a.png")
    with pytest.raises(ConfigError, match=r"a\.png: value 9 names no class of .*id2label\.json"):
        convert(folder, "coco", tmp_path / "a.json")


def broken(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        file = coco_of(folder / "a.json", {"a.jpg": scene(0)})
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return file

    return write


def polluted(folder: Path) -> Path:
    masks = write_masks(folder / "masks", {"a.jpg": scene(0)}, ["a", "b", "c"])
    Image.new("RGB", (3, 2)).save(masks / "z.png")
    return masks


def empty(folder: Path) -> Path:
    (folder / "masks").mkdir()
    return folder / "masks"


def a_run(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text("{}")
    return folder / "run"


def foreign_shards(folder: Path) -> Path:
    (folder / "hf" / "data").mkdir(parents=True)
    pq.write_table(pa.table({"path": ["a.jpg"]}), folder / "hf" / "data" / "train-00000.parquet")
    (folder / "hf" / "id2label.json").write_text('{"0": "cat"}')
    return folder / "hf"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a name that leads out": (broken(lambda c: c["images"][0].update(file_name="../a.jpg")), "a path inside"),
    "an absolute name": (broken(lambda c: c["images"][0].update(file_name="/a.jpg")), "a path inside"),
    "a size that fills the memory": (broken(lambda c: c["images"][0].update(width=10**9)), "expected a photo of 1 to"),
    "categories of one name": (broken(lambda c: c["categories"][1].update(name="cat")), "'cat' stands there twice"),
    "categories of one id": (broken(lambda c: c["categories"][1].update(id=1)), "some share one"),
    "an annotation of no image": (broken(lambda c: c["annotations"][0].update(image_id=9)), "but 1 do not"),
    "images of one id": (
        broken(lambda c: c["images"].append({**c["images"][0], "file_name": "b.jpg"})),
        "an id of its own for every image",
    ),
    "an unknown category": (broken(lambda c: c["annotations"][0].update(category_id=9)), "category_id 9"),
    "a box alone": (broken(lambda c: c["annotations"][0].pop("segmentation")), "a box alone is no mask"),
    "another JSON": (broken(lambda c: c.pop("images")), "'images' is missing"),
    "no labels": (lambda folder: folder / "nowhere", "expected a COCO .json"),
    "a run": (a_run, "found a run; use annotate export"),
    "Parquet of others": (foreign_shards, "height is missing"),
    "no masks": (empty, "expected mask PNGs, but found none"),
    "a picture among masks": (polluted, r"z\.png: expected one channel"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises(AnnotatorError, match=message) as caught:
        convert(make(tmp_path), "mask-png", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_labels_themselves_are_safe(tmp_path: Path, maps: dict[str, Map]) -> None:
    folder = write_masks(tmp_path / "masks", maps, NAMES)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for out in (folder, folder / "more", tmp_path):
        with pytest.raises(ConfigError, match="expected a place apart from the labels"):
            convert(folder, "mask-png", out)
    file = coco_of(tmp_path / "a.json", maps)
    with pytest.raises(ConfigError, match="expected a place apart from the labels"):
        convert(file, "coco", file)
    with pytest.raises(ConfigError, match="say where they are with images='DIR'"):
        convert(file, "overlay", tmp_path / "out")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_instances_are_those_of_scipy(tmp_path: Path, maps: dict[str, Map]) -> None:
    """Of masks: every connected part, corners connecting, is an annotation."""
    folder = write_masks(tmp_path / "masks", maps, ["a", "b", "c"])
    convert(folder, "coco", tmp_path / "a.json", {"instances": True})
    api = COCO(tmp_path / "a.json")
    for image in api.dataset["images"]:
        label_map = maps[image["file_name"]]
        parts = [
            (value, parts == part)
            for value in range(3)
            for parts, count in [ndimage.label(label_map == value, np.ones((3, 3)))]
            for part in range(1, count + 1)
        ]
        found = [(each["category_id"] - 1, api.annToMask(each)) for each in api.imgToAnns[image["id"]]]
        assert len(found) == len(parts)
        assert all(a == c and np.array_equal(b, d) for (a, b), (c, d) in zip(found, parts, strict=True))
