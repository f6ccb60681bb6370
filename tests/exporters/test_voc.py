"""Pascal VOC as torchvision, supervision and the devkit's documentation read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision
from helpers_formats import HOSTILE, files_below, objects_of, same, save_photos
from numpy.typing import NDArray
from PIL import Image

from annotator.errors import ConfigError
from annotator.models.compat import prepare_torchvision
from exporters.base import ExportSummary, export

NAMES = ["background", "cat", "dog", "bird"]


def voc(run: Any, out: Path, **options: Any) -> ExportSummary:
    return export("voc", run, out, options)


def values(path: Path) -> NDArray[np.int32]:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image).astype(np.int32)


def boxes(xml: Path) -> list[tuple[str, list[int]]]:
    """Name and xmin, ymin, xmax, ymax of each object."""
    found = []
    for each in ElementTree.parse(xml).getroot().iter("object"):
        sides = [int(each.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
        found.append((each.findtext("name", ""), sides))
    return found


def test_masks_and_boxes_come_back(make_run, noise, tmp_path) -> None:
    maps = {f"sub/{index}.jpg": noise(index, 24, 31, 4) for index in range(3)} | {"bad.jpg": None}
    run = make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps))
    summary = voc(run, tmp_path / "out")
    total = 0
    for path, label_map in maps.items():
        if label_map is None:
            continue
        stem = path.removesuffix(".jpg")
        classes, objects = (values(tmp_path / "out" / f"Segmentation{kind}/{stem}.png") for kind in ("Class", "Object"))
        assert np.array_equal(classes, np.where(label_map < 0, 255, label_map))
        assert np.array_equal(objects == 0, label_map == 0)
        assert np.array_equal(objects == 255, label_map == -1)
        listed = boxes(tmp_path / "out/Annotations" / f"{stem}.xml")
        found = []
        for number, (name, sides) in enumerate(listed, start=1):
            mask = objects == number
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert sides == [columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1]
            found.append((NAMES.index(name), mask))
        assert same(found, objects_of(label_map))
        total += len(listed)
    assert (summary.images, summary.skipped, summary.annotations) == (3, 1, total)
    assert summary.notes == ["1 photo left out: failed in the run"]


def test_an_annotation_by_hand(make_run, tmp_path) -> None:
    label_map = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [-1, 0, 0, 2]], dtype=np.int32)
    maps = {"a & b.png": label_map}
    voc(make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps)), tmp_path / "out")
    root = ElementTree.parse(tmp_path / "out/Annotations/a & b.xml").getroot()
    assert [root.findtext(tag) for tag in ("folder", "filename", "segmented")] == ["JPEGImages", "a & b.jpg", "1"]
    assert [root.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["4", "3", "3"]
    assert boxes(tmp_path / "out/Annotations/a & b.xml") == [("cat", [2, 2, 3, 2]), ("dog", [4, 3, 4, 3])]
    assert [each.findtext("truncated") for each in root.iter("object")] == ["0", "1"]
    assert values(tmp_path / "out/SegmentationClass/a & b.png")[2].tolist() == [255, 0, 0, 2]
    with Image.open(tmp_path / "out/SegmentationObject/a & b.png") as image:  # VOC's colours of 1 and 255
        assert [image.convert("RGB").getpixel(at) for at in ((1, 1), (0, 2))] == [(128, 0, 0), (224, 224, 192)]
    assert (tmp_path / "out/labelmap.txt").read_text().splitlines() == [
        "# label:color_rgb:parts:actions",
        "background:0,0,0::",
        "cat:128,0,0::",
        "dog:0,128,0::",
        "bird:128,128,0::",
    ]


def test_torchvision_reads_it(make_run, noise, tmp_path) -> None:
    prepare_torchvision()
    from torchvision.datasets import VOCDetection, VOCSegmentation

    maps = {f"{index:02d}.jpg": noise(index, 12, 15, 4) for index in range(20)}
    run = make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps))
    voc(run, tmp_path / "VOCdevkit/VOC2012", split="0.6/0.4")
    seen = []
    for split in ("train", "val"):
        segmentation = VOCSegmentation(str(tmp_path), year="2012", image_set=split)
        detection = VOCDetection(str(tmp_path), year="2012", image_set=split)
        assert len(segmentation) == len(detection) > 0
        for (_, mask), (image, annotation) in zip(segmentation, detection, strict=True):
            label_map = maps[annotation["annotation"]["filename"]]
            assert image.size == (15, 12)
            assert np.array_equal(np.asarray(mask), np.where(label_map < 0, 255, label_map))
            assert len(annotation["annotation"].get("object", [])) == len(objects_of(label_map))
            seen.append(annotation["annotation"]["filename"])
    assert sorted(seen) == sorted(maps)
    assert len(VOCDetection(str(tmp_path), year="2012", image_set="trainval")) == len(maps)


def test_supervision_reads_the_boxes(make_run, tmp_path) -> None:
    label_map = np.zeros((30, 40), dtype=np.int32)
    label_map[5:15, 10:30], label_map[20:, 35:] = 1, 3
    maps = {"a.jpg": label_map}
    voc(make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps)), tmp_path / "out")
    out = tmp_path / "out"
    ((_, _, found),) = supervision.DetectionDataset.from_pascal_voc(str(out / "JPEGImages"), str(out / "Annotations"))
    assert found.xyxy.tolist() == [[10, 5, 30, 15], [35, 20, 40, 30]]


def test_a_background_in_the_middle_is_still_zero(make_run, tmp_path) -> None:
    maps = {"a.jpg": np.array([[0, 1, 2]], dtype=np.int32)}
    voc(make_run(maps, ["cat", "background", "dog"], root=save_photos(tmp_path / "photos", maps)), tmp_path / "out")
    assert values(tmp_path / "out/SegmentationClass/a.png").tolist() == [[1, 0, 2]]
    assert (tmp_path / "out/labelmap.txt").read_text().splitlines()[1:] == [
        "background:0,0,0::",
        "cat:128,0,0::",
        "dog:0,128,0::",
    ]


def test_more_objects_than_the_format_holds(make_run, tmp_path) -> None:
    label_map = np.full((40, 40), -1, dtype=np.int32)
    label_map[::2, ::2] = 1  # 400 of one pixel
    label_map[20, 20:24] = 2
    maps = {"a.jpg": label_map}
    summary = voc(make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps)), tmp_path / "out")
    listed = boxes(tmp_path / "out/Annotations/a.xml")
    assert len(listed) == 254
    assert listed[0] == ("dog", [21, 21, 24, 21])
    objects = values(tmp_path / "out/SegmentationObject/a.png")
    assert np.unique(objects).tolist() == list(range(1, 256))
    assert (values(tmp_path / "out/SegmentationClass/a.png") == 1).sum() == 253
    assert summary.notes[0] == "145 objects are left out, as VOC holds 254 per photo; raise min_area"
    with pytest.raises(ConfigError, match="at most 254 classes"):
        voc(make_run(maps, [f"class {index}" for index in range(255)], root=tmp_path), tmp_path / "too many")


def test_hostile_names(make_run, tmp_path) -> None:
    maps = {path: np.ones((2, 3 + place), dtype=np.int32) for place, path in enumerate(sorted(HOSTILE))}
    summary = voc(make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps)), tmp_path / "out")
    photos = files_below(tmp_path / "out/JPEGImages")
    assert len(photos) == len(HOSTILE)
    assert [name.removesuffix(".xml") for name in files_below(tmp_path / "out/Annotations")] == [
        name.removesuffix(".jpg") for name in photos
    ]
    for name in photos:
        root = ElementTree.parse(tmp_path / "out/Annotations" / f"{name.removesuffix('.jpg')}.xml").getroot()
        path = root.findtext("path", "")
        assert root.findtext("filename") == name.replace("\a", "�")
        assert int(root.findtext("size/width", "")) == maps[path.replace("�", "\a")].shape[1]
    listed = (tmp_path / "out/ImageSets/Main/train.txt").read_text().split("\n")[:-1]
    unlisted = [name for name in HOSTILE if set(name) & set("\n\r") or name.startswith(" ")]
    assert len(listed) == len(HOSTILE) - len(unlisted)
    assert f"{len(unlisted)} photos are in no list: the name holds line breaks or outer blanks" in summary.notes


def test_no_photo_no_labels(make_run, tmp_path) -> None:
    maps = dict.fromkeys(["a.jpg", "gone.jpg"], np.ones((4, 6), dtype=np.int32))
    root = save_photos(tmp_path / "photos", maps)
    (root / "gone.jpg").unlink()
    summary = voc(make_run(maps, NAMES, root=root), tmp_path / "out")
    assert files_below(tmp_path / "out/Annotations") == ["a.xml"]
    assert summary.images == 1
    voc(make_run(maps, NAMES, root=root), tmp_path / "none", photos="none")
    assert files_below(tmp_path / "none/Annotations") == ["a.xml", "gone.xml"]
    with pytest.raises(ConfigError, match="apart from the photos"):
        voc(make_run(maps, NAMES, root=save_photos(tmp_path / "o/JPEGImages", maps)), tmp_path / "o")
