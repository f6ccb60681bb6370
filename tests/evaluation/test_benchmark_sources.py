"""The benchmarks against sources of others: published samples, torchvision's class lists, the data sets' own names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from evaluation.benchmarks import available, complete, load_benchmark, score
from evaluation.layouts import numbers
from evaluation.matching import IGNORE

DATA = Path(os.environ.get("ANNOTATE_TEST_DATA", "not-set"))
ADE_NAMES = DATA / "ade20k/objectInfo150.txt"
INSTANCES = DATA / "coco/annotations/instances_val2017.json"


# Published samples, where they are at hand


def link(root: Path, links: dict[str, str]) -> Path:
    for place, source in links.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).symlink_to((DATA / source).resolve())
    return root


SAMPLES = {
    "voc21": {"VOCdevkit": "voc/VOCdevkit"},
    "voc20": {"VOCdevkit": "voc/VOCdevkit"},
    "coco-object": {"val2017": "coco/val2017", "annotations": "coco/annotations"},
    "coco-stuff": {"val2017": "cocostuff/images", "stuffthingmaps/val2017": "cocostuff/labels"},
    "ade20k": {
        "ADEChallengeData2016/images/validation": "ade20k/images",
        "ADEChallengeData2016/annotations/validation": "ade20k/annotations",
    },
}


def raw_truth(name: str) -> dict[str, np.ndarray]:
    """Per photo the class indices by other means than the tool's; -1 where nothing is scored."""
    if name == "coco-object":
        return painted_instances()
    if name.startswith("voc"):
        root = DATA / "voc/VOCdevkit/VOC2012"
        keys = (root / "ImageSets/Segmentation/val.txt").read_text().split()
        files = [root / f"SegmentationClass/{key}.png" for key in keys]
    else:
        files = list((DATA / {"ade20k": "ade20k/annotations", "coco-stuff": "cocostuff/labels"}[name]).iterdir())
    return {f"{file.stem}.jpg": shifted(name, np.array(Image.open(file)).astype(int)) for file in files}


def shifted(name: str, values: np.ndarray) -> np.ndarray:
    """As the papers' protocol says it: reduce the zero label, or leave COCO's eleven unused ids out."""
    if name in ("voc20", "ade20k"):
        values = np.where(values == 0, 255, values) - 1
        return np.where(values == 254, -1, values)
    if name == "coco-stuff":
        unused = np.array([12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]) - 1
        assert not np.isin(values, unused).any()
        return np.where(values == 255, -1, values - (values[..., None] > unused).sum(axis=-1))
    return np.where(values == 255, -1, values)


def painted_instances() -> dict[str, np.ndarray]:
    coco = COCO(INSTANCES)
    index = {category: position for position, category in enumerate(sorted(coco.cats), start=1)}
    found = {}
    for image in coco.imgs.values():
        mask = np.zeros((image["height"], image["width"]), dtype=int)
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        pairs = [(annotation, coco.annToMask(annotation) > 0) for annotation in annotations]
        pairs.sort(key=lambda pair: (not pair[0]["iscrowd"], -int(pair[1].sum())))
        for annotation, region in pairs:
            mask[region] = -1 if annotation["iscrowd"] else index[annotation["category_id"]]
        found[image["file_name"]] = mask
    return found


@pytest.mark.parametrize("name", SAMPLES)
def test_published_samples(name: str, make_run: Callable, tmp_path: Path) -> None:
    """A run that knows the truth (read by other means) scores 1, over as many pixels as that truth has."""
    if absent := [source for source in SAMPLES[name].values() if not (DATA / source).is_dir()]:
        pytest.skip(f"{absent[0]} is not at hand (ANNOTATE_TEST_DATA)")
    benchmark = load_benchmark(name)
    dataset = complete(benchmark, link(tmp_path / "data", SAMPLES[name]))
    truth = raw_truth(name)
    run = make_run({path: np.maximum(mask, 0) for path, mask in truth.items()}, benchmark.vocabulary)
    evaluation = score(benchmark, dataset, run).evaluation
    pixels = sum(np.bincount(mask[mask >= 0], minlength=len(benchmark.classes)) for mask in truth.values())
    assert evaluation.images == len(truth) == len(dataset.keys)
    assert evaluation.matrix.truth_pixels.tolist() == pixels.tolist()
    assert evaluation.scores.miou == 1


@pytest.mark.skipif(not ADE_NAMES.is_file(), reason="ADE20K's names are not at hand (ANNOTATE_TEST_DATA)")
def test_ade_names_are_the_data_sets_own() -> None:
    """objectInfo150.txt lists each class with its synonyms."""
    rows = [line.split("\t") for line in ADE_NAMES.read_text().splitlines()[1:] if line]
    names = [[name.strip() for name in row[-1].split(",")] for row in rows]
    classes = load_benchmark("ade20k").classes
    assert [int(row[0]) for row in rows] == list(range(1, 151))
    assert [label for label, known in zip(classes, names, strict=True) if label not in known] == []


@pytest.mark.skipif(not INSTANCES.is_file(), reason="COCO 2017 is not at hand (ANNOTATE_TEST_DATA)")
def test_coco_names_are_the_data_sets_own() -> None:
    categories = json.loads(INSTANCES.read_text())["categories"]
    names = [category["name"] for category in sorted(categories, key=lambda category: category["id"])]
    plane = names.index("airplane")
    assert list(load_benchmark("coco-stuff").classes[:80]) == names
    assert list(load_benchmark("coco-object").classes[1:]) == [*names[:plane], "aeroplane", *names[plane + 1 :]]


# Class lists against torchvision's


def test_counts_stated_in_the_papers() -> None:
    counts = {name: len(load_benchmark(name).classes) for name in available()}
    assert counts == {
        "voc21": 21,
        "voc20": 20,
        "context60": 60,
        "context59": 59,
        "coco-object": 81,
        "coco-stuff": 171,
        "cityscapes": 19,
        "ade20k": 150,
    }


def test_voc_names_are_torchvisions() -> None:
    from annotator.models.compat import prepare_torchvision

    prepare_torchvision()
    from torchvision.models._meta import _VOC_CATEGORIES

    names = [name.replace(" ", "") for name in load_benchmark("voc21").classes]
    assert names == ["background", *_VOC_CATEGORIES[1:]]
    assert load_benchmark("voc20").classes == load_benchmark("voc21").classes[1:]


def test_cityscapes_is_torchvisions(tmp_path: Path) -> None:
    """Names by train id, and what becomes of every label id."""
    from annotator.models.compat import prepare_torchvision

    prepare_torchvision()
    from torchvision.datasets import Cityscapes

    benchmark = load_benchmark("cityscapes")
    scored = {label.train_id: label.name for label in Cityscapes.classes if label.train_id not in (-1, 255)}
    assert list(benchmark.classes) == [scored[index] for index in range(19)]
    table = benchmark.truth[0].table(tmp_path, benchmark.classes)
    expected = {label.id: label.train_id for label in Cityscapes.classes if label.id >= 0}
    assert {value: int(table[value]) for value in expected} == {
        value: IGNORE if train_id == 255 else train_id for value, train_id in expected.items()
    }


def test_coco_ids_are_torchvisions(tmp_path: Path) -> None:
    from annotator.models.compat import prepare_torchvision

    prepare_torchvision()
    from torchvision.models._meta import _COCO_CATEGORIES

    known = {value: name for value, name in enumerate(_COCO_CATEGORIES) if name not in ("__background__", "N/A")}
    for name, form, shift in (("coco-object", 2, 0), ("coco-object", 0, 1), ("coco-stuff", 0, 1)):
        benchmark = load_benchmark(name)
        table = benchmark.truth[form].table(tmp_path, benchmark.classes)
        found = {value: benchmark.classes[table[value - shift]] for value in known}
        assert {value: label.replace("aeroplane", "airplane") for value, label in found.items()} == known


def test_context_holds_vocs_classes() -> None:
    """In alphabetical order, with `table` for VOC's diningtable."""
    classes = load_benchmark("context59").classes
    assert list(classes) == sorted(classes)
    spelled = {name.replace("dining table", "table") for name in load_benchmark("voc20").classes}
    assert spelled <= set(classes)
    assert load_benchmark("context60").classes[1:] == classes


def test_coco_stuff_follows_its_objects() -> None:
    """91 stuff classes in alphabetical order, COCO ids 92 to 182."""
    benchmark = load_benchmark("coco-stuff")
    stuff = benchmark.classes[80:]
    assert len(stuff) == 91
    assert list(stuff) == sorted(stuff)
    assert numbers(benchmark.truth[0].values)[80:] == list(range(91, 182))


@pytest.mark.parametrize(
    ("name", "digest"),
    [("ade20k", "f9dbd8a75a0722c9"), ("context59", "9ea0b2deeb7b226c"), ("coco-stuff", "8ea44449837dceb3")],
)
def test_lists_that_no_library_holds_stay_as_they_were_checked(name: str, digest: str) -> None:
    """ADE's was compared with objectInfo150.txt (above, where that is at hand), all with the released evaluations."""
    names = "\n".join(load_benchmark(name).classes)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == digest
