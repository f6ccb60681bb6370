"""Overlays, pixel by pixel from their description: colours over the photo, borders, a legend below."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from annotator.run import RunReader
from annotator.vocabulary import ClassEntry, Vocabulary
from exporters.base import export
from exporters.classes import Classes, classes_of
from exporters.options import CommonOptions
from exporters.overlay import INK, LEGEND_ROWS, OTHERS, PAPER, OverlayOptions, draw_overlay

CAT, DOG = (200, 40, 0), (0, 80, 240)
GRAY = 100
HEIGHT, WIDTH = 12, 300


@pytest.fixture
def label_map() -> NDArray[np.int32]:
    """Background to the left, then a cat, nothing, a dog; of 75 columns each."""
    return np.repeat(np.array([[0, 1, -1, 2]], np.int32), 75, axis=1).repeat(HEIGHT, axis=0)


@pytest.fixture
def run(make_run, label_map: NDArray[np.int32]) -> RunReader:
    entries = (
        ClassEntry("background", ("background",), background=True),
        ClassEntry("cat", ("cat",), color=CAT),
        ClassEntry("dog", ("dog",), color=DOG),
    )
    return make_run({"a.jpg": label_map}, Vocabulary(entries))


def drawn(run: RunReader, photo: NDArray[np.uint8], **options: float) -> NDArray[np.uint8]:
    classes: Classes = classes_of(run, CommonOptions())
    (record,) = run.records()
    return np.asarray(draw_overlay(photo, record, classes, OverlayOptions(**options)))


@pytest.mark.parametrize("opacity", [0.25, 0.45, 1.0])
def test_masks_are_blended_and_outlined(run: RunReader, label_map: NDArray[np.int32], opacity: float) -> None:
    """Both sides of a border are outlined: a class in its own colour; background and nothing in white."""
    picture = drawn(run, np.full((HEIGHT, WIDTH, 3), GRAY, np.uint8), opacity=opacity)[:HEIGHT]
    edge = np.zeros(WIDTH, np.bool_)
    edge[[74, 75, 149, 150, 224, 225]] = True
    for column in range(WIDTH):
        color = {1: CAT, 2: DOG}.get(int(label_map[0, column]))
        if edge[column]:
            expected = color or PAPER
        elif color is None:
            expected = (GRAY,) * 3
        else:
            expected = tuple(int(GRAY * (1 - opacity) + part * opacity) for part in color)
        assert (picture[:, column] == expected).all(), column


def test_borders_between_rows_are_outlined_too(make_run) -> None:
    run = make_run({"a.jpg": np.repeat([[0], [1]], 6, axis=0).repeat(40, axis=1).astype(np.int32)}, ["cat", "dog"])
    picture = drawn(run, np.full((12, 40, 3), GRAY, np.uint8), opacity=0.0)[:12]
    assert (picture[[0, 1, 2, 3, 4, 7, 8, 9, 10, 11]] == GRAY).all()
    assert (picture[[5, 6]] != GRAY).any(axis=2).all()


def test_the_legend_names_every_label_with_its_colour(run: RunReader) -> None:
    """The largest first: here all are alike, so in the run's order; a line each, as a second column does not fit."""
    legend = drawn(run, np.full((HEIGHT, WIDTH, 3), GRAY, np.uint8))[HEIGHT:]
    assert legend.shape == (3 * 22 + 8, WIDTH, 3)
    assert [tuple(legend[8 + 22 * line + 7, 15]) for line in range(3)] == [PAPER, CAT, DOG]
    for line in range(3):
        assert (legend[8 + 22 * line, 8:23] == OTHERS).all()
        text = (legend[8 + 22 * line : 22 + 22 * line, 30:] == INK).all(axis=2)
        assert text.any(), "a name and a share are written beside the colour"
        assert np.flatnonzero(text.any(axis=0))[0] < 4
    assert np.flatnonzero((legend == INK).all(axis=2).any(axis=0))[-1] < 30 + 180 + 60


@pytest.mark.parametrize(("width", "columns"), [(277, 1), (278, 1), (547, 1), (548, 2), (1358, 5)])
def test_the_legend_takes_as_many_columns_as_fit(make_run, width: int, columns: int) -> None:
    """Of 270 pixels each, and 8 to the left; of twelve labels at most."""
    labels = (np.arange(width, dtype=np.int32) * 14 // width)[None, :].repeat(4, axis=0)
    run = make_run({"a.jpg": labels}, [f"class {index}" for index in range(14)])
    picture = drawn(run, np.full((4, width, 3), GRAY, np.uint8), max_side=width)
    assert picture.shape == (4 + -(-LEGEND_ROWS // columns) * 22 + 8, width, 3)


def test_a_large_photo_is_shrunk(make_run, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    Image.new("RGB", (400, 100), (GRAY,) * 3).save(root / "a.jpg")
    run = make_run({"a.jpg": np.zeros((100, 400), np.int32)}, ["cat"], root=root)
    export("overlay", run, tmp_path / "out", {"max_side": 200})
    with Image.open(tmp_path / "out/a.jpg") as picture:
        assert picture.size == (200, 50 + 22 + 8)


def test_a_photo_that_is_gone_is_told_of(make_run, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 40)).save(root / name)
    run = make_run(dict.fromkeys(["a.jpg", "b.jpg"], np.zeros((40, 40), np.int32)), ["cat"], root=root)
    assert export("overlay", run, tmp_path / "both").notes == []
    (root / "b.jpg").unlink()
    summary = export("overlay", run, tmp_path / "one")
    assert summary.notes == [f"1 photo is not drawn: no longer readable in {root}"]
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["a.jpg"]
