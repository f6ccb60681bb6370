"""Polygons with fewer corners than pixel edges need, and what they cost."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from annotator.wording import count
from exporters.base import ExportSummary
from exporters.polygons import Polygon, joined, outlines, polygons, through_pixels

Points = NDArray[np.int64]
"""N x 2: x, y of the corners of a closed path."""


Form = Literal["edges", "pixels", "path"]


class Outlines:
    """Polygons of masks, exact or with fewer corners; sums up what that costs.

    tolerance: how far a corner that is left out may lie from the new edges, in pixels; 0 leaves none out.
    form:      edges follow pixel edges, one polygon per 4-connected part, as programs read them that fill by parity;
               pixels run through the outermost pixels, for programs that draw the line, too; path is the same as a
               single polygon.
    """

    def __init__(self, tolerance: float = 0.0, form: Form = "edges") -> None:
        self._tolerance = tolerance
        self._form = form
        self._masks = 0
        self._overlap = 0.0
        self._before = 0
        self._after = 0

    def of(self, rle: bytes, size: tuple[int, int]) -> list[Polygon]:
        """rle is COCO's `counts` string, size is (height, width)."""
        if self._form == "edges":
            exact = polygons(rle, size)
        else:
            parts = outlines(rle, size)
            drawn = [through_pixels(polygon) for polygon in parts]
            exact = [joined(parts, drawn)] if self._form == "path" else drawn
        if not self._tolerance:
            return exact
        found = [simplified(polygon, self._tolerance) for polygon in exact]
        self._masks += 1
        self._overlap += float(coco_mask.iou([self._read(found, size)], [_coco(rle, size)], [0])[0, 0])
        self._before += sum(map(len, exact)) // 2
        self._after += sum(map(len, found)) // 2
        return found

    def _read(self, found: list[Polygon], size: tuple[int, int]) -> dict[str, Any]:
        """The polygons as the format's readers see them, encoded."""
        if self._form == "edges":
            union: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(found, *size))
            return union
        mask = np.zeros(size, dtype=np.bool_)
        for polygon in found:
            image = Image.new("1", size[::-1])
            ImageDraw.Draw(image).polygon(polygon, fill=1, outline=1)
            mask |= np.asarray(image)
        encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        return encoded

    def note(self, summary: ExportSummary) -> None:
        if self._masks:
            summary.notes.append(
                f"simplify {self._tolerance:g}: mean IoU with the exact masks {self._overlap / self._masks:.4f} over "
                f"{count(self._masks, 'mask')}; {self._after / self._before:.0%} of the corners are left"
            )


def _coco(rle: bytes, size: tuple[int, int]) -> dict[str, Any]:
    return {"size": list(size), "counts": rle}


def simplified(polygon: Polygon, tolerance: float) -> Polygon:
    """Douglas and Peucker's choice of corners: those left out lie within `tolerance` pixels of the new edges.

    Cuts to holes stay as they are, walked the same way in both directions. A polygon of which less than a triangle
    would be left stays exact.
    """
    points = _with_ends_of_cuts(np.array(polygon, dtype=np.int64).reshape(-1, 2))
    fixed = _fixed(points)
    closed = np.concatenate((points, points))
    kept: list[int] = []
    for begin, end in pairwise([*fixed, fixed[0] + len(points)]):
        kept += [begin, *_farther(closed, begin, end, tolerance)]
    chosen: Points = closed[kept]
    return polygon if len(np.unique(chosen, axis=0)) < 3 else chosen.ravel().tolist()


def _with_ends_of_cuts(points: Points) -> Points:
    """The path with corners also where a cut ends within one of its vertical edges.

    Elsewhere no corner lies within an edge, as pixel edges meet in corners only.
    """
    height = int(points[:, 1].max()) + 1
    keys = points[:, 0] * height + points[:, 1]
    following = np.roll(keys, -1)
    corners = np.unique(keys)
    low, high = np.minimum(keys, following), np.maximum(keys, following)
    begins, ends = np.searchsorted(corners, low, side="right"), np.searchsorted(corners, high)
    split = np.flatnonzero((points[:, 0] == np.roll(points[:, 0], -1)) & (ends > begins))
    if split.size == 0:
        return points
    within = [corners[begins[i] : ends[i]][:: 1 if keys[i] < following[i] else -1] for i in split]
    keys = np.insert(keys, np.repeat(split + 1, [len(part) for part in within]), np.concatenate(within))
    return np.stack(np.divmod(keys, height), axis=1)


def _fixed(points: Points) -> list[int]:
    """Corners that must stay: both ends of every edge that is walked in both directions; of a path without such
    edges the first corner and the one farthest from it."""
    path = [tuple(point) for point in points.tolist()]
    edges = list(zip(path, [*path[1:], path[0]], strict=True))
    known = set(edges)
    ends = {index + step for index, (tail, head) in enumerate(edges) if (head, tail) in known for step in (0, 1)}
    if ends:
        return sorted({index % len(path) for index in ends})
    return [0, int(((points - points[0]) ** 2).sum(axis=1).argmax())]


def _farther(points: Points, begin: int, end: int, tolerance: float) -> list[int]:
    """The corners between two that stay."""
    kept = []
    waiting = [(begin, end)]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        distances = _distances(points[first + 1 : last], points[first], points[last])
        middle = first + 1 + int(distances.argmax())
        if distances[middle - first - 1] > tolerance:
            kept.append(middle)
            waiting += [(first, middle), (middle, last)]
    return sorted(kept)


def _distances(points: Points, tail: NDArray[np.int64], head: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of points to the straight line between two points, ends included."""
    along = (head - tail).astype(np.float64)
    length = float(along @ along)
    share = np.clip((points - tail) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.hypot(*(points - tail - share[:, None] * along).T)
