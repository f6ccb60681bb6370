"""What the report says, in every form, and that hostile names do no harm."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotator.errors import ConfigError
from annotator.vocabulary import ClassEntry, Vocabulary
from evaluation.confusion import Evaluation, evaluate_run
from evaluation.picture import draw_confusion
from evaluation.report import CLASS_COLUMNS, class_rows, summary_rows, write_report
from evaluation.truth import open_truth

HOSTILE = "a|b\n<script>`*_\x1b[2J"


@pytest.fixture
def evaluation(make_run: Callable, save_mask: Callable) -> Evaluation:
    """Four classes: two scored, one predicted but never true, one absent; two photos are left out."""
    names = ("background", HOSTILE, "dog", "cow")
    run = make_run(
        {"x.jpg": [[0, 0, 1, 1, -1, 2]], "y.jpg": [[0]], "z.jpg": None},
        Vocabulary(tuple(ClassEntry(name, (name,)) for name in names)),
    )
    return evaluate_run(run, open_truth(save_mask("x.png", [[0, 0, 0, 1, 1, 255]]).parent, run))


def test_json_holds_every_number(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path / "new" / "report")
    found = json.loads((tmp_path / "new" / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert found["miou"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["pixel_accuracy"] == pytest.approx(3 / 5)
    assert found["mean_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["frequency_weighted_iou"] == pytest.approx(3 / 5 * 2 / 3 + 2 / 5 * 1 / 3)
    assert (found["images"], found["images_without_truth"], found["images_failed"]) == (1, 1, 1)
    assert found["classes"][1] == {
        "name": HOSTILE,
        "iou": pytest.approx(1 / 3),
        "precision": pytest.approx(1 / 2),
        "recall": pytest.approx(1 / 2),
        "truth_pixels": 2,
        "predicted_pixels": 2,
    }
    assert found["classes"][3]["iou"] is None  # absent in truth and prediction
    assert found["labeler"] == "test"
    assert found["notes"] == list(evaluation.notes)


def test_csv_files_read_back(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path)
    with open(tmp_path / "per_class.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["background", HOSTILE, "dog", "cow"]
    assert float(rows[0]["iou"]) == pytest.approx(2 / 3)
    assert rows[3] == {
        "name": "cow", "iou": "", "precision": "", "recall": "", "truth_pixels": "0", "predicted_pixels": "0"
    }  # fmt: skip
    with open(tmp_path / "confusion.csv", encoding="utf-8", newline="") as file:
        matrix = list(csv.reader(file))
    assert matrix[0] == ["truth", "background", HOSTILE, "dog", "cow", "(nothing)"]
    assert matrix[1:3] == [["background", "2", "1", "0", "0", "0"], [HOSTILE, "0", "1", "0", "0", "1"]]


def test_markdown_is_a_table_whatever_the_names(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert "| mIoU | 50.0 % |" in lines
    assert "| photos | 1 scored, 1 without truth, 1 failed |" in lines
    assert "| classes | 2, 2 without a pixel left out |" in lines
    assert "| background | 66.7 | 100.0 | 66.7 | 3 | 2 |" in lines
    assert r"| a\|b &lt;script&gt;\`\*\_ \[2J | 33.3 | 50.0 | 50.0 | 2 | 2 |" in lines
    assert "| cow | – | – | – | 0 | 0 |" in lines
    assert "<script>" not in text
    assert "\x1b" not in text
    assert any(line.startswith("- No classes.txt in or beside") for line in lines)
    assert "(confusion.png)" in text


def test_rows_for_a_terminal(evaluation: Evaluation) -> None:
    assert dict(summary_rows(evaluation))["pixels labelled nothing"] == "20.0 %"
    rows = class_rows(evaluation)
    assert all(len(row) == len(CLASS_COLUMNS) for row in rows)
    assert rows[1][0] == "a|b <script>`*_ [2J"  # one line, no escape sequence


def test_written_twice_the_report_is_the_same(evaluation: Evaluation, tmp_path: Path) -> None:
    first, second = (write_report(evaluation, tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first] == [
        "report.md", "metrics.json", "per_class.csv", "confusion.csv", "confusion.png"
    ]  # fmt: skip
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with Image.open(first[-1]) as image:
        assert image.format == "PNG"


def test_a_file_in_the_way(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken: expected a folder for the report"):
        write_report(evaluation, tmp_path / "taken")


def test_picture_shows_shares_of_each_row() -> None:
    """Full cells have the darkest colour, rows without truth are gray, absent classes are left out."""
    darkest, gray, cell = (8, 40, 94), (242, 243, 245), 54 * 54
    names = ["cat", "dog", "cow"]
    colors = _colors(draw_confusion(np.array([[10, 0, 0, 0], [0, 0, 0, 10], [0, 0, 0, 0]]), names))
    assert 1.5 * cell < colors[darkest] < 2.1 * cell  # less what the numbers cover, more for the colour scale
    assert gray not in colors
    colors = _colors(draw_confusion(np.array([[10, 0, 5, 0], [0, 10, 0, 0], [0, 0, 0, 0]]), names))
    assert 3.5 * cell < colors[gray] < 4 * cell


def _colors(image: Image.Image) -> dict:
    return {color: count for count, color in image.getcolors(1 << 20) or []}


@pytest.mark.parametrize("classes", [0, 1, 21, 171, 600])
def test_picture_of_any_number_of_classes(classes: int) -> None:
    names = ["", "猫", "ä", "x" * 400][:classes] + [f"class {index}" for index in range(classes - 4)]
    counts = np.random.default_rng(0).integers(0, 9, (classes, classes + 1))
    image = draw_confusion(counts, names)
    assert image.mode == "RGB"
    assert max(image.size) < 3000
    assert min(image.size) >= 4 * classes


def test_needs_no_torch() -> None:
    """Scoring a run must not cost the seconds that torch takes to load."""
    code = "import sys, evaluation.report, evaluation.truth; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
