"""CVAT for images 1.1, read as CVAT documents it; by Datumaro too where that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers_formats import HOSTILE, filled, objects_of, same, save_photos
from numpy.typing import NDArray

from annotator.errors import ConfigError
from annotator.vocabulary import ClassEntry, Vocabulary
from exporters.base import ExportSummary, export

NAMES = ["background", "cat", "dog", "bird"]
Objects = list[tuple[int, NDArray[np.bool_]]]


def cvat(run: Any, out: Path, **options: Any) -> tuple[ExportSummary, ElementTree.Element]:
    summary = export("cvat", run, out, options)
    return summary, ElementTree.parse(out).getroot()


def mask_of(each: ElementTree.Element, size: tuple[int, int]) -> NDArray[np.bool_]:
    """`rle` counts pixels of the box row by row, in turn outside and inside the mask."""
    left, top, width, height = (int(each.attrib[name]) for name in ("left", "top", "width", "height"))
    inside: list[bool] = []
    for place, count in enumerate(each.attrib["rle"].split(",")):
        inside += [place % 2 == 1] * int(count)
    mask = np.zeros(size, dtype=np.bool_)
    mask[top : top + height, left : left + width] = np.array(inside).reshape(height, width)
    return mask


def objects_in(image: ElementTree.Element) -> Objects:
    size = int(image.attrib["height"]), int(image.attrib["width"])
    found = [(NAMES.index(each.attrib["label"]), mask_of(each, size)) for each in image.iter("mask")]
    grouped: dict[Any, NDArray[np.bool_]] = {}
    for number, each in enumerate(image.iter("polygon")):
        key = NAMES.index(each.attrib["label"]), each.attrib.get("group_id", f"alone {number}")
        points = [float(value) for pair in each.attrib["points"].split(";") for value in pair.split(",")]
        grouped[key] = grouped.get(key, False) | filled([points], size)
    return found + [(value, mask) for (value, _), mask in grouped.items()]


@pytest.mark.parametrize("shape", ["mask", "polygon"])
def test_masks_come_back(make_run, noise, tmp_path, shape) -> None:
    maps = {f"sub/{index}/{size}.jpg": noise(index, size, size + 7, 4) for index in range(3) for size in (1, 5, 64)}
    summary, root = cvat(make_run({**maps, "bad.jpg": None}, NAMES), tmp_path / "a.xml", shape=shape, instances=True)
    images = {image.attrib["name"]: image for image in root.iter("image")}
    assert list(images) == sorted(maps)
    assert [image.attrib["id"] for image in images.values()] == [str(number) for number in range(len(maps))]
    for path, image in images.items():
        assert same(objects_in(image), objects_of(maps[path]))
    assert summary.annotations == sum(len(objects_in(image)) for image in images.values())
    assert (summary.images, summary.skipped) == (len(maps), 1)


def test_what_is_in_the_xml(make_run, tmp_path) -> None:
    label_map = np.array([[0, 1, 1], [1, 1, -1]], dtype=np.int32)
    _, root = cvat(make_run({"sub/a.jpg": label_map}, NAMES), tmp_path / "a.xml")
    assert root.findtext("version") == "1.1"
    assert [each.findtext("name") for each in root.iter("label")] == ["cat", "dog", "bird"]
    assert [each.findtext("color") for each in root.iter("label")] == ["#800000", "#008000", "#808000"]
    (image,) = root.findall("image")
    assert image.attrib == {"id": "0", "name": "sub/a.jpg", "width": "3", "height": "2"}
    (mask,) = image
    assert mask.attrib == {
        "label": "cat",
        "source": "auto",
        "occluded": "0",
        "rle": "1, 4, 1",
        "left": "0",
        "top": "0",
        "width": "3",
        "height": "2",
        "z_order": "0",
    }


def test_hostile_names(make_run, tmp_path) -> None:
    """What XML cannot hold at all becomes U+FFFD, all else comes back as it was."""
    names = ["cat", "<b>\"&'\t\n]]>", "\x00null"]
    vocabulary = Vocabulary(tuple(ClassEntry(name, (name,)) for name in names))
    run = make_run(dict.fromkeys(HOSTILE, np.array([[1, 2]], dtype=np.int32)), vocabulary)
    _, root = cvat(run, tmp_path / "a.xml")
    read = [name.replace("\x00", "�") for name in names]
    assert [image.attrib["name"] for image in root.iter("image")] == [
        name.replace("\a", "�") for name in sorted(HOSTILE)
    ]
    assert [each.findtext("name") for each in root.iter("label")] == read
    assert {each.attrib["label"] for each in root.iter("mask")} == set(read[1:])


def test_a_file_per_split(make_run, noise, tmp_path) -> None:
    maps = {f"{index}.jpg": noise(index, 6, 6, 3) for index in range(20)}
    export("cvat", make_run(maps, NAMES), tmp_path / "a.xml", {"split": "0.5/0.5"})
    parts = [ElementTree.parse(tmp_path / f"a-{split}.xml").getroot() for split in ("train", "val")]
    found = [{image.attrib["name"] for image in part.iter("image")} for part in parts]
    assert found[0] | found[1] == set(maps)
    assert not found[0] & found[1]


def test_datumaro_reads_it(make_run, noise, tmp_path) -> None:
    base = pytest.importorskip("datumaro.plugins.data_formats.cvat.base", reason="datumaro is not installed")
    maps = {f"sub/{index}.jpg": noise(index, 20, 30, 4) for index in range(2)}
    save_photos(tmp_path / "images", maps)
    cvat(make_run(maps, NAMES), tmp_path / "a.xml", instances=True)
    items = list(base.CvatBase(str(tmp_path / "a.xml")))
    assert len(items) == 2
    for item in items:
        found = [(each.label + 1, np.asarray(each.image).astype(np.bool_)) for each in item.annotations]
        assert same(found, objects_of(maps[f"{item.id}.jpg"]))


def test_refusals(make_run, tmp_path) -> None:
    run = make_run({"a.jpg": np.ones((1, 1), dtype=np.int32)}, NAMES)
    with pytest.raises(ConfigError, match=r"expected out, for the format cvat, to name a file that ends in \.xml"):
        cvat(run, tmp_path / "a.json")
    with pytest.raises(ConfigError, match="simplify is for polygons"):
        cvat(run, tmp_path / "a.xml", simplify=1.0)
