"""A photo's labels after an edit, against loops over its pixels; and how the app numbers and parts them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import measure

from annotator.errors import RunError
from annotator.prediction import NOTHING, Prediction
from annotator.record import ImageRecord
from annotator.review.edits import Edits, Shape, apply
from annotator.review.legend import Legend
from exporters.classes import Classes, voc_color

NAMES = ("background", "cat", "dog", "owl")
WITH_BACKGROUND = Legend(Classes(NAMES, (None,) * 4, background=0))
WITHOUT = Legend(Classes(NAMES[1:], (None,) * 3))
OPEN = Legend(Classes(NAMES[1:], (None,) * 3, open_labels=True))
SIZE = (13, 17)


def record_of(label_map: NDArray[np.int32], labels: tuple[str, ...], legend: Legend) -> ImageRecord:
    """Scores 0.3, 0.4, ... by label; each label has an embedding of its own."""
    known = legend.classes.names
    ids = [-1 if legend.classes.open_labels else known.index(label) for label in labels]
    scores = [0.3 + index / 10 for index in range(len(labels))]
    embeddings = np.eye(len(labels), dtype=np.float16)
    prediction = Prediction(label_map, labels, ids, scores, embeddings)
    height, width = label_map.shape
    return ImageRecord("a.jpg", "ok", width=width, height=height, segments=tuple(prediction.segments()))


def noise(seed: int, labels: int, lowest: int = NOTHING) -> NDArray[np.int32]:
    """Blocks of 3 x 3 pixels, every label among them."""
    coarse = np.random.default_rng(seed).integers(lowest, labels, (5, 6))
    coarse[0, :labels] = np.arange(labels)
    return np.kron(coarse, np.ones((3, 3), dtype=np.int64))[: SIZE[0], : SIZE[1]].astype(np.int32)


def named(record: ImageRecord) -> list[list[str]]:
    """Every pixel's label, "" for nothing."""
    prediction = record.prediction()
    return [[prediction.labels[value] if value >= 0 else "" for value in row] for row in prediction.label_map]


def after(edits: Edits, record: ImageRecord, legend: Legend) -> tuple[ImageRecord, list[list[str]]]:
    edited = ImageRecord("a.jpg", "ok", width=record.width, height=record.height, segments=apply(edits, record, legend))
    return edited, named(edited)


@pytest.mark.parametrize("legend", [WITH_BACKGROUND, WITHOUT, OPEN], ids=["background", "none", "open"])
@pytest.mark.parametrize("seed", range(4))
def test_an_edit_is_what_a_loop_over_pixels_says(seed: int, legend: Legend) -> None:
    """Renamed label, repainted mask, deleted, relabelled and drawn instances, all at once."""
    rng = np.random.default_rng(seed)
    labels = legend.classes.names
    background = "background" if legend is WITH_BACKGROUND else ""
    record = record_of(noise(seed, len(labels), 0 if legend is WITH_BACKGROUND else NOTHING), labels, legend)
    renamed: dict[int, str | None] = {labels.index("owl"): "dog" if seed % 2 else None}
    values = legend.values(record).copy()
    brush = rng.random(SIZE) < 0.1
    values[brush] = rng.choice([*legend.names, legend.nothing], int(brush.sum()))
    parts = legend.parts(record)
    deleted, relabelled = parts[0], next(part for part in parts[1:] if labels[part.class_index] != "owl")
    drawn = Shape("cat", rng.random(SIZE) < 0.05)
    pixels = {part.number: set() for part in parts}
    for part in parts:
        x, y, width, height = part.box
        for row in range(height):
            for column in range(width):
                if part.mask[row, column]:
                    pixels[part.number].add((y + row, x + column))
    mask = np.zeros(SIZE, dtype=np.bool_)
    for place in pixels[relabelled.number]:
        mask[place] = True
    reshaped = {deleted.number: None, relabelled.number: Shape("dog", mask)}

    before = named(record)
    expected = [row.copy() for row in before]
    by_hand = set()
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            if before[y][x] == "owl":
                expected[y][x] = "dog" if seed % 2 else background
                by_hand.add((y, x))
            if values[y, x] != legend.values(record)[y, x]:
                expected[y][x] = legend.names.get(int(values[y, x]), "") if values[y, x] != legend.nothing else ""
                by_hand.add((y, x))
    touched = set(by_hand)
    for place in pixels[deleted.number] - touched:
        expected[place[0]][place[1]] = background
        by_hand.add(place)
    for place in pixels[relabelled.number] - touched:
        expected[place[0]][place[1]] = "dog"
        by_hand.add(place)
    for y, x in np.argwhere(drawn.mask).tolist():
        expected[y][x] = "cat"
        by_hand.add((y, x))

    edited, found = after(Edits(renamed, values, reshaped, [drawn]), record, legend)
    assert found == expected
    scores = {segment.label: segment.score for segment in record.segments}
    sums: dict[str, list[float]] = defaultdict(list)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            if found[y][x]:
                sums[found[y][x]].append(1.0 if (y, x) in by_hand else scores[found[y][x]])
    means: dict[str, float] = {}
    for label in sums:
        alike = [segment for segment in edited.segments if segment.label == label]
        means[label] = sum(segment.score * segment.area for segment in alike) / sum(segment.area for segment in alike)
    assert means == pytest.approx({label: float(np.mean(values)) for label, values in sums.items()}, abs=1e-4)
    if not legend.classes.open_labels:
        assert all(segment.class_id == labels.index(segment.label) for segment in edited.segments)


def test_what_is_not_touched_stays_to_the_byte() -> None:
    record = record_of(noise(0, 3, 0), NAMES[:3], WITH_BACKGROUND)
    drawn = np.zeros(SIZE, dtype=np.bool_)
    drawn[record.prediction().label_map == 1] = True
    edited = apply(Edits(added=[Shape("dog", drawn)]), record, WITH_BACKGROUND)
    assert edited[0] == record.segments[0]
    assert edited[0].embedding is not None
    assert [segment.label for segment in edited] == ["background", "dog"]
    assert edited[1].embedding is None  # it is an embedding of other pixels
    assert apply(Edits(), record, WITH_BACKGROUND) == record.segments


def test_a_person_may_make_up_a_class_only_where_the_labeler_may() -> None:
    drawn = np.zeros(SIZE, dtype=np.bool_)
    drawn[3, 4] = True
    record = record_of(noise(0, 2), ("a cat", "dog"), OPEN)
    edited = apply(Edits(renamed={0: "Cats"}, added=[Shape("zebra", drawn)]), record, OPEN)
    assert [segment.label for segment in edited] == ["Cats", "dog", "zebra"]
    assert (edited[2].bbox, edited[2].score, edited[2].class_id) == ((4, 3, 1, 1), 1.0, -1)
    assert edited[0].score == 1.0
    closed = record_of(noise(0, 3), NAMES[1:], WITHOUT)
    with pytest.raises(RunError, match="expected a class of the run, but found 'zebra'"):
        apply(Edits(added=[Shape("zebra", drawn)]), closed, WITHOUT)
    values = WITHOUT.values(closed).copy()
    values[0, 0] = 9
    with pytest.raises(RunError, match=r"expected mask values of classes, 1 to 3, but found 9"):
        apply(Edits(values=values), closed, WITHOUT)


def test_instances_of_one_class_that_touch_stay_apart_when_one_is_edited() -> None:
    """The labeler gave two cats side by side; a person adds a pixel to the second, and makes the first a dog."""
    label_map = np.zeros(SIZE, dtype=np.int32)
    label_map[:, 8:] = 1
    label_map[:, 12:] = NOTHING
    record = record_of(label_map, ("a cat", "cats"), OPEN)
    first, second = OPEN.parts(record)
    assert (first.box, second.box) == ((0, 0, 8, 13), (8, 0, 4, 13))
    larger = label_map == 1
    larger[0, 12] = True
    (left, right) = apply(Edits(reshaped={second.number: Shape("cat", larger)}), record, OPEN)
    assert (left, right.label, right.area, right.bbox) == (record.segments[0], "cats", 4 * 13 + 1, (8, 0, 5, 13))
    relabelled = apply(Edits(reshaped={first.number: Shape("dog", label_map == 0)}), record, OPEN)
    assert [(segment.label, segment.area) for segment in relabelled] == [("cats", 4 * 13), ("dog", 8 * 13)]


def test_the_app_draws_every_class_but_the_background() -> None:
    label_map = np.array([[0, 1, 2], [NOTHING, 3, 0]], np.int32)
    assert WITH_BACKGROUND.values(record_of(label_map, NAMES, WITH_BACKGROUND)).tolist() == [[0, 2, 3], [255, 4, 0]]
    assert WITH_BACKGROUND.names == {0: "background", 2: "cat", 3: "dog", 4: "owl", 255: "(nothing)"}
    assert WITH_BACKGROUND.colors[2] == "#{:02x}{:02x}{:02x}".format(*voc_color(2))
    label_map = np.array([[0, 1, 2], [NOTHING, 0, 0]], np.int32)
    assert WITHOUT.values(record_of(label_map, NAMES[1:], WITHOUT)).tolist() == [[1, 2, 3], [0, 1, 1]]
    assert WITHOUT.names == {1: "cat", 2: "dog", 3: "owl"}


@pytest.mark.parametrize(("count", "kind", "nothing"), [(254, np.uint8, 255), (255, np.uint16, 65535)])
def test_many_classes_have_room(count: int, kind: type, nothing: int) -> None:
    legend = Legend(Classes(tuple(f"c{index}" for index in range(count)), (None,) * count, background=0))
    assert (legend.kind, legend.nothing) == (kind, nothing)
    assert max(value for value in legend.names if value != nothing) == count < nothing


@pytest.mark.parametrize("seed", range(3))
def test_instances_are_connected_parts(seed: int) -> None:
    record = record_of(noise(seed, 4, 0), NAMES, WITH_BACKGROUND)
    values = WITH_BACKGROUND.values(record)
    expected = set()
    for value in (2, 3, 4):
        for region in measure.regionprops(measure.label(values == value, connectivity=2)):
            top, left, bottom, right = region.bbox
            expected.add((value - 1, (left, top, right - left, bottom - top), region.image.tobytes()))
    parts = WITH_BACKGROUND.parts(record)
    assert {(part.class_index, part.box, part.mask.tobytes()) for part in parts} == expected
    assert len({part.number for part in parts}) == len(parts) == len(expected)
