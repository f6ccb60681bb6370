"""From winners to what is written: thresholds, ignored and merged entries, scores; all by hand."""

from __future__ import annotations

import numpy as np
import pytest

from annotator.models.upsample import Winners
from annotator.vocabulary import ClassEntry, Vocabulary
from labelers.dense import own_sizes, to_prediction

ENTRIES = (
    ClassEntry("dog", ("dog",)),
    ClassEntry("watermark", ("watermark",), ignore=True),
    ClassEntry("cat", ("cat",), threshold=0.75),
    ClassEntry("puppy", ("puppy",), merge_into="dog", threshold=0.125),
    ClassEntry("bus", ("bus",)),
)
BEST = [[0, 0, 1, 2], [2, 3, 3, 0]]
CONFIDENCE = [[0.5, 0.25, 1.0, 0.75], [0.5, 0.25, 0.0625, 1.0]]


def winners(best: list[list[int]], confidence: list[list[float]]) -> Winners:
    return Winners(np.array(best, np.int32), np.array(confidence, np.float32))


@pytest.mark.parametrize(
    ("threshold", "class_map", "scores"),
    [
        # cat and puppy have their own thresholds; a pixel at its threshold stays
        (0.0, [[0, 0, -1, 1], [-1, 0, -1, 0]], {"dog": (0.5 + 0.25 + 0.25 + 1.0) / 4, "cat": 0.75}),
        (0.5, [[0, -1, -1, 1], [-1, 0, -1, 0]], {"dog": (0.5 + 0.25 + 1.0) / 3, "cat": 0.75}),
        (1.0, [[-1, -1, -1, 1], [-1, 0, -1, 0]], {"dog": (0.25 + 1.0) / 2, "cat": 0.75}),
    ],
)
def test_thresholds_ignore_and_merge(threshold: float, class_map: list[list[int]], scores: dict[str, float]) -> None:
    found = to_prediction(winners(BEST, CONFIDENCE), Vocabulary(ENTRIES), threshold)
    assert found.class_map().tolist() == class_map
    assert found.class_map().dtype == np.int32
    assert dict(zip(found.labels, found.scores, strict=True)) == scores


def test_class_ids_count_what_is_written() -> None:
    """bus is entry 4, but class 2: watermark and puppy are none."""
    found = to_prediction(winners([[4, 4], [4, 0]], [[0.5, 0.5], [0.5, 1]]), Vocabulary(ENTRIES), 0)
    assert (found.labels, found.class_ids, found.scores) == (("dog", "bus"), (0, 2), (1.0, 0.5))
    assert found.label_map.tolist() == [[1, 1], [1, 0]]


def test_merging_into_a_later_class() -> None:
    words = Vocabulary((ClassEntry("kitten", ("kitten",), merge_into="cat"), ClassEntry("cat", ("cat",))))
    found = to_prediction(winners([[0, 1]], [[0.5, 1.0]]), words, 0)
    assert (found.labels, found.class_ids, found.label_map.tolist()) == (("cat",), (0,), [[0, 0]])


@pytest.mark.parametrize("best", [[[1, 1]], [[2, 2]]])
def test_a_photo_of_nothing(best: list[list[int]]) -> None:
    """All ignored; all too unsure."""
    found = to_prediction(winners(best, [[0.5, 0.7]]), Vocabulary(ENTRIES), 0)
    assert (found.labels, found.label_map.tolist()) == ((), [[-1, -1]])


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("second", range(3))
def test_no_pixel_is_left_out_of_its_labels_score(first: int, second: int) -> None:
    """Whatever runs begin a photo with: all four pixels count."""
    values, weights = [[first, second], [second, first]], [[0.25, 0.5], [0.75, 1.0]]
    found = to_prediction(winners(values, weights), Vocabulary.of(["a", "b", "c"]), 0)
    expected = {"abc"[first]: 0.625, "abc"[second]: 0.625}
    assert dict(zip(found.labels, found.scores, strict=True)) == expected


def test_scores_of_many_pixels_are_not_rounded_away() -> None:
    """Ten million summands of 0.1 in float32 would end far from a million."""
    big = Winners(np.zeros((2500, 4000), np.int32), np.full((2500, 4000), 0.1, np.float32))
    assert to_prediction(big, Vocabulary.of(["dog"]), 0).scores[0] == pytest.approx(0.1, abs=1e-7)


def test_own_sizes() -> None:
    assert own_sizes([np.zeros((2, 3, 3), np.uint8), np.zeros((5, 1, 3), np.uint8)]) == [(2, 3), (5, 1)]
