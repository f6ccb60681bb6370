"""Polygons give the mask back exactly when pycocotools fills them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from annotator.run_lengths import run_lengths
from exporters import polygons as module
from exporters.polygons import polygons

Mask = NDArray[np.bool_]


def rle_of(mask: Mask) -> bytes:
    """As pycocotools encodes it."""
    counts: bytes = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def filled(found: list[list[int]], size: tuple[int, int]) -> Mask:
    """The way of torchvision's detection reference: every polygon decoded, then any of them."""
    if not found:
        return np.zeros(size, dtype=np.bool_)
    mask: Mask = coco_mask.decode(coco_mask.frPyObjects(found, *size)).any(axis=2)
    return mask


def merged(found: list[list[int]], size: tuple[int, int]) -> Mask:
    """The way of `COCO.annToMask`, without a full mask for each polygon."""
    mask: Mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(found, *size))).astype(np.bool_)
    return mask


def picture(*rows: str) -> Mask:
    return np.array([[character == "#" for character in row] for row in rows])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (picture("."), []),
        (picture("#"), [[0, 0, 1, 0, 1, 1, 0, 1]]),
        # a whole photo, and a pixel away from the border
        (picture("##", "##", "##"), [[0, 0, 2, 0, 2, 3, 0, 3]]),
        (picture("....", "..#.", "...."), [[2, 1, 3, 1, 3, 2, 2, 2]]),
        # corners only along straight runs
        (picture("##.", "###"), [[0, 0, 2, 0, 2, 1, 3, 1, 3, 2, 0, 2]]),
        # pixels that touch by a corner are two polygons, either way round
        (picture("#.", ".#"), [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]),
        (picture(".#", "#."), [[1, 0, 2, 0, 2, 1, 1, 1], [0, 1, 1, 1, 1, 2, 0, 2]]),
        # a hole: from the outline down its left side, round it, and back up the cut
        (picture("###", "#.#", "###"), [[0, 0, 1, 0, 1, 2, 2, 2, 2, 1, 1, 1, 1, 0, 3, 0, 3, 3, 0, 3]]),
        # the cut meets the outline in a corner, where the path comes down into it
        (picture("#..", "###", "#.#", "###"), [[0, 0, 1, 0, 1, 3, 2, 3, 2, 2, 1, 2, 1, 1, 3, 1, 3, 4, 0, 4]]),
        # the same where the path goes up out of it
        (picture("..##", "####", "##.#", "####"), [[2, 0, 4, 0, 4, 4, 0, 4, 0, 1, 2, 1, 2, 3, 3, 3, 3, 2, 2, 2]]),
    ],
)
def test_by_hand(mask: Mask, expected: list[list[int]]) -> None:
    assert polygons(rle_of(mask), mask.shape) == expected
    assert np.array_equal(filled(expected, mask.shape), mask)


masks = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24))


@st.composite
def nested_masks(draw: st.DrawFn) -> Mask:
    """Rectangles that flip what lies below them: holes, islands in holes, several holes on one edge."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    mask = np.zeros((height, width), dtype=np.bool_)
    for _ in range(draw(st.integers(1, 8))):
        rows = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height))))
        columns = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width))))
        mask[slice(*rows), slice(*columns)] ^= True
    return mask


@settings(max_examples=400, deadline=None)
@given(masks | nested_masks())
def test_any_mask_comes_back(mask: Mask) -> None:
    found = polygons(rle_of(mask), mask.shape)
    assert np.array_equal(filled(found, mask.shape), mask)
    for polygon in found:
        corners = np.array(polygon).reshape(-1, 2)
        steps = np.roll(corners, -1, axis=0) - corners
        assert ((steps != 0).sum(axis=1) == 1).all(), "every edge is horizontal or vertical"
        ahead = np.sign(steps)
        assert (ahead != np.roll(ahead, -1, axis=0)).any(axis=1).all(), "every vertex is a corner"
        x, y = corners.T
        assert np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0, "clockwise, as y points down"


@settings(max_examples=200, deadline=None)
@given(masks)
def test_parts_strung_together_come_back(mask: Mask) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_BYTES", 2 * mask.size)
        found = polygons(rle_of(mask), mask.shape)
    assert len(found) <= 2
    assert np.array_equal(filled(found, mask.shape), mask)


def test_a_mask_of_many_specks_stays_readable(monkeypatch) -> None:
    """60,000 parts, but a reader that decodes one by one gets on with the bytes it is given."""
    monkeypatch.setattr(module, "MOST_BYTES", 4_000_000)
    mask = np.indices((300, 400)).sum(axis=0) % 2 == 0
    found = polygons(rle_of(mask), mask.shape)
    assert len(found) * mask.size <= 4_000_000
    assert np.array_equal(filled(found, mask.shape), mask)


def test_a_large_photo_comes_back() -> None:
    rows, columns = np.ogrid[:3000, :4000]
    rings = (np.hypot(rows - 1400, columns - 2100) // 90).astype(np.int64) % 2 == 0
    rings[::401, ::397] ^= True
    found = polygons(rle_of(rings), rings.shape)
    assert np.array_equal(merged(found, rings.shape), rings)


@pytest.mark.stress
def test_twenty_labels_of_a_photo_take_well_under_a_tenth_of_a_second(noise) -> None:
    label_map = noise(0, 480, 640, 20)[::-1].repeat(4, 0).repeat(4, 1)[:480, :640]
    strings = [rle_of(label_map == label) for label in range(20)]
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        found = [polygons(string, label_map.shape) for string in strings]
        seconds.append(time.process_time() - begun)
    assert sum(len(polygon) for parts in found for polygon in parts) > 10_000  # not too easy a photo
    assert min(seconds) < 0.1


@settings(max_examples=200, deadline=None)
@given(masks)
def test_run_lengths_are_those_that_pycocotools_compresses(mask: Mask) -> None:
    string = rle_of(mask)
    lengths = run_lengths(string).tolist()
    assert sum(lengths) == mask.size
    assert coco_mask.frPyObjects({"size": list(mask.shape), "counts": lengths}, *mask.shape)["counts"] == string


def test_long_runs() -> None:
    lengths = [0, 1, 10_000_000, 3, 12, 1_999_984]
    string = coco_mask.frPyObjects({"size": [3000, 4000], "counts": lengths}, 3000, 4000)["counts"]
    assert run_lengths(string).tolist() == lengths
