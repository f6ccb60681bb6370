"""Label maps and their run lengths, against pycocotools."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from annotator.prediction import NOTHING, Prediction, Segment, decode, encode

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # pycocotools under numpy 2


def check(label_map: np.ndarray) -> None:
    """Every value's string, area and box are pycocotools' own."""
    found = {one.value: one for one in encode(label_map)}
    assert list(found) == [value for value in np.unique(label_map) if value >= 0]
    for value, one in found.items():
        mask = label_map == value
        theirs = coco.encode(np.asfortranarray(mask))
        assert one.rle == theirs["counts"]
        assert one.area == coco.area(theirs) == mask.sum()
        ys, xs = np.nonzero(mask)
        assert one.bbox == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        if np.ptp(xs):  # in a mask of one column pycocotools' box takes the whole column where a run wraps
            assert list(one.bbox) == coco.toBbox(theirs).tolist()
        np.testing.assert_array_equal(decode(one.rle, mask.shape), mask)


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray:
    """Blocks of labels on small maps, labels drawn from ranges that need 8, 16 or 32 bits."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    top = draw(st.sampled_from([0, 1, 5, 127, 128, 40_000]))
    block = draw(st.sampled_from([1, 1, 3, 50]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    blocks = rng.integers(NOTHING, top + 1, (height // block + 1, width // block + 1))
    return blocks.repeat(block, axis=0).repeat(block, axis=1)[:height, :width].astype(np.int32)


@given(label_maps())
@settings(max_examples=150, deadline=None)
def test_encodes_as_pycocotools(label_map: np.ndarray) -> None:
    check(label_map)


@pytest.mark.parametrize(
    "label_map",
    [
        np.zeros((1, 1), np.int32),
        np.full((5, 7), 3, np.int32),
        np.arange(9, dtype=np.int32)[None],  # a row, every pixel another label
        np.arange(9, dtype=np.int32)[:, None],
        np.tile(np.array([[0, -1], [-1, 0]], np.int32), (20, 15)),  # checkers
        np.arange(200, dtype=np.int32).reshape(10, 20),  # more than 127 labels
        np.arange(33_000, dtype=np.int32).reshape(150, 220)[:, ::-1],  # more than 32767, not contiguous
        np.array([[0, 1], [0, 1]], np.uint8),
        np.array([[2**40, -1]]) % 2**31,  # int64
    ],
    ids=["pixel", "full", "row", "column", "checkers", "200", "33000", "uint8", "int64"],
)
def test_encodes_corner_cases(label_map: np.ndarray) -> None:
    if len(np.unique(label_map)) > 1000:  # a pixel each: too many to compare one by one
        found = encode(label_map)
        assert [one.value for one in found] == list(range(33_000))
        assert {one.area for one in found} == {1}
        for one in (found[0], found[127], found[128], found[-1]):
            assert one.rle == coco.encode(np.asfortranarray(label_map == one.value))["counts"]
    else:
        check(label_map)


def test_encodes_runs_of_many_millions() -> None:
    label_map = np.full((2000, 2500), NOTHING, np.int32)
    label_map[3, 2490:] = 0
    label_map[-1, 0] = 7
    check(label_map)


def test_encodes_nothing() -> None:
    assert encode(np.full((4, 6), NOTHING, np.int32)) == []
    assert encode(np.zeros((0, 6), np.int32)) == []


PREDICTION = Prediction(
    np.array([[0, 0, -1], [2, 2, 2]], np.int32), ("dog", "ghost", "cat"), (4, 2, -1), (0.123456, 0.5, 1.0)
)


def test_segments_are_the_labels_that_have_pixels() -> None:
    """Column-major by hand: dog is gap 0, run 1, gap 1, run 1, gap 3; cat is 1, 1, 1, 1, 1, 1."""
    dog, cat = PREDICTION.segments()
    assert dog == Segment("dog", 4, 0.1235, 2, (0, 0, 2, 1), coco_counts([0, 1, 1, 1, 3]))
    assert cat == Segment("cat", -1, 1.0, 3, (0, 1, 3, 1), coco_counts([1, 1, 1, 1, 1, 1]))


def coco_counts(runs: list[int]) -> bytes:
    compressed: dict[str, bytes] = coco.frPyObjects({"size": [2, 3], "counts": runs}, 2, 3)
    return compressed["counts"]


def test_segments_and_back() -> None:
    again = Prediction.from_segments(PREDICTION.segments(), PREDICTION.size)
    assert again.size == (2, 3)
    assert again.labels == ("dog", "cat")
    assert again.class_ids == (4, -1)
    assert again.label_map.tolist() == [[0, 0, -1], [1, 1, 1]]
    assert again.segments() == PREDICTION.segments()


def test_each_segment_takes_its_row_of_the_embeddings() -> None:
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float16)
    described = replace(PREDICTION, embeddings=rows, history={"nodes": []})
    dog, cat = described.segments()
    assert dog.embedding is not None
    assert cat.embedding is not None
    assert (dog.embedding.tolist(), cat.embedding.tolist()) == (rows[0].tolist(), rows[2].tolist())
    assert [dog, cat] == PREDICTION.segments()  # embeddings are no part of what a segment is
    again = Prediction.from_segments([dog, cat], PREDICTION.size)
    np.testing.assert_array_equal(again.embeddings, rows[[0, 2]])
    assert Prediction.from_segments([dog, PREDICTION.segments()[1]], PREDICTION.size).embeddings is None
    assert Prediction.from_segments([], PREDICTION.size).embeddings is None


def test_class_map() -> None:
    assert PREDICTION.class_map().tolist() == [[4, 4, -1], [-1, -1, -1]]
    assert PREDICTION.class_map().dtype == np.int32
    assert Prediction(np.full((1, 2), NOTHING, np.int32)).class_map().tolist() == [[-1, -1]]


ZERO = np.zeros((2, 2), np.int32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 2), np.int64), ["a"], [0], [1.0]), r"to be int32 of shape \(H, W\), but got int64 of shape"),
        ((np.zeros((2, 2, 1), np.int32), ["a"], [0], [1.0]), r"but got int32 of shape \(2, 2, 1\)"),
        ((np.zeros((2, 2), np.int32), ["a"], [0], []), "of one length, but got 1, 1, 0"),
        ((np.ones((2, 2), np.int32), ["a"], [0], [1.0]), "values from -1 to 0, but got 1 to 1"),
        ((np.full((2, 2), -2, np.int32), ["a"], [0], [1.0]), "values from -1 to 0, but got -2 to -2"),
        ((ZERO, ["a"], [0], [1.0], np.zeros((2, 3), np.float16)), r"float16 of shape \(1, d\), but got .* \(2, 3\)"),
        ((ZERO, ["a"], [0], [1.0], np.zeros((1, 3))), r"embeddings to be float16 .*, but got float64"),
        ((ZERO, ["a"], [0], [1.0], np.zeros(3, np.float16)), r"embeddings to be float16 .* of shape \(3,\)"),
    ],
)
def test_what_is_no_prediction(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prediction(*arguments)


def test_encoding_is_faster_than_class_by_class() -> None:
    folder = Path(__file__).parents[1] / "bench"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        bench = importlib.import_module("bench_rle")
        theirs, ours = bench.medians(bench.smooth_map(480, 640, labels=20), seconds=1)
    assert theirs > 2 * ours
