"""Connected parts, small parts and holes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from annotator.prediction import Prediction, Segment
from annotator.run import ImageRecord
from exporters.pieces import View, piece_map, pieces


def record_of(rows: list[str]) -> ImageRecord:
    """A letter per class, a dot for nothing."""
    label_map = np.array([[".abc".index(character) - 1 for character in row] for row in rows], dtype=np.int32)
    prediction = Prediction(label_map, ("a", "b", "c"), (0, 1, 2), (0.5, 0.6, 0.7))
    return ImageRecord(
        "x", "ok", width=label_map.shape[1], height=label_map.shape[0], segments=tuple(prediction.segments())
    )


def class_of(segment: Segment) -> int:
    return segment.class_id


def drawn(numbers: NDArray[np.int32]) -> list[str]:
    return ["".join(".0123456789"[number + 1] for number in row) for row in numbers]


@pytest.mark.parametrize(
    ("rows", "view", "expected"),
    [
        # a class is one piece, wherever its pixels are
        (["a.a", ".b."], View(), ["0.0", ".1."]),
        # parts in reading order; pixels that share a corner belong together
        (["a.a", ".a.", "b.b"], View(instances=True), ["0.0", ".0.", "1.2"]),
        # small parts go, in both views
        (["aa.a", "b..a", "bb.."], View(min_area=3), ["....", "0...", "00.."]),
        (["aaa.a", "bb...", "aaa.."], View(instances=True, min_area=2), ["000..", "22...", "111.."]),
        # nothing left of a class
        (["a.b"], View(instances=True, min_area=2), ["..."]),
        # unlabelled pixels that are enclosed are filled, labelled ones are not, and open bays are not
        (["aaaaa", "a.aba", "aaaaa"], View(fill_holes=True), ["00000", "00010", "00000"]),
        (["aaa", "a.a", "a.a"], View(fill_holes=True), ["000", "0.0", "0.0"]),
        # pixels that share a corner close a hole
        ([".a.", "a.a", ".a."], View(fill_holes=True), [".0.", "000", ".0."]),
        # between two pieces, neither encloses it
        (["aab", "a.b", "abb"], View(fill_holes=True), ["001", "0.1", "011"]),
        # the innermost piece gets it
        (
            ["aaaaa", "abbba", "ab.ba", "abbba", "aaaaa"],
            View(fill_holes=True),
            ["00000", "01110", "01110", "01110", "00000"],
        ),
        # small parts go first, so their place is a hole
        (["aaaa", "abaa", "aaaa"], View(min_area=2, fill_holes=True), ["0000", "0000", "0000"]),
    ],
)
def test_by_hand(rows: list[str], view: View, expected: list[str]) -> None:
    record = record_of(rows)
    found = piece_map(record, class_of, view)
    present = np.unique(found.numbers[found.numbers >= 0])
    assert drawn(found.numbers) == expected
    assert [piece.area for piece in pieces(record, class_of, view)] == [
        int((found.numbers == number).sum()) for number in present
    ]


def test_parts_are_those_of_scipy_per_class(noise) -> None:
    label_map = noise(3, 80, 70, 3)
    prediction = Prediction(label_map, ("a", "b", "c"), (0, 1, 2), (0.5, 0.6, 0.7))
    record = ImageRecord("x", "ok", width=70, height=80, segments=tuple(prediction.segments()))
    found = pieces(record, class_of, View(instances=True))
    expected = []
    for index in range(3):
        parts, count = ndimage.label(label_map == index, np.ones((3, 3)))
        boxes = ndimage.find_objects(parts)
        for part in range(1, count + 1):
            rows, columns = boxes[part - 1]
            box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            expected.append((index, (0.5, 0.6, 0.7)[index], int((parts == part).sum()), box))
    assert [(piece.class_index, piece.score, piece.area, piece.bbox) for piece in found] == expected


def test_classes_left_out_count_as_unlabelled() -> None:
    record = record_of(["bbb", "bab", "bbb"])
    without_a = {0: -1, 1: 1}
    (piece,) = pieces(record, lambda segment: without_a[segment.class_id], View(fill_holes=True))
    assert (piece.class_index, piece.area) == (1, 9)
    (piece,) = pieces(record, lambda segment: without_a[segment.class_id], View())
    assert (piece.class_index, piece.area) == (1, 8)


def test_the_plain_view_decodes_nothing(monkeypatch) -> None:
    record = record_of(["aab", "c.b"])
    monkeypatch.setattr(ImageRecord, "prediction", lambda self: pytest.fail("decoded"))
    assert [piece.rle for piece in pieces(record, class_of, View())] == [segment.rle for segment in record.segments]
