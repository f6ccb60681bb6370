"""Curves: the table holds every value, and the picture has a line where the values are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from evaluation.curves import COLORS, HEIGHT, WIDTH, Curves
from evaluation.picture import PAPER

X = np.arange(101) / 100


def distance(picture: Image.Image, point: tuple[float, float], color: tuple[int, int, int]) -> int:
    """Of the most alike of the pixels around a point."""
    x, y = round(point[0]), round(point[1])
    around = np.asarray(picture).astype(int)[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
    return int(abs(around - color).max(axis=1).min())


def test_rows() -> None:
    curves = Curves("t", "cosine", np.array([0, 0.07, 1]), {"a": np.array([1, np.nan, 1 / 3]), "b": np.zeros(3)})
    assert curves.header == ["cosine", "a", "b"]
    assert list(curves.rows()) == [["0", "1.0", "0.0"], ["0.07", "", "0.0"], ["1", "0.3333333333333333", "0.0"]]


def test_lines_are_where_the_values_are() -> None:
    falling, rising = 1 - X, 0.2 + 0.5 * X
    curves = Curves("Scores", "threshold", X, {"falling": falling, "rising": rising})
    picture = curves.draw()
    assert (picture.size, picture.mode) == ((WIDTH, HEIGHT), "RGB")
    for values, color in ((falling, COLORS[0]), (rising, COLORS[1])):
        for place in (5, 20, 80, 95):
            assert distance(picture, curves.place(X[place], values[place]), color) < 40
            assert distance(picture, curves.place(X[place], values[place] - 0.15), color) > 40


def test_gaps_and_single_points() -> None:
    values = np.full(101, np.nan)
    values[:30] = 0.5
    values[50] = 0.5
    curves = Curves("t", "x", X, {"gaps": values, "nothing": np.full(101, np.nan)})
    picture = curves.draw()
    assert distance(picture, curves.place(0.15, 0.5), COLORS[0]) < 40
    assert distance(picture, curves.place(0.5, 0.5), COLORS[0]) < 40
    assert distance(picture, curves.place(0.37, 0.5), COLORS[0]) > 100
    assert distance(picture, curves.place(0.75, 0.55), PAPER) == 0


def test_the_ends_of_the_axes() -> None:
    curves = Curves("t", "x", np.array([0.2, 0.6]), {})
    left, bottom = curves.place(0.2, 0)
    right, top = curves.place(0.6, 1)
    assert 0 < left < right < WIDTH
    assert 0 < top < bottom < HEIGHT
    assert curves.draw().getpixel((WIDTH - 5, 5)) == PAPER


def test_written_twice_a_picture_is_the_same() -> None:
    curves = Curves("Sätze, 猫", "x", X, {"ünïcödé": X, **{str(index): X * index / 9 for index in range(8)}})
    assert curves.draw().tobytes() == curves.draw().tobytes()


def test_lines_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected \(101,\) values for 'short', but got \(3,\)"):
        Curves("t", "x", X, {"short": np.zeros(3)})
