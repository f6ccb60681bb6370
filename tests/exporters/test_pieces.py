"""Connected parts, small parts and holes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_formats import files_below, save_photos
from numpy.typing import NDArray
from scipy import ndimage

from annotator.prediction import Prediction, Segment
from annotator.run import ImageRecord
from exporters import base
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
        # small parts go first: a speck inside an object becomes part of the object, one at its edge stays out
        (["aaaa", "abaa", "aaaa"], View(min_area=2, fill_holes=True), ["0000", "0000", "0000"]),
        (["aaaa", "abca", "aaab"], View(min_area=2, fill_holes=True), ["0000", "0000", "000."]),
        # a part that is large enough stays, and what it leaves of the hole is filled
        (["aaaaa", "abb.a", "a.c.a", "aaaaa"], View(min_area=2, fill_holes=True), ["00000", "01100", "00000", "00000"]),
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


@pytest.mark.parametrize("class_ids", [(0, 1, 2), (1, 0, 1)], ids=["a segment per class", "two of one class"])
def test_parts_are_those_of_scipy_per_segment(noise, class_ids: tuple[int, ...]) -> None:
    """By class, then by the first pixel in reading order."""
    label_map = noise(3, 80, 70, 3)
    prediction = Prediction(label_map, ("a", "b", "c"), class_ids, (0.5, 0.6, 0.7))
    record = ImageRecord("x", "ok", width=70, height=80, segments=tuple(prediction.segments()))
    found = pieces(record, class_of, View(instances=True))
    expected = []
    for segment, index in enumerate(class_ids):
        parts, count = ndimage.label(label_map == segment, np.ones((3, 3)))
        boxes = ndimage.find_objects(parts)
        for part in range(1, count + 1):
            rows, columns = boxes[part - 1]
            box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            first = int(np.flatnonzero(parts == part)[0])
            expected.append((index, first, (0.5, 0.6, 0.7)[segment], int((parts == part).sum()), box))
    assert [(piece.class_index, piece.score, piece.area, piece.bbox) for piece in found] == [
        (index, score, area, box) for index, _, score, area, box in sorted(expected)
    ]


@pytest.mark.parametrize(
    ("rows", "view", "expected"),
    [
        (["bbb", "bab", "bbb"], View(fill_holes=True), ["000", "0.0", "000"]),
        # the unlabelled pixels of the same hole are filled
        (["bbbb", "ba.b", "b..b", "bbbb"], View(fill_holes=True), ["0000", "0.00", "0000", "0000"]),
        # and parts that are too small, but not those of classes that are not exported
        (["bbbbb", "bacbb", "bbbbb"], View(min_area=2, fill_holes=True), ["00000", "0.000", "00000"]),
        (["bbbbb", "ba.cb", "bbbbb"], View(True, 2, True), ["00000", "0.000", "00000"]),
    ],
)
def test_a_hole_with_a_label_stays_though_its_class_is_left_out(
    rows: list[str], view: View, expected: list[str]
) -> None:
    without_a = {0: -1, 1: 1, 2: 2}
    found = piece_map(record_of(rows), lambda segment: without_a[segment.class_id], view)
    assert drawn(found.numbers) == expected


@pytest.mark.parametrize("name", ["coco", "yolo-seg", "labelme", "cvat", "label-studio", "datumaro", "voc"])
def test_no_format_fills_a_hole_of_the_background_or_of_a_low_score(make_run, tmp_path, name) -> None:
    """Filled, the export of a photo is that of the photo with its unlabelled pixels painted by hand, to the byte."""
    drawn_holes = [".......", ".ccccc.", ".cac.c.", ".ccccc.", ".c.cbc.", ".ccccc.", "......."]
    painted = [row.replace("c.c", "ccc") if row[1] == "c" else row for row in drawn_holes]
    root = tmp_path / "photos"
    photo = {"p.jpg": record_of(drawn_holes).prediction().label_map}
    save_photos(root, photo)
    written = {}
    for kind, rows in (("holes", drawn_holes), ("painted", painted)):
        label_map = record_of(rows).prediction().label_map
        run = make_run({"p.jpg": label_map}, ["background", "b", "c"], scores=[0.9, 0.2, 0.9], root=root)
        out = (tmp_path / kind / "out").with_suffix(base.find(name).suffix)
        options = {"min_score": 0.5, "fill_holes": kind == "holes"}
        base.export(name, run, out, options)
        written[kind] = {path: (out.parent / path).read_bytes() for path in files_below(out.parent)}
    assert written["holes"] == written["painted"]


def segments_of(rows: list[str], classes: tuple[int, ...], scores: tuple[float, ...]) -> ImageRecord:
    """A digit per segment, a dot for nothing."""
    label_map = np.array([[".0123456789".index(character) - 1 for character in row] for row in rows], dtype=np.int32)
    prediction = Prediction(label_map, [f"class {index}" for index in classes], classes, scores)
    height, width = label_map.shape
    return ImageRecord("x", "ok", width=width, height=height, segments=tuple(prediction.segments()))


@pytest.mark.parametrize(
    ("view", "expected", "piece_scores"),
    [
        # one class is one piece
        (View(), ["000..", "00.00", "11.00"], [0.6, 0.7]),
        (View(min_area=2), ["000..", "00.00", "11.00"], [0.6, 0.7]),
        # two segments of a class that touch stay two, in reading order and each with its score
        (View(instances=True), ["001..", "01.22", "33.22"], [0.9, 0.6, 0.35, 0.7]),
        (View(instances=True, min_area=3), ["00...", "0..11", "...11"], [0.9, 0.35]),
    ],
)
def test_segments_of_one_class(view: View, expected: list[str], piece_scores: list[float]) -> None:
    """Segment 0 comes after 3 in reading order, 1 and 3 touch; means by hand: (3 x 0.9 + 2 x 0.6 + 4 x 0.35) / 9."""
    record = segments_of(["331..", "31.00", "22.00"], (0, 0, 1, 0), (0.35, 0.6, 0.7, 0.9))
    if not view.instances:
        piece_scores = [round(5.3 / 9, 4), 0.7]
    assert drawn(piece_map(record, class_of, view).numbers) == expected
    found = pieces(record, class_of, view)
    assert [piece.score for piece in found] == piece_scores
    assert [piece.class_index for piece in found] == sorted(piece.class_index for piece in found)


def test_a_speck_of_another_segment_of_the_class_is_filled_too() -> None:
    record = segments_of(["0000", "0100", "0000"], (0, 0), (0.5, 0.5))
    assert drawn(piece_map(record, class_of, View(True, 2, True)).numbers) == ["0000"] * 3
    assert drawn(piece_map(record, class_of, View(True, 0, True)).numbers) == ["0000", "0100", "0000"]


def test_the_plain_view_decodes_nothing(monkeypatch) -> None:
    record = record_of(["aab", "c.b"])
    monkeypatch.setattr(ImageRecord, "prediction", lambda self: pytest.fail("decoded"))
    assert [piece.rle for piece in pieces(record, class_of, View())] == [segment.rle for segment in record.segments]
