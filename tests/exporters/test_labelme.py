"""LabelMe JSON as LabelMe's `shape_to_mask` and `shapes_to_label` read it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_formats import HOSTILE, files_below, objects_of, same, save_photos
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from annotator.errors import ConfigError
from exporters.base import export

NAMES = ["background", "cat", "dog", "bird"]


def mask_of(shape: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """As LabelMe does it: Pillow's polygon with its outline, or a PNG set into its box, both corners included."""
    image = Image.new("1", size[::-1])
    if shape["shape_type"] == "polygon":
        assert len(shape["points"]) > 2
        ImageDraw.Draw(image).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
        return np.asarray(image)
    mask = np.zeros(size, dtype=np.bool_)
    (left, top), (right, bottom) = shape["points"]
    mask[top : bottom + 1, left : right + 1] = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
    return mask


def loaded(file: Path) -> tuple[dict[str, Any], list[tuple[int, NDArray[np.bool_]]]]:
    """The JSON, and its objects: shapes of one label and group are one."""
    content = json.loads(file.read_text(encoding="utf-8"))
    size = content["imageHeight"], content["imageWidth"]
    found: dict[Any, NDArray[np.bool_]] = {}
    for number, shape in enumerate(content["shapes"]):
        key = shape["label"], ("alone", number) if shape["group_id"] is None else shape["group_id"]
        found[key] = found.get(key, np.zeros(size, dtype=np.bool_)) | mask_of(shape, size)
    return content, [(NAMES.index(label), mask) for (label, _), mask in found.items()]


@pytest.mark.parametrize("shape", ["polygon", "mask"])
def test_masks_come_back(make_run, noise, tmp_path, shape) -> None:
    maps = {f"sub/{index}/{size}.jpg": noise(index, size, size + 7, 4) for index in range(3) for size in (1, 5, 64)}
    run = make_run({**maps, "bad.jpg": None}, NAMES)
    summary = export("labelme", run, tmp_path / "out", {"shape": shape, "instances": True})
    total = 0
    for path, label_map in maps.items():
        _, found = loaded(tmp_path / "out" / path.replace(".jpg", ".json"))
        assert same(found, objects_of(label_map))
        total += len(found)
    assert (summary.images, summary.skipped, summary.annotations) == (len(maps), 1, total)
    assert len(files_below(tmp_path / "out")) == len(maps)


def test_what_is_in_the_json(make_run, tmp_path) -> None:
    label_map = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 2]], dtype=np.int32)
    run = make_run({"sub/a.jpg": label_map}, NAMES, scores=[0.5, 0.25, 0.5, 0.5], root=tmp_path / "photos")
    export("labelme", run, tmp_path / "out")
    content, _ = loaded(tmp_path / "out/sub/a.json")
    assert (tmp_path / "out/sub" / content["imagePath"]).resolve() == tmp_path / "photos/sub/a.jpg"
    assert content["imageData"] is None
    assert (content["imageHeight"], content["imageWidth"], content["flags"]) == (3, 4, {})
    cat, dog = content["shapes"]
    corners = {tuple(point) for point in cat["points"]}
    assert {(0, 0), (2, 0), (2, 2), (0, 2)} <= corners
    assert all(label_map[y, x] == 1 for x, y in corners)  # round the hole, too, from pixel to pixel of the mask
    assert dog["points"] == [[3, 2]] * 4
    assert (cat["label"], cat["group_id"], cat["shape_type"], cat["flags"]) == ("cat", None, "polygon", {})
    assert cat["description"] == "score 0.25"


def test_beside_the_photos(make_run, tmp_path) -> None:
    """Where LabelMe looks first; no photo is touched, not even one called .json."""
    maps = {"a.jpg": np.ones((2, 2), dtype=np.int32)}
    root = save_photos(tmp_path / "photos", maps)
    before = (root / "a.jpg").read_bytes()
    export("labelme", make_run(maps, NAMES, root=root), root)
    assert json.loads((root / "a.json").read_text())["imagePath"] == "a.jpg"
    assert (root / "a.jpg").read_bytes() == before
    save_photos(root, {"a.json": maps["a.jpg"]})
    with pytest.raises(ConfigError, match="apart from the photos"):
        export("labelme", make_run({**maps, "a.json": maps["a.jpg"]}, NAMES, root=root), root)


def test_hostile_names(make_run, tmp_path) -> None:
    maps = {path: np.ones((2, 3 + place), dtype=np.int32) for place, path in enumerate([*HOSTILE, "a.jpg", "a.png"])}
    root = save_photos(tmp_path / "photos", maps)
    export("labelme", make_run(maps, NAMES, root=root), tmp_path / "out")
    files = files_below(tmp_path / "out")
    assert len(files) == len(maps)
    for name in files:
        content, _ = loaded(tmp_path / "out" / name)
        photo = (tmp_path / "out" / name).parent / content["imagePath"]
        with Image.open(photo) as image:
            assert image.size == (content["imageWidth"], 2)


def test_refusals(make_run, tmp_path) -> None:
    run = make_run({"a.jpg": np.ones((2, 2), dtype=np.int32)}, NAMES)
    with pytest.raises(ConfigError, match="simplify is for polygons"):
        export("labelme", run, tmp_path / "out", {"shape": "mask", "simplify": 1.0})
    with pytest.raises(ConfigError, match="format labelme has no split, which is for coco"):
        export("labelme", run, tmp_path / "out", {"split": "0.9/0.1"})
