"""Ground truth from COCO JSON: painting order, crowds, the three forms of masks, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from annotator.errors import ConfigError
from evaluation.confusion import evaluate_run
from evaluation.matching import IGNORE, TruthError
from evaluation.truth import open_truth

CATEGORIES = [{"id": 17, "name": "cat"}, {"id": 18, "name": "Dog"}]
CAT, DOG = 17, 18
C, D, X = 1, 2, IGNORE  # class indices in the run: background 0, cat 1, dog 2


def box(x: int, y: int, width: int, height: int) -> list[int]:
    """A rectangle as a polygon."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def uncompressed(mask: Any) -> dict[str, Any]:
    """Run lengths counted here, column by column, starting with background."""
    mask = np.asarray(mask)
    counts, value = [0], 0
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask: Any) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def annotation(category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": 5, "image_id": 1, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def coco(*annotations: dict[str, Any], height: int = 4, width: int = 5, file_name: str = "x.jpg") -> dict[str, Any]:
    image = {"id": 1, "file_name": file_name, "height": height, "width": width}
    return {"images": [image], "categories": CATEGORIES, "annotations": list(annotations)}


@pytest.fixture
def paint(make_run: Callable, tmp_path: Path) -> Callable[..., list]:
    """The truth of x.jpg, 5 x 4 pixels, as nested lists of class indices."""

    def paint(*annotations: dict[str, Any], classes: tuple[str, ...] = ("background", "cat", "dog")) -> list:
        file = tmp_path / "truth.json"
        file.write_text(json.dumps(coco(*annotations)), encoding="utf-8")
        mask = open_truth(file, make_run({"x.jpg": np.zeros((4, 5))}, classes)).mask("x.jpg", (4, 5))
        assert mask is not None
        return mask.tolist()

    return paint


SMALL_DOG = annotation(DOG, [box(1, 1, 2, 2)])
LARGE_CAT = annotation(CAT, [box(0, 0, 4, 3)])
CROWD = annotation(DOG, [box(2, 0, 3, 4)], iscrowd=1)


@pytest.mark.parametrize("order", [(SMALL_DOG, LARGE_CAT), (LARGE_CAT, SMALL_DOG)])
def test_small_instances_lie_on_large_ones(paint: Callable, order: tuple) -> None:
    assert paint(*order) == [[C, C, C, C, 0], [C, D, D, C, 0], [C, D, D, C, 0], [0, 0, 0, 0, 0]]


def test_equal_sizes_keep_file_order(paint: Callable) -> None:
    first, second = annotation(DOG, [box(0, 0, 3, 1)]), annotation(CAT, [box(2, 0, 3, 1)])
    assert paint(first, second)[0] == [D, D, C, C, C]
    assert paint(second, first)[0] == [D, D, D, C, C]


def test_size_is_counted_in_pixels_not_read_from_the_file(paint: Callable) -> None:
    assert paint({**SMALL_DOG, "area": 999.0}, {**LARGE_CAT, "area": 1.0})[1] == [C, D, D, C, 0]


@pytest.mark.parametrize("order", [(CROWD, SMALL_DOG), (SMALL_DOG, CROWD)])
def test_crowds_are_not_scored_but_instances_on_them_are(paint: Callable, order: tuple) -> None:
    assert paint(*order) == [[0, 0, X, X, X], [0, D, D, X, X], [0, D, D, X, X], [0, 0, X, X, X]]


def test_without_background_in_the_run_empty_pixels_are_not_scored(paint: Callable) -> None:
    assert paint(SMALL_DOG, classes=("cat", "dog"))[1] == [X, 1, 1, X, X]


def test_a_photo_without_annotations_is_background(paint: Callable) -> None:
    assert paint() == [[0] * 5] * 4


def test_a_category_of_the_file_may_be_the_background(make_run: Callable, tmp_path: Path) -> None:
    """Whatever its case, it is where nothing is annotated, and there is no second one."""
    file = tmp_path / "truth.json"
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "Background"}]
    content = {**coco(annotation(1, [box(0, 0, 2, 4)]), annotation(2, [box(2, 0, 1, 4)])), "categories": categories}
    file.write_text(json.dumps(content), encoding="utf-8")
    truth = open_truth(file, make_run({"x.jpg": np.zeros((4, 5))}, None), own_classes=True)
    mask = truth.mask("x.jpg", (4, 5))
    assert mask is not None
    assert (truth.names, truth.vocabulary.background_class) == (("dog", "Background"), 1)
    assert mask.tolist() == [[0, 0, 1, 1, 1]] * 4


@pytest.mark.parametrize("form", [uncompressed, compressed], ids=lambda form: form.__name__)
def test_run_length_masks_with_holes(paint: Callable, form: Callable) -> None:
    ring = [[1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 1]]
    assert paint(annotation(DOG, form(ring))) == (D * np.array(ring)).tolist()


def test_polygons_in_several_parts(paint: Callable) -> None:
    parts = annotation(CAT, [box(0, 0, 1, 1), box(3, 2, 2, 2), [1, 1, 2, 2]])  # the last is a line: no pixel
    assert paint(parts) == [[C, 0, 0, 0, 0], [0] * 5, [0, 0, 0, C, C], [0, 0, 0, C, C]]
    assert paint(annotation(CAT, [[1, 1, 2, 2]])) == [[0] * 5] * 4


@pytest.mark.parametrize(
    ("photo", "file_name"),
    [("a/x.jpg", "a/x.jpg"), ("a/x.jpg", "./a/x.jpg"), ("x.jpg", "val2017/x.jpg"), ("val2017/x.jpg", "x.jpg")],
)
def test_file_names_meet(make_run: Callable, tmp_path: Path, photo: str, file_name: str) -> None:
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(coco(LARGE_CAT, file_name=file_name)), encoding="utf-8")
    run = make_run({photo: np.ones((4, 5)), "a/other.jpg": np.ones((1, 1))})
    evaluation = evaluate_run(run, open_truth(file, run))
    assert (evaluation.images, evaluation.without_truth) == (1, 1)
    assert evaluation.matrix.counts.tolist() == [[0, 8, 0, 0], [0, 12, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (annotation(99, [box(0, 0, 2, 2)]), "category_id 99 is not among the file's categories"),
        (annotation(CAT, []), "expected a segmentation .* a box alone is no mask"),
        ({"id": 5, "image_id": 1, "category_id": CAT}, "expected a segmentation .* a box alone is no mask"),
        (annotation(CAT, [0, 0, 3, 0, 3, 3]), r"expected polygons as lists of x, y inside the photo, 5 x 4"),
        (annotation(CAT, [["a"] * 6]), "could not convert string to float"),
        (annotation(CAT, [[0, 0, 1e9, 0, 1e9, 1e9]]), "inside the photo"),  # pycocotools would ask for all memory
        (annotation(CAT, [[0, 0, float("nan"), 0, 3, 3]]), "inside the photo"),
        (annotation(CAT, {"size": [5, 4], "counts": [20]}), r"expected RLE of size \[4, 5\], but found \[5, 4\]"),
        (annotation(CAT, {"size": [4, 5], "counts": [3, 4]}), "expected RLE counts that add up to 20"),
        (annotation(CAT, {"size": [4, 5], "counts": [23, -3]}), "expected RLE counts that add up to 20"),
        (annotation(CAT, {"size": [4, 5], "counts": "zzz"}), "expected RLE counts that add up to 20"),
        (annotation(CAT, {"size": [4, 5]}), "expected RLE counts"),
        (annotation(CAT, {"size": [4, 5], "counts": "11"}), "expected RLE counts that add up to 20"),  # two pixels
        (annotation(CAT, {"size": [4, 5], "counts": ""}), "expected RLE counts that add up to 20"),
        (annotation(CAT, {"size": [4, 5], "counts": "\0\0"}), "expected RLE counts that add up to 20"),
        (annotation(CAT, {"size": [4, 5], "counts": "d0o"}), "expected RLE counts that add up to 20"),
        (annotation(CAT, {"size": [4, 5], "counts": [True] * 20}), "expected RLE counts that add up to 20"),
        (annotation(CAT, [[0, 0, 3, 0, 3, 3, 1]]), "expected polygons as lists of x, y"),  # seven numbers
    ],
)
def test_annotations_that_are_wrong(paint: Callable, wrong: dict, message: str) -> None:
    with pytest.raises(TruthError, match=rf"truth\.json: annotation 5: .*{message}") as caught:
        paint(wrong)
    assert "\n" not in str(caught.value)


BAD_NAMES = (None, 3, ["cat"], "\ud800", "c\0t")
BAD_IMAGES = [
    *(("file_name", value) for value in BAD_NAMES),
    *(("width", value) for value in ("5", 5.0, None, True)),
    *(("id", value) for value in (None, [1], 1.0)),
]


def with_value(name: str, field: str, value: object) -> str:
    first, *others = coco()[name]
    return json.dumps({**coco(), name: [{**first, field: value}, *others]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected COCO JSON, but it cannot be read"),
        ("[]", "JSON of another layout"),
        ('{"images": [], "annotations": []}', "but 'categories' is missing"),
        (
            '{"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": [], "categories": []}',
            r"images\[0\] has no 'height'",
        ),
        (json.dumps({**coco(), "images": coco()["images"] * 2}), "expected a file_name once"),
        ("[" * 100_000, "expected COCO JSON, but it cannot be read"),
        *((with_value("images", field, value), rf"expected {field} of images\[0\]") for field, value in BAD_IMAGES),
        *((with_value("categories", "name", value), r"name of categories\[0\] to be text") for value in BAD_NAMES),
        (json.dumps({**coco(), "annotations": [5]}), r"expected an object as annotations\[0\], but found 5"),
        (json.dumps({**coco(), "annotations": {}}), "expected annotations to be a list"),
        (json.dumps({**coco(), "categories": [{"id": 1, "name": "horse"}]}), r"but found others \(horse\)"),
        (json.dumps(coco(file_name="y.jpg")), r"looked for 'x\.jpg' .* found 1 such as 'y\.jpg'"),
    ],
)
def test_files_that_are_wrong(make_run: Callable, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "truth.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(TruthError, match=message):
        open_truth(file, make_run({"x.jpg": np.zeros((4, 5))}))


def test_size_of_the_photo_must_fit(make_run: Callable, tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(coco(height=5, width=4)), encoding="utf-8")
    truth = open_truth(file, make_run({"x.jpg": np.zeros((4, 5))}))
    with pytest.raises(
        TruthError, match=r"truth\.json: x\.jpg: expected the size of its photo, 5 x 4, but found 4 x 5"
    ):
        truth.mask("x.jpg", (4, 5))


def test_a_class_list_for_coco_is_a_mistake(make_run: Callable, tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(coco()), encoding="utf-8")
    with pytest.raises(ConfigError, match="names its own categories"):
        open_truth(file, make_run({"x.jpg": np.zeros((4, 5))}), tmp_path / "classes.txt")
