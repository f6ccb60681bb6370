"""TGQ with captions that are written down: which masks are asked for, and which captions count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from reference.open_runs import Labelled, Table, write_run

from annotator.run import RunReader
from evaluation.matching import IGNORE
from evaluation.tgq import TextQuality, text_quality
from evaluation.truth import open_truth

CLASSES = "background\ncat\ndog, puppy\nsky\n"
DIRECTIONS = {
    "background": (0, 0, 1),
    "cat": (1, 0, 0),
    "dog": (0, 1, 0),
    "puppy": (-1, 0, 0),
    "sky": (0, 0, 1),
    "a kitten": (0.8, 0.6, 0),
    "half a cat": (0.5, 0, math.sqrt(0.75)),
    "small dog": (-0.7, 0.1, 0),
    "a cloud": (0, 0.9, 0.1),
}


class Captioner:
    """Says what the photo's first colour stands for; remembers the masks."""

    def __init__(self, captions: dict[int, list[str]]) -> None:
        self.captions = captions
        self.masks: list[NDArray[np.bool_]] = []

    def embed(self, pixels: NDArray[np.uint8], masks: NDArray[np.bool_]) -> tuple[int, int]:
        assert pixels.shape == (*masks.shape[1:], 3)
        assert masks.dtype == np.bool_
        self.masks.append(masks)
        return int(pixels[0, 0, 0]), len(masks)

    def caption(self, embeddings: tuple[int, int]) -> Sequence[str]:
        color, count = embeddings
        assert len(self.captions[color]) == count
        return self.captions[color]


@pytest.fixture
def run(tmp_path: Path, save_mask: Callable) -> RunReader:
    """Photos a to f; a and b have classes, c background only, d no truth, e is gone, f failed in the run."""
    (tmp_path / "photos").mkdir()
    for color, name in enumerate("abcd"):
        Image.new("RGB", (4, 2), (color, 9, 9)).save(tmp_path / "photos" / f"{name}.png")
    save_mask("a.png", [[0, 1, 1, 255], [0, 2, 2, 3]])
    save_mask("b.png", [[1, 1, 1, 1], [1, 1, 1, 2]])
    save_mask("c.png", [[0, 0, 0, 0], [255, 0, 0, 0]])
    save_mask("e.png", [[1, 1, 1, 1], [1, 1, 1, 1]])
    save_mask("f.png", [[1, 1, 1, 1], [1, 1, 1, 1]])
    (tmp_path / "truth" / "classes.txt").write_text(CLASSES)
    anything = Labelled(np.zeros((2, 4)), ["thing"])
    photos = {f"{name}.png": anything for name in "abcde"}
    return write_run(tmp_path / "run", {**photos, "f.png": None}, image_root=tmp_path / "photos")


def quality(run: RunReader, captioner: Captioner) -> TextQuality:
    truth = open_truth(run.directory.parent / "truth", run, own_classes=True)
    table = Table(DIRECTIONS)
    return text_quality(run, truth, captioner.embed, captioner.caption, lambda texts: table.embed(texts).numpy())


def test_by_hand(run: RunReader) -> None:
    captioner = Captioner({0: ["a kitten", "small dog", "a cloud"], 1: ["half a cat", "half a cat"]})
    found = quality(run, captioner)
    assert (found.photos, found.unreadable) == (2, 1)
    assert [(each.path, each.name, each.caption, each.right) for each in found.captions] == [
        ("a.png", "cat", "a kitten", True),
        ("a.png", "dog", "small dog", True),  # near to its synonym
        ("a.png", "sky", "a cloud", False),
        ("b.png", "cat", "half a cat", False),  # 0.5 is not above 0.5
        ("b.png", "dog", "half a cat", False),
    ]
    expected = [0.8, 0.7 / math.hypot(0.7, 0.1), 0.1 / math.hypot(0.9, 0.1), 0.5, 0]
    assert [each.similarity for each in found.captions] == pytest.approx(expected, abs=1e-6)
    assert found.share == pytest.approx(2 / 5)


def test_masks_are_the_truth_s_classes(run: RunReader) -> None:
    captioner = Captioner({0: ["cat"] * 3, 1: ["cat"] * 2})
    quality(run, captioner)
    first, second = captioner.masks
    np.testing.assert_array_equal(first.astype(int).argmax(axis=0), [[0, 0, 0, 0], [0, 1, 1, 2]])
    assert first.sum(axis=(1, 2)).tolist() == [2, 2, 1]  # neither background nor ambiguous pixels
    assert second.sum(axis=(1, 2)).tolist() == [7, 1]


def test_a_photo_of_another_size_is_not_captioned(run: RunReader) -> None:
    Image.new("RGB", (5, 2), (0, 9, 9)).save(run.image_root / "a.png")
    found = quality(run, Captioner({1: ["cat", "dog"]}))
    assert (found.photos, found.unreadable, found.share) == (1, 2, 1.0)


def test_nothing_to_caption_gives_nan(tmp_path: Path, save_mask: Callable) -> None:
    save_mask("a.png", [[0, 255]])
    (tmp_path / "truth" / "classes.txt").write_text(CLASSES)
    run = write_run(tmp_path / "run", {"a.png": Labelled([[0, 0]], ["thing"])}, image_root=tmp_path)
    truth = open_truth(tmp_path / "truth", run, own_classes=True)
    assert truth.mask("a.png", (1, 2)).tolist() == [[0, IGNORE]]  # type: ignore[union-attr]
    assert np.isnan(quality(run, Captioner({})).share)
