"""Masks as polygons along pixel edges, so that rasterising them gives the mask back exactly.

Corners are whole numbers: pixel (column, row) covers the square from (column, row) to (column + 1, row + 1).
pycocotools fills by parity, and for such coordinates a horizontal edge at y lies exactly between the rows
y - 1 and y; so a closed path along pixel edges is exact, and a cut that a path walks in both directions
leaves no trace.

Everything is read off the run lengths; the pixels themselves are never looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from annotator.run_lengths import run_lengths

MOST_BYTES = 2**28
"""Readers such as torchvision's reference decode each polygon of an annotation to a full mask of its own. Where
that would take more (870 polygons at 640 x 480), the last ones are strung together by cuts into one."""

Polygon = list[int]
"""x, y, x, y, ...: corners only, clockwise, from the leftmost corner of the top row."""

Indices = NDArray[np.int64]


def polygons(rle: bytes, size: tuple[int, int]) -> list[Polygon]:
    """`outlines`, strung together where they are too many for readers."""
    return _strung_together(outlines(rle, size), max(1, MOST_BYTES // (size[0] * size[1])))


def outlines(rle: bytes, size: tuple[int, int]) -> list[Polygon]:
    """One polygon per 4-connected part of a mask; its holes are joined to it by vertical cuts of no width.

    rle is COCO's `counts` string, size is (height, width).
    """
    corners = _corners(run_lengths(rle), size[0])
    x, y = corners.x, corners.y
    by_row = np.argsort((y * (size[1] + 1) + x) * 2 + corners.is_left)
    left, right = by_row[0::2], by_row[1::2]  # the two ends of each horizontal edge
    tail, head = np.where(corners.is_top[left], (left, right), (right, left))  # the mask is to the walker's right
    following = np.arange(x.size) ^ 1  # along the vertical edge
    following[tail] = head

    after = following.tolist()
    rings = _rings(after, left.tolist())
    first = np.array([ring[0] for ring in rings], dtype=np.int64)
    is_outer = corners.is_top[first]
    if not is_outer.all():
        top = corners.is_top[left]
        x, y = _link_holes(corners, first[~is_outer], left[top], right[top], after, size)
        rings = _rings(after, first[is_outer].tolist())

    nodes = np.fromiter(chain.from_iterable(rings), dtype=np.int64)
    points = np.stack((x[nodes], y[nodes]), axis=1).ravel().tolist()
    ends = (2 * np.cumsum([len(ring) for ring in rings], dtype=np.int64)).tolist()
    return [points[begin:end] for begin, end in pairwise([0, *ends])]


def through_pixels(polygon: Polygon) -> Polygon:
    """Its corners moved from pixel edges onto the outermost pixels of the mask, as OpenCV's contours lie.

    Programs that draw a polygon's line as well as what it encloses (OpenCV, Pillow) then get the mask back exactly,
    holes too. Corners stay as many, and may fall together.
    """
    here = np.array(polygon, dtype=np.int64).reshape(-1, 2)
    coming, going = here - np.roll(here, 1, axis=0), np.roll(here, -1, axis=0) - here
    downwards = np.where(going[:, 0] == 0, going[:, 1], coming[:, 1]) > 0  # of the vertical edge at each corner
    leftwards = np.where(going[:, 1] == 0, going[:, 0], coming[:, 0]) < 0  # the mask is to the walker's right
    moved: Polygon = (here - np.stack((downwards, leftwards), axis=1)).ravel().tolist()
    return moved


def joined(parts: list[Polygon], drawn: list[Polygon] | None = None) -> Polygon:
    """The parts of one mask as one path, for formats that know no more: from part to part through a corner that
    both have, else there and back by a cut of no width. By parity it encloses the same pixels.

    drawn: the parts as they are to appear in the path, corner by corner.
    """
    shown = [list(zip(part[0::2], part[1::2], strict=True)) for part in drawn or parts]
    if len(parts) == 1:
        return (drawn or parts)[0]
    corners = [list(zip(part[0::2], part[1::2], strict=True)) for part in parts]
    at: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, part in enumerate(corners):
        for place, corner in enumerate(part):
            at.setdefault(corner, []).append((number, place))
    free = set(range(len(parts)))
    paths: list[Polygon] = []
    for number in range(len(parts)):
        if number not in free:
            continue
        free.remove(number)
        path = []
        walks = [iter([(number, place) for place in range(len(corners[number]))])]
        while walks:
            step = next(walks[-1], None)
            if step is None:
                walks.pop()
                continue
            path.append(step)
            for other, place in at[corners[step[0]][step[1]]]:
                if other in free:
                    free.remove(other)
                    around = [(other, each % len(corners[other])) for each in range(place, place + len(corners[other]))]
                    walks.append(iter([*around, around[0], step]))
                    break
        points = [shown[part][place] for part, place in path]
        paths.append([value for point, _ in groupby(points) for value in point])
    return _strung_together(paths, 1)[0]


class _Corners(NamedTuple):
    """The corners of a mask's outline by column, then row; 2i and 2i + 1 are joined by a vertical edge.

    Where two pixels touch by a corner only, it appears twice, once for the outline of each.

    x, y:       N int64 each.
    is_left:    its horizontal edge goes from here to the right; N bool.
    is_top:     its horizontal edge has the mask below it; N bool.
    run_starts: column * (height + 1) + row where each run begins within a column, increasing.
    """

    x: Indices
    y: Indices
    is_left: NDArray[np.bool_]
    is_top: NDArray[np.bool_]
    run_starts: Indices


def _corners(lengths: Indices, height: int) -> _Corners:
    bounds = np.cumsum(lengths)
    begins, ends = bounds[: lengths.size // 2 * 2].reshape(-1, 2).T
    first, last = begins // height, (ends - 1) // height
    columns = last - first + 1  # a run that goes on at the top of the next column is cut there
    pieces = np.append(0, np.cumsum(columns))
    column = np.arange(pieces[-1]) + np.repeat(first - pieces[:-1], columns)
    starts, stops = column * (height + 1), column * (height + 1) + height
    starts[pieces[:-1]] += begins - first * height
    stops[pieces[1:] - 1] += ends - (last + 1) * height

    # Edges one pixel wide, by their ends. An end that is an edge's begin in the next column is no corner.
    left_ends = np.stack((starts * 2 + 1, stops * 2), axis=1).ravel()
    right_ends = left_ends + 2 * (height + 1)
    lefts = left_ends[~_contained(left_ends, right_ends)]
    keys = np.append(lefts, right_ends[~_contained(right_ends, left_ends)])
    order = np.argsort(keys, kind="stable")
    x, y = np.divmod(keys[order] >> 1, height + 1)
    return _Corners(x, y, order < lefts.size, (keys[order] & 1).astype(np.bool_), starts)


def _contained(values: Indices, increasing: Indices) -> NDArray[np.bool_]:
    """Which of the values are among the others."""
    if increasing.size == 0:
        return np.zeros(values.shape, dtype=np.bool_)
    found: NDArray[np.bool_] = increasing.take(np.searchsorted(increasing, values), mode="clip") == values
    return found


def _rings(after: list[int], begins: Iterable[int]) -> list[list[int]]:
    """The closed paths of a linked list of corners, each from the first of `begins` that lies on it."""
    seen = bytearray(len(after))
    rings = []
    for node in begins:
        ring = []
        while not seen[node]:
            seen[node] = 1
            ring.append(node)
            node = after[node]
        if ring:
            rings.append(ring)
    return rings


def _link_holes(
    corners: _Corners, holes: Indices, left: Indices, right: Indices, after: list[int], size: tuple[int, int]
) -> tuple[Indices, Indices]:
    """Links each hole's path into the path above it, in place; returns x and y with the new corners added.

    From the hole's first corner a cut goes straight up, with mask on both sides, until on one side the run
    begins: there it meets one of the top edges (from `left` to `right`) of the outline or of another hole.
    """
    x, y, starts = corners.x, corners.y, corners.run_starts
    height, width = size
    beside = np.stack((x[holes] - 1, x[holes]))
    rows = starts[np.searchsorted(starts, beside * (height + 1) + y[holes]) - 1] - beside * (height + 1)
    met = rows.max(axis=0)
    column = np.where(rows[0] < met, beside[1], beside[0])
    edge = np.searchsorted(y[left] * (width + 1) + x[left], met * (width + 1) + column, side="right") - 1

    # From the lowest, rightmost meeting point on: so a path has all its holes before it is linked itself, and
    # cuts that meet one edge follow each other along it.
    order = np.lexsort((x[holes], met))[::-1]
    new_x: list[int] = []
    new_y: list[int] = []
    for hole, tail, head, row in np.stack((holes, left[edge], right[edge], met))[:, order].T.tolist():
        if x[hole] == x[tail]:  # the path comes down into this corner, and now goes straight on
            after[tail ^ 1], after[hole] = after[hole], tail
        elif x[hole] == x[head]:
            after[head], after[hole] = after[hole], after[head]
        else:
            down, up = len(after), len(after) + 1
            after += after[hole], after[tail]
            after[tail], after[hole] = down, up
            new_x += [x[hole]] * 2
            new_y += [row] * 2
    return np.append(x, np.array(new_x, dtype=np.int64)), np.append(y, np.array(new_y, dtype=np.int64))


def _strung_together(parts: list[Polygon], most: int) -> list[Polygon]:
    """At most so many polygons: the last one walks round the remaining parts and all the way back."""
    if len(parts) <= most:
        return parts
    strung = parts[most - 1 :]
    there = chain.from_iterable(part + part[:2] for part in strung)
    back = chain.from_iterable(part[:2] for part in reversed(strung[1:-1]))
    return [*parts[: most - 1], [*there, *back]]
