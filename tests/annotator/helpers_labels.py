"""Labels in COCO and as mask PNGs, written and read without the code under test: by pycocotools and Pillow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from typer.testing import CliRunner

from annotator.cli import app

NAMES = ["cat", "dog, big", "traffic # light"]
Map = NDArray[np.int32]


def said(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def scene(seed: int, classes: int = 3) -> Map:
    """H x W of coarse and fine noise, with unlabelled pixels (-1), of a size by the seed."""
    rng = np.random.default_rng(seed)
    found = np.kron(rng.integers(-1, classes, (6, 5)), np.ones((4, 6 + seed), dtype=int))
    specks = rng.random(found.shape) < 0.04
    found[specks] = rng.integers(-1, classes, int(specks.sum()))
    return found.astype(np.int32)


def annotation(mask: NDArray[np.bool_], category: int, image: int = 1, **more: Any) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    found = {"size": rle["size"], "counts": rle["counts"].decode()}
    return {"image_id": image, "category_id": category, "segmentation": found, "iscrowd": 0, **more}


def write_coco(
    file: Path,
    sizes: Mapping[str, tuple[int, int]],
    annotations: Sequence[dict[str, Any]],
    categories: Mapping[int, str] = dict(enumerate(NAMES, start=1)),
) -> Path:
    """sizes: (height, width) by name; images and annotations are numbered from 1."""
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, (name, (height, width)) in enumerate(sizes.items(), start=1)
    ]
    content = {
        "images": images,
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    file.write_text(json.dumps(content))
    return file


def coco_of(file: Path, maps: Mapping[str, Map], **more: Any) -> Path:
    """An annotation per class and photo."""
    found = [
        annotation(label_map == value, int(value) + 1, number, **more)
        for number, label_map in enumerate(maps.values(), start=1)
        for value in np.unique(label_map[label_map >= 0])
    ]
    return write_coco(file, {name: each.shape for name, each in maps.items()}, found)


def read_coco(file: Path) -> dict[str, Map]:
    """Class maps by pycocotools, category id - 1; annotations must not overlap."""
    api = COCO(file)
    maps = {}
    for image in api.dataset["images"]:
        found = np.full((image["height"], image["width"]), -1, dtype=np.int32)
        for each in api.imgToAnns[image["id"]]:
            mask = api.annToMask(each).astype(bool)
            assert (found[mask] == -1).all()
            assert int(each["area"]) == mask.sum()
            found[mask] = each["category_id"] - 1
        maps[image["file_name"]] = found
    return maps


def read_masks(folder: Path) -> dict[str, Map]:
    """Class maps by Pillow, of NAME.jpg."""
    maps = {}
    for file in folder.rglob("*.png"):
        values = np.asarray(Image.open(file)).astype(np.int32)
        name = file.relative_to(folder).with_suffix(".jpg").as_posix()
        maps[name] = np.where(values == (255 if values.max() <= 255 else 65535), -1, values)
    return maps


def write_masks(folder: Path, maps: Mapping[str, Map], names: Sequence[str]) -> Path:
    for name, label_map in maps.items():
        file = (folder / name).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(label_map < 0, 255, label_map).astype(np.uint8)).save(file)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def same(first: Mapping[str, Map], second: Mapping[str, Map]) -> bool:
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)
