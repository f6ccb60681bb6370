"""A drawn folder in the layout that the embedded pack is trained from: discs and squares with masks, plain photos."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from annotator.training.embedded.names import COCO

COLOURS = {"cat": (200, 60, 40), "car": (40, 70, 210)}
SIZE = (96, 72)


def draw(name: str, rng: np.random.Generator) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A photo with one object on noise, and the object's box (x0, y0, x1, y1); cats are discs, cars squares."""
    noise = rng.normal(120, 20, (SIZE[1], SIZE[0], 3)).clip(0, 255).astype(np.uint8)
    photo = Image.fromarray(noise)
    x, y = int(rng.integers(5, 45)), int(rng.integers(5, 25))
    box = (x, y, x + 40, y + 40)
    pen = ImageDraw.Draw(photo)
    (pen.ellipse if name == "cat" else pen.rectangle)(box, fill=COLOURS[name])
    return photo, box


def write_data(root: Path, photos: int = 4) -> Path:
    rng = np.random.default_rng(0)
    coco, voc = root / "coco", root / "voc/VOCdevkit/VOC2012"
    for folder in ("train2017", "annotations"):
        (coco / folder).mkdir(parents=True)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    images, annotations = [], []
    for index in range(photos):
        name = ("cat", "car")[index % 2]
        photo, (x0, y0, x1, y1) = draw(name, rng)
        photo.save(coco / f"train2017/{index:012d}.jpg", quality=95)
        images.append({"id": index, "file_name": f"{index:012d}.jpg", "width": SIZE[0], "height": SIZE[1]})
        annotations.append(
            {
                "id": index, "image_id": index, "category_id": 1 + COCO.index(name), "iscrowd": 0, "area": 1600,
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            }
        )  # fmt: skip
        photo, box = draw(name, rng)
        photo.save(voc / f"JPEGImages/v{index}.jpg", quality=95)
        Image.fromarray(voc_mask(box, {"cat": 8, "car": 7}[name])).save(voc / f"SegmentationClass/v{index}.png")
    categories = [{"id": 1 + index, "name": name} for index, name in enumerate(COCO)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (coco / "annotations/instances_train2017.json").write_text(json.dumps(content))
    captions = [{"image_id": i, "caption": f"A {('cat', 'car')[i % 2]} on a grey wall."} for i in range(40)]
    (coco / "annotations/captions_val2017.json").write_text(json.dumps({"annotations": captions}))
    (voc / "ImageSets/Segmentation/train.txt").write_text("\n".join(f"v{i}" for i in range(photos - 1)))
    (voc / "ImageSets/Segmentation/aug.txt").write_text(f"v{photos - 1}\n")

    for folder in ("imagenet", "openimages", "pool"):
        (root / "photos" / folder).mkdir(parents=True)
    draw("cat", rng)[0].save(root / "photos/imagenet/a.jpg")
    draw("car", rng)[0].save(root / "photos/openimages/b.jpg")
    with (root / "photos/pool/index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "source", "original_path", "category", "caption"])
        for index, label in enumerate(["cat", "pagoda", "", "Motorbikes"]):
            draw("cat", rng)[0].save(root / f"photos/pool/mixed_{index}.jpg")
            rows.writerow([f"mixed_{index}.jpg", "drawn", "", label, ""])
        draw("car", rng)[0].save(root / "photos/pool/voc2007_0.jpg")
        rows.writerow(["voc2007_0.jpg", "drawn", "", "car", ""])
    return root


def voc_mask(box: tuple[int, int, int, int], value: int) -> NDArray[np.uint8]:
    """The object's class, a border of 255 around it, as in VOC."""
    mask = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
    x0, y0, x1, y1 = box
    mask[max(0, y0 - 2) : y1 + 3, max(0, x0 - 2) : x1 + 3] = 255
    mask[y0 : y1 + 1, x0 : x1 + 1] = value
    return mask
