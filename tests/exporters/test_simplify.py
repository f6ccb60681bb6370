"""Polygons joined into one path, and polygons with fewer corners."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_formats import filled
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy import ndimage
from skimage.measure import approximate_polygon

from exporters.base import ExportSummary
from exporters.polygons import joined, polygons
from exporters.simplify import Outlines, simplified

masks = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24)).filter(np.any)


def rle_of(mask: NDArray[np.bool_]) -> bytes:
    counts: bytes = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def disc(side: int, hole: float = 0.0) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:side, :side]
    distance = np.hypot(rows - side / 2, columns - side / 2)
    return (distance < side * 0.45) & (distance >= hole * side)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_parts_that_touch_are_joined_in_their_corner() -> None:
    parts = polygons(rle_of(np.eye(3, dtype=np.bool_)), (3, 3))
    assert len(parts) == 3
    one, two, three = (1, 1), (2, 2), (3, 3)
    inner = [*three, 2, 3, *two, 3, 2]
    assert joined(parts) in (
        [0, 0, 1, 0, *one, 2, 1, *two, 3, 2, *three, 2, 3, *two, 1, 2, *one, 0, 1],
        [0, 0, 1, 0, *one, 2, 1, *two, *inner, *three, 2, 3, *two, 1, 2, *one, 0, 1],
    )


@settings(max_examples=120, deadline=None)
@given(masks)
def test_programs_that_draw_the_line_get_the_mask_back(mask: NDArray[np.bool_]) -> None:
    size = mask.shape
    found = Outlines(form="pixels").of(rle_of(mask), size)
    assert np.array_equal(np.any([drawn(polygon, size) for polygon in found], axis=0), mask)
    # one path may also lead from part to part: exact where all touch
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    for part in range(1, count + 1):
        (path,) = Outlines(form="path").of(rle_of(parts == part), size)
        assert len(path) >= 6
        assert np.array_equal(drawn(path, size), parts == part)


def test_drawn_parts_are_never_strung_together(monkeypatch) -> None:
    """The way between them would be drawn, too."""
    monkeypatch.setattr("exporters.polygons.MOST_BYTES", 1)
    mask = np.indices((12, 15)).sum(axis=0) % 3 == 0
    assert len(Outlines().of(rle_of(mask), mask.shape)) == 1
    found = Outlines(form="pixels").of(rle_of(mask), mask.shape)
    assert np.array_equal(np.any([drawn(polygon, mask.shape) for polygon in found], axis=0), mask)


def drawn(polygon: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """As LabelMe's `shape_to_mask` does it."""
    image = Image.new("1", size[::-1])
    ImageDraw.Draw(image).polygon(list(zip(polygon[0::2], polygon[1::2], strict=True)), fill=1, outline=1)
    return np.asarray(image)


@settings(max_examples=120, deadline=None)
@given(masks)
def test_one_path_encloses_the_same_pixels(mask: NDArray[np.bool_]) -> None:
    path = joined(polygons(rle_of(mask), mask.shape))
    assert np.array_equal(filled([path], mask.shape), mask)


def test_a_staircase_becomes_a_straight_edge() -> None:
    stairs = np.tri(20, dtype=np.bool_)
    (exact,) = polygons(rle_of(stairs), stairs.shape)
    assert len(exact) // 2 == 42
    assert simplified(exact, 1.0) == [0, 0, 20, 20, 0, 20]
    assert iou(filled([simplified(exact, 1.0)], stairs.shape), stairs) > 0.9


@pytest.mark.parametrize("tolerance", [1.0, 1.7, 2.5, 6.0])
def test_the_corners_chosen_are_those_of_scikit_image(tolerance: float) -> None:
    """On an outline without cuts, whose fixed corners are its first and the one farthest from it."""
    (exact,) = polygons(rle_of(disc(90)), (90, 90))
    corners = np.array(exact).reshape(-1, 2)
    far = int(((corners - corners[0]) ** 2).sum(axis=1).argmax())
    there = approximate_polygon(corners[: far + 1], tolerance)
    back = approximate_polygon(np.concatenate((corners[far:], corners[:1])), tolerance)
    assert np.array(simplified(exact, tolerance)).reshape(-1, 2).tolist() == [*there[:-1].tolist(), *back[:-1].tolist()]


@settings(max_examples=60, deadline=None)
@given(masks, st.floats(0.1, 5))
def test_corners_left_out_lie_within_the_tolerance(mask: NDArray[np.bool_], tolerance: float) -> None:
    for polygon in polygons(rle_of(mask), mask.shape):
        found = simplified(polygon, tolerance)
        path = np.array(found, dtype=np.float64).reshape(-1, 2)
        for corner in np.array(polygon).reshape(-1, 2):
            assert distance(corner, path) <= tolerance + 1e-9


def distance(point: NDArray[np.int64], path: NDArray[np.float64]) -> float:
    """To the nearest edge of a closed path, edge by edge."""
    found = []
    for tail, head in zip(path, np.roll(path, -1, axis=0), strict=True):
        length = np.hypot(*(head - tail))
        share = np.clip(np.dot(point - tail, head - tail) / length**2, 0, 1) if length else 0.0
        found.append(float(np.hypot(*(point - tail - share * (head - tail)))))
    return min(found)


def test_holes_stay_and_their_cuts_leave_no_trace() -> None:
    ring = disc(120, hole=0.2)
    ring[55:65, 20:26] = False
    (exact,) = polygons(rle_of(ring), ring.shape)
    found = filled([simplified(exact, 1.5)], ring.shape)
    assert not found[60, 60]
    assert not found[60, 23]
    assert iou(found, ring) > 0.95
    assert len(simplified(exact, 1.5)) < len(exact) / 4


def test_a_speck_stays_exact() -> None:
    assert simplified([0, 0, 1, 0, 1, 1, 0, 1], 3.0) == [0, 0, 1, 0, 1, 1, 0, 1]


def test_the_note_says_what_it_costs() -> None:
    shapes = [disc(40), disc(60, hole=0.2)]
    outlines, summary = Outlines(2.0), ExportSummary(out=None)  # type: ignore[arg-type]
    found = [outlines.of(rle_of(mask), mask.shape) for mask in shapes]
    drawn = [filled(each, mask.shape) for each, mask in zip(found, shapes, strict=True)]
    outlines.note(summary)
    exact = sum(len(polygon) for mask in shapes for polygon in polygons(rle_of(mask), mask.shape))
    left = sum(len(polygon) for each in found for polygon in each) / exact
    mean = np.mean([iou(mask, found) for mask, found in zip(shapes, drawn, strict=True)])
    assert mean < 0.999
    assert summary.notes == [
        f"simplify 2: mean IoU with the exact masks {mean:.4f} over 2 masks; {left:.0%} of the corners are left"
    ]


def test_every_corner_left_is_all_of_them() -> None:
    """A square has none to leave out."""
    outlines, summary = Outlines(2.0), ExportSummary(out=None)  # type: ignore[arg-type]
    outlines.of(rle_of(np.ones((9, 9), np.bool_)), (9, 9))
    outlines.note(summary)
    assert summary.notes[0].endswith("1.0000 over 1 mask; 100% of the corners are left")


def test_exact_outlines_have_nothing_to_note() -> None:
    outlines, summary = Outlines(), ExportSummary(out=None)  # type: ignore[arg-type]
    assert outlines.of(rle_of(disc(9)), (9, 9)) == polygons(rle_of(disc(9)), (9, 9))
    outlines.note(summary)
    assert summary.notes == []
