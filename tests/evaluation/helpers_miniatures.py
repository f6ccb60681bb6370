"""Every benchmark in its own folder layout with two photos of a few pixels, and its score by hand.

A miniature gives per photo the values as they stand in the benchmark's files and what a run answers, as indices in
the benchmark's class order. `iou` was computed on paper: hits / (truth + predicted - hits) per class; classes that
are not in it have no pixel in either.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

Rows = list[list[int]]


@dataclass(frozen=True)
class Miniature:
    """photos: key -> (values in the files, answers of the run)."""

    benchmark: str
    photo: str
    write: Callable[[Path, dict[str, Rows]], None]
    photos: dict[str, tuple[Rows, Rows]]
    iou: dict[str, Fraction]

    @property
    def miou(self) -> float:
        return float(sum(self.iou.values()) / len(self.iou))

    @property
    def suffix(self) -> str:
        """Of the photos in their folder."""
        return self.photo.partition("*")[2]

    def build(self, root: Path) -> dict[str, Rows]:
        """Writes photos and truth; returns the run's answers by the photos' names in their folder."""
        for key, (_, answer) in self.photos.items():
            save_photo(root / self.photo.replace("*", key), answer)
        self.write(root, {key: truth for key, (truth, _) in self.photos.items()})
        return {key + self.suffix: answer for key, (_, answer) in self.photos.items()}


def save_photo(file: Path, like: Rows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (len(like[0]), len(like)), (90, 120, 150)).save(file)


def save_mask(file: Path, values: Rows, palette: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.array(values, dtype=np.uint8))
    if palette:
        mask.putpalette([channel for value in range(256) for channel in (value, 255 - value, 7)])
    mask.save(file)


def save_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def pngs(pattern: str, split: str = "", palette: bool = False) -> Callable[[Path, dict[str, Rows]], None]:
    def write(root: Path, truth: dict[str, Rows]) -> None:
        for key, values in truth.items():
            save_mask(root / pattern.replace("*", key), values, palette)
        if split:
            save_text(root / split, "".join(f"{key}\n" for key in truth))

    return write


CONTEXT_IDS = {"aeroplane": 2, "bag": 9, "bed": 18, "wood": 459}
"""Of PASCAL Context's 459 names; all others are made up, but for those the benchmark asks for."""


def context_mats(classes: Callable[[], tuple[str, ...]]) -> Callable[[Path, dict[str, Rows]], None]:
    def write(root: Path, truth: dict[str, Rows]) -> None:
        free = iter(value for value in range(20, 459))
        written = [name.replace(" ", "") for name in classes()]  # as the published labels.txt has them
        ids = {name: CONTEXT_IDS[name] if name in CONTEXT_IDS else next(free) for name in written}
        names = {value: name for name, value in ids.items()}
        lines = (f"{value}: {names.get(value, f'thing {value}')}\n" for value in range(1, 460))
        save_text(root / "VOCdevkit/VOC2010/labels.txt", "".join(lines))
        for key, values in truth.items():
            file = root / f"VOCdevkit/VOC2010/trainval/{key}.mat"
            file.parent.mkdir(parents=True, exist_ok=True)
            savemat(file, {"LabelMap": np.array(values, dtype=np.uint16)})
        save_text(root / "VOCdevkit/VOC2010/ImageSets/Main/val.txt", "\n".join(truth))

    return write


COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def instances(root: Path, truth: dict[str, Rows]) -> None:
    """A cup (47) in a corner, listed before the table (67) it stands on; a crowd (1); a photo with nothing."""
    cup, table = [[0, 0, 2, 0, 2, 2, 0, 2]], [[0, 0, 3, 0, 3, 4, 0, 4]]
    crowd = {"size": [4, 4], "counts": [12, 2, 2]}  # by columns: the upper half of the last
    content = {
        "images": [
            {"id": index, "file_name": f"{key}.jpg", "height": len(rows), "width": len(rows[0])}
            for index, (key, rows) in enumerate(truth.items())
        ],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 47, "iscrowd": 0, "area": 4, "segmentation": cup},
            {"id": 2, "image_id": 0, "category_id": 67, "iscrowd": 0, "area": 12, "segmentation": table},
            {"id": 3, "image_id": 0, "category_id": 1, "iscrowd": 1, "area": 2, "segmentation": crowd},
        ],
        "categories": [{"id": value, "name": f"category {value}"} for value in COCO_IDS],
    }
    save_text(root / "annotations/instances_val2017.json", json.dumps(content))


def context_classes() -> tuple[str, ...]:
    from evaluation.benchmarks import load_benchmark

    return load_benchmark("context59").classes


HALF, THIRD = Fraction(1, 2), Fraction(1, 3)
VOC_PHOTO = "VOCdevkit/VOC2012/JPEGImages/*.jpg"
VOC_TRUTH = pngs(
    "VOCdevkit/VOC2012/SegmentationClass/*.png", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", palette=True
)
CONTEXT_PHOTO = "VOCdevkit/VOC2010/JPEGImages/*.jpg"
CONTEXT_TRUTH = pngs(
    "VOCdevkit/VOC2010/SegmentationClassContext/*.png",
    "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt",
    palette=True,
)

VOC21 = Miniature(
    "voc21",
    VOC_PHOTO,
    VOC_TRUTH,
    {
        "2007_000033": ([[0, 0, 1], [255, 1, 20]], [[0, 1, 1], [5, 1, 20]]),
        "2011_000006": ([[0, 2, 2]], [[0, 2, -1]]),
    },
    {"background": 2 * THIRD, "aeroplane": 2 * THIRD, "bicycle": HALF, "tvmonitor": Fraction(1)},
)
VOC20 = Miniature(
    "voc20",
    VOC_PHOTO,
    VOC_TRUTH,
    {
        "2007_000033": ([[0, 0, 1], [255, 1, 20]], [[7, 0, 0], [5, 0, 19]]),
        "2011_000006": ([[0, 2, 2]], [[7, 1, 0]]),
    },
    {"aeroplane": 2 * THIRD, "bicycle": HALF, "tvmonitor": Fraction(1)},
)
CONTEXT60 = Miniature(
    "context60",
    CONTEXT_PHOTO,
    CONTEXT_TRUTH,
    {
        "2008_000002": ([[0, 59, 59], [3, 3, 0]], [[0, 59, 0], [3, 0, 0]]),
        "2010_006086": ([[1, 2, 255]], [[1, 1, 30]]),
    },
    {"background": HALF, "aeroplane": HALF, "bag": Fraction(0), "bed": HALF, "wood": HALF},
)
CONTEXT60_MAT = Miniature(  # the same photos but for the ignored pixel, as published
    "context60",
    CONTEXT_PHOTO,
    context_mats(context_classes),
    {
        "2008_000002": ([[1, 459, 459], [18, 18, 17]], [[0, 59, 0], [3, 0, 0]]),
        "2010_006086": ([[2, 9]], [[1, 1]]),
    },
    CONTEXT60.iou,
)
CONTEXT59 = Miniature(
    "context59",
    CONTEXT_PHOTO,
    CONTEXT_TRUTH,
    {
        "2008_000002": ([[0, 59, 59], [3, 3, 0]], [[9, 58, 9], [2, 9, 9]]),
        "2010_006086": ([[1, 2, 255]], [[0, 0, 30]]),
    },
    {"aeroplane": HALF, "bag": Fraction(0), "bed": HALF, "bottle": Fraction(0), "wood": HALF},
)
CONTEXT59_MAT = Miniature(
    "context59",
    CONTEXT_PHOTO,
    context_mats(context_classes),
    {
        "2008_000002": ([[1, 459, 459], [18, 18, 17]], [[9, 58, 9], [2, 9, 9]]),
        "2010_006086": ([[2, 9]], [[0, 0]]),
    },
    CONTEXT59.iou,
)
OBJECT_MAPS = Miniature(
    "coco-object",
    "val2017/*.jpg",
    pngs("stuffthingmaps/val2017/*.png"),
    {
        "000000000139": ([[0, 0, 120], [255, 89, 12]], [[1, 0, 0], [0, 80, 12]]),
        "000000000285": ([[1, 181]], [[2, 80]]),
    },
    {"background": HALF, "person": HALF, "bicycle": Fraction(1), "stop sign": Fraction(1), "toothbrush": HALF},
)
OBJECT_CONVERTED = Miniature(
    "coco-object",
    "images/val2017/*.jpg",
    pngs("annotations/val2017/*_instanceTrainIds.png"),
    {
        "000000000139": ([[1, 1, 0], [0, 80, 12]], [[1, 0, 0], [0, 80, 12]]),
        "000000000285": ([[2, 0]], [[2, 80]]),
    },
    OBJECT_MAPS.iou,
)
OBJECT_INSTANCES = Miniature(  # cup 42 (4 px), dining table 61 (8 px), 2 px background and 2 of a crowd; nothing
    "coco-object",
    "val2017/*.jpg",
    instances,
    {
        "000000000139": ([[0] * 4] * 4, [[42, 42, 61, 1], [42, 42, 61, 1], [61, 61, 0, 0], [61, 61, 0, 0]]),
        "000000000285": ([[0, 0]], [[0, 61]]),
    },
    {"background": HALF, "cup": Fraction(1), "dining table": Fraction(6, 9)},
)
STUFF_PHOTOS = {
    "000000000139": ([[0, 12, 91], [181, 255, 89]], [[0, 11, 80], [170, 3, 79]]),
    "000000000285": ([[91, 92]], [[80, 80]]),
}
STUFF = Miniature(
    "coco-stuff",
    "val2017/*.jpg",
    pngs("stuffthingmaps/val2017/*.png"),
    STUFF_PHOTOS,
    {
        "person": Fraction(1),
        "stop sign": Fraction(1),
        "toothbrush": Fraction(1),
        "banner": 2 * THIRD,
        "blanket": Fraction(0),
        "wood": Fraction(1),
    },
)
STUFF_CONVERTED = Miniature(
    "coco-stuff",
    "images/val2017/*.jpg",
    pngs("annotations/val2017/*_labelTrainIds.png"),
    {
        "000000000139": ([[0, 11, 80], [170, 255, 79]], [[0, 11, 80], [170, 3, 79]]),
        "000000000285": ([[80, 81]], [[80, 80]]),
    },
    STUFF.iou,
)
CITYSCAPES = Miniature(
    "cityscapes",
    "leftImg8bit/val/*_leftImg8bit.png",
    pngs("gtFine/val/*_gtFine_labelIds.png"),
    {
        "frankfurt/frankfurt_000000_000294": ([[7, 7, 8], [23, 0, 33]], [[0, 0, 0], [10, 0, 18]]),
        "lindau/lindau_000000_000019": ([[26, 24]], [[13, 12]]),
    },
    {
        "road": 2 * THIRD,
        "sidewalk": Fraction(0),
        "sky": Fraction(1),
        "person": Fraction(0),
        "rider": Fraction(0),
        "car": Fraction(1),
        "bicycle": Fraction(1),
    },
)
ADE = Miniature(
    "ade20k",
    "ADEChallengeData2016/images/validation/*.jpg",
    pngs("ADEChallengeData2016/annotations/validation/*.png"),
    {
        "ADE_val_00000001": ([[0, 1, 1], [150, 4, 4]], [[0, 0, 3], [149, 3, 3]]),
        "ADE_val_00000002": ([[2, 0]], [[2, 1]]),
    },
    {"wall": HALF, "building": Fraction(0), "sky": Fraction(0), "floor": 2 * THIRD, "flag": Fraction(1)},
)
MINIATURES = {
    "voc21": VOC21,
    "voc20": VOC20,
    "context60": CONTEXT60,
    "context60 as published": CONTEXT60_MAT,
    "context59": CONTEXT59,
    "context59 as published": CONTEXT59_MAT,
    "coco-object from maps": OBJECT_MAPS,
    "coco-object converted": OBJECT_CONVERTED,
    "coco-object from instances": OBJECT_INSTANCES,
    "coco-stuff": STUFF,
    "coco-stuff converted": STUFF_CONVERTED,
    "cityscapes": CITYSCAPES,
    "ade20k": ADE,
}
