"""Confusion matrix and scores, against scikit-learn and numbers worked out by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, jaccard_score, precision_score, recall_score

from evaluation.confusion import ConfusionMatrix


def names(count: int) -> list[str]:
    return [f"class {index}" for index in range(count)]


def random_case(
    seed: int, classes: int, shape: tuple[int, ...] = (60, 70), ignore: int = 255, absent: tuple[int, ...] = ()
) -> tuple[NDArray, NDArray]:
    """Truth with ignored pixels and a prediction with empty ones; `absent` classes occur in neither."""
    rng = np.random.default_rng(seed)
    present = np.setdiff1d(np.arange(classes), absent)
    truth = rng.choice(np.append(present, ignore), shape)
    prediction = rng.choice(np.append(present, -1), shape)
    return truth.astype(np.uint8 if ignore == 255 else np.uint16), prediction.astype(np.int32)


def test_three_by_three_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 1, 2, 255]], dtype=np.uint8)
    prediction = np.array([[0, 0, 1, 1], [1, -1, 0, 2]], dtype=np.int32)
    matrix = ConfusionMatrix(names(3))
    matrix.update(truth, prediction)

    assert matrix.counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 1], [1, 0, 0, 0]]
    scores = matrix.compute()
    assert scores.iou == pytest.approx([2 / 4, 2 / 4, 0 / 1])  # hits / (truth + predicted - hits)
    assert scores.precision == pytest.approx(
        [2 / 3, 2 / 3, np.nan], nan_ok=True
    )  # class 2 only under the ignored pixel
    assert scores.recall == pytest.approx([2 / 3, 2 / 3, 0])  # the empty pixel is missed
    assert scores.miou == pytest.approx(1 / 3)
    assert scores.pixel_accuracy == pytest.approx(4 / 7)
    assert scores.mean_accuracy == pytest.approx(4 / 9)
    assert scores.frequency_weighted_iou == pytest.approx(3 / 7 * 1 / 2 + 3 / 7 * 1 / 2)


def test_published_example() -> None:
    """The example in the documentation of tf.keras.metrics.MeanIoU."""
    matrix = ConfusionMatrix(names(2))
    matrix.update(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert matrix.compute().miou == pytest.approx(0.33333334)


@pytest.mark.parametrize(("classes", "absent", "ignore"), [(2, (), 255), (21, (3, 20), 255), (300, (7,), 65535)])
def test_scores_equal_sklearn(classes: int, absent: tuple[int, ...], ignore: int) -> None:
    truth, prediction = random_case(classes, classes, ignore=ignore, absent=absent)
    matrix = ConfusionMatrix(names(classes))
    matrix.update(truth, prediction, ignore=ignore)
    scores = matrix.compute()

    kept = truth != ignore
    true, predicted = truth[kept].astype(int), prediction[kept]
    expected = confusion_matrix(true, predicted, labels=[*range(classes), -1])
    np.testing.assert_array_equal(matrix.counts, expected[:-1])
    present = np.setdiff1d(np.arange(classes), absent)
    by_class = {"labels": present, "average": None, "zero_division": 0}
    np.testing.assert_allclose(scores.iou[present], jaccard_score(true, predicted, **by_class))
    np.testing.assert_allclose(scores.precision[present], precision_score(true, predicted, **by_class))
    np.testing.assert_allclose(scores.recall[present], recall_score(true, predicted, **by_class))
    assert scores.miou == pytest.approx(jaccard_score(true, predicted, labels=present, average="macro"))
    assert scores.frequency_weighted_iou == pytest.approx(
        jaccard_score(true, predicted, labels=present, average="weighted")
    )
    assert scores.pixel_accuracy == pytest.approx((true == predicted).mean())
    assert np.isnan(scores.iou[list(absent)]).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 8), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_any_split_of_the_pixels_gives_one_matrix(seed: int, classes: int, cuts: list[int]) -> None:
    truth, prediction = random_case(seed, classes, (200,))
    whole, streamed, merged = (ConfusionMatrix(names(classes)) for _ in range(3))
    whole.update(truth, prediction)
    for part in np.split(np.arange(200), sorted(cuts)):
        streamed.update(truth[part], prediction[part])
        single = ConfusionMatrix(names(classes))
        single.update(truth[part], prediction[part])
        merged = merged + single
    expected = (
        confusion_matrix(truth[truth != 255], prediction[truth != 255], labels=[*range(classes), -1])[:-1]
        if (truth != 255).any()
        else np.zeros((classes, classes + 1))
    )
    for matrix in (whole, streamed, merged):
        np.testing.assert_array_equal(matrix.counts, expected)
    scores = whole.compute()
    assert 0 <= scores.miou <= scores.mean_accuracy <= 1 or np.isnan(scores.miou) or np.isnan(scores.mean_accuracy)


@pytest.mark.parametrize("truth_dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_integer_types_and_memory_order_do_not_matter(truth_dtype: type) -> None:
    truth, prediction = random_case(4, 5, (30, 40))
    truth[truth == 255] = 100
    plain, other = ConfusionMatrix(names(5)), ConfusionMatrix(names(5))
    plain.update(truth, prediction, ignore=100)
    other.update(np.asfortranarray(truth).astype(truth_dtype), np.asfortranarray(prediction), ignore=100)
    np.testing.assert_array_equal(plain.counts, other.counts)


def test_nothing_scored_gives_nan_not_zero() -> None:
    matrix = ConfusionMatrix(names(2))
    matrix.update(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.int32))
    scores = matrix.compute()
    assert np.isnan([scores.miou, scores.pixel_accuracy, scores.mean_accuracy, scores.frequency_weighted_iou]).all()


def test_counts_beyond_32_bits() -> None:
    matrix = ConfusionMatrix(names(2))
    matrix.update(np.zeros(3, np.uint8), np.zeros(3, np.int32))
    for _ in range(32):
        matrix = matrix + matrix
    assert matrix.counts[0, 0] == 3 * 2**32


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"one shape, but got \(2, 3\) and \(3, 2\)"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "truth to hold integers, but got float64"),
        (np.full((2, 3), 2), np.zeros((2, 3), int), "truth values from 0 to 1, but got 2 to 2"),
        (np.full((2, 3), -1), np.zeros((2, 3), int), "truth values from 0 to 1, but got -1 to -1"),
        (np.zeros((2, 3), int), np.full((2, 3), 2), "prediction values from -1 to 1, but got 2 to 2"),
        (np.zeros((2, 3), int), np.full((2, 3), -2), "prediction values from -1 to 1, but got -2 to -2"),
    ],
)
def test_wrong_arrays_are_refused(truth: NDArray, prediction: NDArray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(names(2)).update(truth, prediction)


def test_matrices_of_other_classes_do_not_add() -> None:
    with pytest.raises(ValueError, match="the same classes"):
        ConfusionMatrix(["cat"]) + ConfusionMatrix(["dog"])


def test_memory_depends_on_classes_only() -> None:
    """A photo of 36 million pixels may not need more than a fixed workspace on top of its own arrays."""
    small, large = (_peak_of_update(side) for side in (1000, 6000))
    assert large < 1.2 * small
    assert large < 40e6


def _peak_of_update(side: int) -> int:
    truth = np.zeros((side, side), np.uint8)
    prediction = np.full((side, side), -1, np.int32)
    matrix = ConfusionMatrix(names(21))
    tracemalloc.start()
    matrix.update(truth, prediction)
    matrix.update(truth, prediction)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matrix.counts[0, -1] == 2 * side * side
    return peak
