"""Published ground truth, where it is at hand: ANNOTATE_TEST_DATA names a folder that holds `voc/VOCdevkit`
and `coco/annotations` in their own layouts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from evaluation.confusion import evaluate_run
from evaluation.matching import IGNORE
from evaluation.truth import open_truth

DATA = Path(os.environ.get("ANNOTATE_TEST_DATA", "not-set"))
VOC = DATA / "voc/VOCdevkit/VOC2012"
INSTANCES = DATA / "coco/annotations/instances_val2017.json"
VOC_CLASSES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
PHOTOS = 94


@pytest.mark.skipif(not VOC.is_dir(), reason="VOC 2012 is not at hand (ANNOTATE_TEST_DATA)")
def test_voc_masks(make_run: Callable, tmp_path: Path) -> None:
    names = (VOC / "ImageSets/Segmentation/val.txt").read_text().split()
    masks = {f"{name}.jpg": np.array(Image.open(VOC / f"SegmentationClass/{name}.png")) for name in names}
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(VOC_CLASSES))
    perfect = {name: np.where(mask == 255, 0, mask.astype(np.int32)) for name, mask in masks.items()}
    run = make_run(perfect, VOC_CLASSES)
    evaluation = evaluate_run(run, open_truth(VOC / "SegmentationClass", run, classes))

    pixels = np.bincount(np.concatenate([mask.ravel() for mask in masks.values()]), minlength=256)
    assert evaluation.images == len(names)
    assert evaluation.matrix.truth_pixels.tolist() == pixels[:21].tolist()
    assert evaluation.scores.miou == 1

    shifted = make_run({name: labels - 1 for name, labels in perfect.items()}, VOC_CLASSES[1:])
    reduced = evaluate_run(shifted, open_truth(VOC / "SegmentationClass", shifted, classes))
    assert reduced.matrix.truth_pixels.tolist() == pixels[1:21].tolist()
    assert reduced.scores.miou == 1


@pytest.mark.skipif(not INSTANCES.is_file(), reason="COCO 2017 is not at hand (ANNOTATE_TEST_DATA)")
def test_coco_instances(make_run: Callable) -> None:
    """Painted a second time with pycocotools' own reader, by the file's `area`."""
    coco = COCO(INSTANCES)
    classes = ["background", *(category["name"] for category in coco.cats.values())]
    position = {category: index for index, category in enumerate(coco.cats, start=1)}
    expected = {}
    for image in list(coco.imgs.values())[:PHOTOS]:
        mask = np.zeros((image["height"], image["width"]), dtype=np.int32)
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        for annotation in sorted(annotations, key=lambda found: (not found["iscrowd"], -found["area"])):
            mask[coco.annToMask(annotation) > 0] = (
                IGNORE if annotation["iscrowd"] else position[annotation["category_id"]]
            )
        expected[image["file_name"]] = mask
    run = make_run({name: np.where(mask == IGNORE, 0, mask) for name, mask in expected.items()}, classes)
    evaluation = evaluate_run(run, open_truth(INSTANCES, run))

    pixels = np.bincount(np.concatenate([mask.ravel() for mask in expected.values()]))[:81]
    assert evaluation.images == PHOTOS
    np.testing.assert_allclose(
        evaluation.matrix.truth_pixels, pixels, rtol=0, atol=50
    )  # `area` is not quite the pixels
    assert evaluation.scores.miou > 0.999
