"""Saliency scores against cases worked out by hand, and against scikit-learn's precision and recall."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, precision_score, recall_score

from evaluation.matching import TruthError
from evaluation.saliency import Saliency, score_folder


def test_two_photos_by_hand() -> None:
    """First photo: found above 0.5 are pixels 0 and 1, true are 0 and 2: IoU 1/3, of the others 1/3, accuracy 1/2.
    Second: all four right.

    Cuts: up to 0.2 the first photo's precision is 2/4 with recall 1; to 0.4 it is 2/3 and 1; to 0.6 1/2 and 1/2;
    to 1 it is 1 and 1/2. The second, of 0 and 1 only, has 1 and 1 at every cut above 0.
    Means 5/6 and 1, 3/4 and 3/4, 1 and 3/4; F = 1.3 P R / (0.3 P + R): 0.867, 0.75, 0.929.
    """
    scores = Saliency()
    scores.update(np.array([[1.0, 0.6], [0.4, 0.2]]), np.array([[True, False], [True, False]]))
    scores.update(np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[True, True], [False, False]]))
    found = scores.compute()
    assert found.photos == 2
    assert found.iou == pytest.approx((1 / 3 + 1) / 2)
    assert found.both_iou == pytest.approx((1 / 3 + 1) / 2)
    assert found.accuracy == pytest.approx(0.75)
    assert found.max_f == pytest.approx(1.3 * 1 * 0.75 / (0.3 * 1 + 0.75))


def test_both_classes_are_averaged_within_a_photo() -> None:
    """One of eight pixels is salient and two are found, among them that one: 1/2, and 6/7 of the others."""
    scores = Saliency()
    truth = np.zeros((2, 4), bool)
    truth[0, 0] = True
    soft = np.zeros((2, 4))
    soft[0, :2] = 0.9
    scores.update(soft, truth)
    assert scores.compute().iou == pytest.approx(1 / 2)
    assert scores.compute().both_iou == pytest.approx((1 / 2 + 6 / 7) / 2)
    assert scores.compute().accuracy == pytest.approx(7 / 8)


def test_nothing_salient_and_nothing_found_is_right() -> None:
    scores = Saliency()
    scores.update(np.zeros((3, 3)), np.zeros((3, 3), bool))
    assert scores.compute().iou == 1


@pytest.mark.slow
def test_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = Saliency()
    expected, curves = [], []
    for _ in range(3):
        soft = rng.integers(0, 256, (9, 7)) / 255
        truth = (soft + rng.normal(size=soft.shape) * 0.3) > 0.5
        scores.update(soft, truth)
        y, p = truth.ravel(), soft.ravel() > 0.5
        both = jaccard_score(y, p, average="macro")
        expected.append((jaccard_score(y, p), both, accuracy_score(y, p)))
        cuts = [soft.ravel() >= cut / 255 - 1e-9 for cut in range(256)]
        curves.append([(precision_score(y, c, zero_division=0), recall_score(y, c)) for c in cuts])
    found = scores.compute()
    np.testing.assert_allclose((found.iou, found.both_iou, found.accuracy), np.mean(expected, axis=0))
    precision, recall = np.mean(curves, axis=0).T
    with np.errstate(invalid="ignore"):
        f = 1.3 * precision * recall / (0.3 * precision + recall)
    assert found.max_f == pytest.approx(np.nanmax(f))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for index, bright in enumerate((200, 90)):
        pixels = np.zeros((6, 8, 3), np.uint8)
        pixels[1:4, 2:6] = bright
        Image.fromarray(pixels).save(images / f"{index}.png")
        Image.fromarray((pixels[..., 0] > 0).astype(np.uint8) * 255).save(masks / f"{index}.png")
    return images, masks


def test_a_folder_with_and_without_refining(folders: tuple[Path, Path]) -> None:
    """Brightness as objectness misses the dark photo's object; refined by stretching, it misses nothing."""

    def brightness(photo: np.ndarray) -> np.ndarray:
        return photo[..., 0] / 255

    def stretch(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
        assert photo.shape == (6, 8, 3)
        return soft / soft.max()

    plain = score_folder(brightness, *folders)
    assert (plain.photos, plain.iou, plain.max_f) == (2, 0.5, 1.0)
    assert score_folder(brightness, *folders, refine=stretch).iou == 1


def test_a_mask_is_salient_from_128_on(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    (images / "1.png").unlink()
    Image.fromarray(np.array([[126, 127, 128, 255]] * 6, np.uint8).repeat(2, axis=1)).save(masks / "0.png")

    def right_half(photo: np.ndarray) -> np.ndarray:
        return np.repeat([[0.0, 1.0]], 6, axis=0).repeat(4, axis=1)

    assert score_folder(right_half, images, masks).iou == 1


def test_a_missing_or_wrong_mask_is_named(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    Image.new("L", (3, 3)).save(masks / "1.png")
    with pytest.raises(TruthError, match=r"1\.png: expected a mask of its photo's size \(6, 8\), but found \(3, 3\)"):
        score_folder(lambda photo: photo[..., 0] / 255, images, masks)
    (masks / "0.png").unlink()
    with pytest.raises(TruthError, match=r"0\.png: expected a PNG mask of that name"):
        score_folder(lambda photo: photo[..., 0] / 255, images, masks)


def test_values_outside_the_unit_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected objectness in \[0, 1\], but got -1 to 3"):
        Saliency().update(np.array([[-1.0, 3.0]]), np.array([[True, False]]))
