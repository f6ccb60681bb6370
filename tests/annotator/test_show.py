"""`annotate show`: the tree in words, and the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_runs import manifest
from PIL import ImageColor
from rich.text import Text

from annotator import show
from annotator.errors import RunError
from annotator.prediction import Prediction
from annotator.run import ImageRecord, RunReader, RunWriter
from annotator.show import draw, find_record, tree_lines

SHARED = {"label": None, "merged": False, "score": None, "segments": None, "captions": None}
NODES = [
    {**SHARED, "children": None, "area": 4, "caption": "a dog"},
    {**SHARED, "children": None, "area": 2, "caption": "head [of a dog]"},
    {**SHARED, "children": None, "area": 3, "caption": "sky", "label": 1},
    {**SHARED, "children": None, "area": 3, "caption": "grass", "label": 2},
    {"children": [0, 1], "area": 6, "caption": "dog", "label": 0, "merged": True}
    | {"score": 0.86, "segments": 0.91, "captions": 0.81},
    {**SHARED, "children": [2, 3], "area": 6, "caption": None, "score": 0.42, "segments": 0.5, "captions": 0.34},
    {**SHARED, "children": [4, 5], "area": 12, "caption": None},
]
EXPECTED = """\
pets/a.jpg  4 x 3  3 segments of 4, joined at 0.8 and above
apart
├─ ■ dog  50.0%  joined at 0.86 (segments 0.91, captions 0.81)
│  ├─ a dog  33.3%
│  └─ head [of a dog]  16.7%
└─ apart at 0.42 (segments 0.50, captions 0.34)
   ├─ ■ sky  25.0%
   └─ ■ grass  25.0%"""
LABELS = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [0, 2, 2, 2]], np.int32)


def record(path: str = "pets/a.jpg", history: bool = True, scale: int = 1) -> ImageRecord:
    labels = LABELS.repeat(scale, axis=0).repeat(scale, axis=1)
    prediction = Prediction(labels, ("dog", "sky", "grass"), (-1,) * 3, (0.25, 0.5, 1.0))
    segments = tuple(prediction.segments())
    told = {"threshold": 0.8, "nodes": NODES} if history else None
    return ImageRecord(path, "ok", width=4 * scale, height=3 * scale, segments=segments, history=told)


def plain(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


def test_the_tree_by_hand() -> None:
    assert plain(tree_lines(record())) == EXPECTED


def test_one_segment_is_one_line() -> None:
    only = [{**SHARED, "children": None, "area": 12, "caption": "sky", "label": 0}]
    segment = Prediction(np.zeros((3, 4), np.int32), ("sky",), (-1,), (1.0,)).segments()
    history = {"threshold": 0.8, "nodes": only}
    lines = tree_lines(ImageRecord("a", "ok", width=4, height=3, segments=tuple(segment), history=history))
    assert plain(lines) == "a  4 x 3  1 segment of 1, joined at 0.8 and above\n■ sky  100.0%"


def test_runs_without_a_tree_list_their_segments() -> None:
    expected = "pets/a.jpg  4 x 3  3 segments\n■ dog  50.0%  0.25\n■ sky  25.0%  0.50\n■ grass  25.0%  1.00"
    assert plain(tree_lines(record(history=False))) == expected
    failed = ImageRecord("b.jpg", "failed", error="truncated")
    assert plain(tree_lines(failed)) == "b.jpg  0 x 0  failed: truncated"


def test_squares_have_the_pictures_colours() -> None:
    """A white photo: each segment's pixels are between white and its square's colour."""
    shown = record(scale=60)
    squares = [line.spans[0].style for line in tree_lines(shown) if line.plain.lstrip("│├└─ ").startswith("■")]
    image = np.asarray(draw(shown, np.full((180, 240, 3), 255, np.uint8)))
    assert image.shape == (720, 960, 3)
    for label, style in zip((0, 1, 2), squares, strict=True):
        expected = 255 * (1 - show.OPACITY) + np.array(ImageColor.getrgb(str(style))) * show.OPACITY
        place = {0: (330, 20), 1: (20, 20), 2: (700, 940)}[label]
        np.testing.assert_allclose(image[place], expected, atol=1)


def test_the_photo_shows_where_nothing_holds() -> None:
    nothing = ImageRecord("a", "ok", width=30, height=20)
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image = draw(nothing, photo)
    assert image.size == (960, 640)
    assert np.asarray(image).std() > 30


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("label", ["dog", "", "日本語", "a very long caption " * 20])
def test_any_size_and_any_caption(size: tuple[int, int], label: str) -> None:
    segments = Prediction(np.zeros(size, np.int32), (label,), (-1,), (1.0,)).segments()
    shown = ImageRecord("a", "ok", width=size[1], height=size[0], segments=tuple(segments))
    assert max(draw(shown, np.zeros((*size, 3), np.uint8)).size) == 960


def test_captions_stand_where_a_segment_is_widest() -> None:
    """A T: a bar of 3 rows above a stem of 5 columns; the stem meets the bar at the widest place."""
    mask = np.zeros((20, 21), bool)
    mask[:3], mask[:, 8:13] = True, True
    x, y = show._widest_place(mask)
    assert x == 10
    assert 2 <= y <= 17
    mask[10:19, 1:10] = True  # a square of 9 is wider
    assert show._widest_place(mask) in [(x, y) for x in range(5, 9) for y in range(13, 16)]


def test_captions_do_not_cover_each_other() -> None:
    taken = []
    for _ in range(10):
        taken.append(show._free_place((100, 24), (50, 300), (400, 600), taken))
    assert all(a[3] <= b[1] or b[3] <= a[1] for a in taken for b in taken if a is not b)
    assert all(box[0] == 0 and box[1] >= 0 and box[3] <= 600 for box in taken)
    assert show._free_place((100, 24), (50, 300), (400, 24), [(0, 0, 400, 24)]) == (0, 0, 100, 24)  # no room is left


@pytest.fixture
def run(tmp_path: Path) -> RunReader:
    with RunWriter.open(tmp_path / "run", manifest()) as writer:
        for path in ("pets/a.jpg", "pets/b.jpg", "b.jpg", "more/pets/c.jpg", "more/c.jpg"):
            writer.write(record(path))
            writer.flush()
    return RunReader(tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("pets/a.jpg", "pets/a.jpg"),
        ("a.jpg", "pets/a.jpg"),
        ("b.jpg", "b.jpg"),  # which pets/b.jpg ends with, too
        ("x/pets/b.jpg", "pets/b.jpg"),  # not b.jpg, which it ends with, too
        ("pets/c.jpg", "more/pets/c.jpg"),
        ("/photos/of/pets/a.jpg", "pets/a.jpg"),
    ],
)
def test_a_photo_is_found_by_its_path_or_its_end(run: RunReader, given: str, path: str) -> None:
    found = find_record(run, given)
    assert found == record(path)
    assert plain(tree_lines(found)) == EXPECTED.replace("pets/a.jpg", path)


@pytest.mark.parametrize(
    ("given", "found"), [(".jpg", "none"), ("d.jpg", "none"), ("c.jpg", "more/c.jpg, more/pets/c.jpg")]
)
def test_a_photo_that_is_none_or_two(run: RunReader, given: str, found: str) -> None:
    with pytest.raises(RunError, match=f"expected one photo that is '{given}', but found {found}; give its whole path"):
        find_record(run, given)
