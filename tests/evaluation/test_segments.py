"""IoU per photo and Segment Recall: hand-counted, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score

from evaluation import segments
from evaluation.matching import IGNORE
from evaluation.segments import Overlap, SegmentScores, label_ious, overlap, photo_iou

BACKGROUND, CAT, DOG, BIRD = range(4)
TRUTH = np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2, IGNORE]], np.uint16)
SEGMENTS = np.array([[0, 0, 1, 1, 1, 1, 2, 2, 3, 3]], np.int32)


@pytest.fixture
def counted() -> Overlap:
    return overlap(TRUTH, SEGMENTS, 4, BACKGROUND)


def classes(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def test_overlap_by_hand(counted: Overlap) -> None:
    assert counted.labels == (CAT, DOG)
    assert counted.shared.tolist() == [[0, 3, 1, 0], [0, 0, 1, 1]]
    assert counted.on_background.tolist() == [2, 1, 0, 0]
    assert counted.truth_pixels.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        # cat: 3 hit of 4 + 1 on background; dog: two segments become one, its ambiguous pixel is not counted;
        # bird lies on background only, and the photo has none: it loses nothing
        (classes(BIRD, CAT, DOG, DOG), {CAT: 3 / 5, DOG: 2 / 3}),
        # a class that the photo has does lose by background; bird lies on a cat and a dog
        (classes(CAT, CAT, BIRD, -1), {CAT: 3 / 7, DOG: 0, BIRD: 0}),
        (classes(-1, -1, -1, BIRD), {CAT: 0, DOG: 0, BIRD: 0}),
        (classes(-1, -1, -1, -1), {CAT: 0, DOG: 0}),  # nothing was verified
        (classes(CAT, CAT, CAT, CAT), {CAT: 4 / 9, DOG: 0}),
    ],
)
def test_ious_by_hand(counted: Overlap, named: NDArray[np.int32], expected: dict[int, float]) -> None:
    found = label_ious(counted, named)
    assert found == pytest.approx(expected)
    assert photo_iou(found) == pytest.approx(sum(expected.values()) / len(expected))


def test_a_background_that_is_a_class_is_found_like_any_other() -> None:
    over = overlap(TRUTH, SEGMENTS, 4)
    assert over.labels == (BACKGROUND, CAT, DOG)
    assert label_ious(over, classes(BACKGROUND, CAT, DOG, DOG)) == pytest.approx({0: 2 / 3, CAT: 3 / 5, DOG: 2 / 3})
    assert label_ious(over, classes(BIRD, CAT, DOG, DOG))[BIRD] == 0  # it has taken the background's pixels


def test_a_class_on_ambiguous_pixels_alone_does_not_count() -> None:
    over = overlap(np.array([[CAT, IGNORE, IGNORE]], np.uint16), np.array([[0, 1, 1]], np.int32), 2)
    assert label_ious(over, classes(CAT, BIRD)) == {CAT: 1.0}


def test_photos_without_anything() -> None:
    only_background = overlap(np.zeros((2, 2), np.uint16), np.full((2, 2), -1, np.int32), 0, BACKGROUND)
    assert label_ious(only_background, classes()) == {}
    assert np.isnan(photo_iou({}))
    nothing_scored = overlap(np.full((2, 2), IGNORE, np.uint16), np.zeros((2, 2), np.int32), 1, BACKGROUND)
    assert label_ious(nothing_scored, classes(CAT)) == {}
    no_pixels = overlap(np.zeros((0, 0), np.uint16), np.zeros((0, 0), np.int32), 0)
    assert no_pixels.labels == ()
    no_segments = overlap(TRUTH, np.full(TRUTH.shape, -1, np.int32), 0, BACKGROUND)
    assert label_ious(no_segments, classes()) == {CAT: 0, DOG: 0}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), names=st.integers(1, 5), count=st.integers(1, 6), background=st.booleans())
def test_ious_equal_sklearn(seed: int, names: int, count: int, background: bool) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice([*range(names), IGNORE], (9, 11)).astype(np.uint16)
    found = rng.integers(-1, count, (9, 11)).astype(np.int32)
    named = rng.integers(-1, names, count).astype(np.int32)
    named[named == (0 if background else -2)] = -1
    ious = label_ious(overlap(truth, found, count, 0 if background else IGNORE), named)

    scored = truth != IGNORE
    true, predicted = truth[scored].astype(int), np.append(named, -1)[found][scored]
    in_truth = set(true.tolist()) - ({0} if background else set())
    elsewhere = set(predicted[true > 0].tolist() if background else predicted.tolist()) - {-1}
    assert set(ious) == in_truth | elsewhere
    for label, iou in ious.items():
        expected = jaccard_score(true, predicted, labels=[label], average=None, zero_division=0)[0]
        assert iou == pytest.approx(expected if label in in_truth else 0)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch, counted: Overlap) -> None:
    monkeypatch.setattr(segments, "CHUNK_PIXELS", 3)
    pieces = overlap(TRUTH, SEGMENTS, 4, BACKGROUND)
    assert pieces.labels == counted.labels
    for name in ("shared", "on_background", "truth_pixels"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(counted, name))


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"one shape, but got \(1, 10\) and \(2, 5\)"):
        overlap(TRUTH, SEGMENTS.reshape(2, 5), 4)


def photo(ious: dict[int, float], labels: tuple[int, ...]) -> tuple[dict[int, float], Overlap]:
    empty = np.zeros((len(labels), 0), np.int64)
    return ious, Overlap(labels, empty, np.zeros(0, np.int64), np.ones(len(labels), np.int64))


def test_recall_by_hand() -> None:
    """Five classes of three photos are to be found: IoU 0.5 is not above 0.5, extra classes do not count."""
    scores = SegmentScores()
    scores.update(*photo({CAT: 0.5, DOG: 0.51}, (CAT, DOG)), classes(CAT, DOG, -1))
    scores.update(*photo({CAT: 1.0, DOG: 0.0, BIRD: 0.0}, (CAT, DOG)), classes(CAT, BIRD))
    scores.update(*photo({DOG: 7 / 100}, (DOG,)), classes())
    scores.update(*photo({}, ()), classes(-1))
    assert (scores.labels, scores.photos) == (5, 3)
    assert (scores.segments, scores.verified) == (6, 4)
    assert scores.recall == pytest.approx(2 / 5)
    assert scores.recalls[0] == pytest.approx(4 / 5)
    assert scores.recalls[6] == pytest.approx(4 / 5)
    assert scores.recalls[7] == pytest.approx(3 / 5)  # 7/100 is not above 0.07
    assert scores.recalls[49] == pytest.approx(3 / 5)
    assert scores.recalls[99] == pytest.approx(1 / 5)
    assert scores.recalls[100] == 0
    # above 0, ..., IoU - 0.01: so many of the 101 thresholds as 100 x IoU
    assert scores.mean_recall == pytest.approx((50 + 51 + 100 + 0 + 7) / 5 / 101)
    assert scores.iou == pytest.approx((0.505 + 1 / 3 + 0.07) / 3)


def test_nothing_to_find_gives_nan() -> None:
    scores = SegmentScores()
    assert np.isnan([scores.iou, scores.recall, scores.mean_recall]).all()
    scores.update(*photo({BIRD: 0.0}, ()), classes(BIRD))  # wrongly found on another class's pixels
    assert scores.iou == 0
    assert np.isnan(scores.recall)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), max_size=4), max_size=5))
def test_recall_falls_with_the_threshold(photos: list[list[float]]) -> None:
    scores = SegmentScores()
    for ious in photos:
        scores.update(*photo(dict(enumerate(ious)), tuple(range(len(ious)))), classes())
    if scores.labels:
        assert (np.diff(scores.recalls) <= 0).all()
        for step in (0, 31, 50, 100):
            assert scores.hits[step] == sum(iou > step / 100 for ious in photos for iou in ious)
