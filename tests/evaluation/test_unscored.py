"""What `eval` says of pixels that no score sees: maps worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from annotator.cli import app
from annotator.vocabulary import ClassEntry, Vocabulary
from evaluation.confusion import ConfusionMatrix, evaluate_run
from evaluation.report import write_report
from evaluation.truth import open_truth

# classes of the truth: background, cat, dog; the run knows cat (0) and dog (1)
TRUTH = [[0, 0, 0, 0, 0, 1, 1, 2, 255, 255]]
FOUND = [[0, 0, -1, 1, -1, 0, 1, 1, 0, -1]]
BACKGROUND = (
    "Classes of the truth that are not scored: background (50.0% of all pixels). 42.9% of the pixels that the run "
    "labelled lie there and count neither for nor against; a run with a background class is scored there."
)  # 5 of 10 pixels; 3 of the 7 labelled ones
OPEN = (
    "20.0% of all pixels are left open by the truth; 14.3% of the pixels that the run labelled lie there and count "
    "neither for nor against."
)


@pytest.fixture
def truth(save_mask: Callable[..., Path]) -> Path:
    folder = save_mask("a.png", TRUTH).parent
    (folder / "classes.txt").write_text("background\ncat\ndog\n")
    return folder


def test_a_run_without_a_background(make_run: Callable, truth: Path) -> None:
    run = make_run({"a.jpg": FOUND}, ("cat", "dog"))
    evaluation = evaluate_run(run, open_truth(truth, run))
    assert evaluation.matrix.counts.tolist() == [[1, 1, 0], [0, 1, 0]]
    assert evaluation.matrix.outside.tolist() == [[2, 3], [1, 1]]
    assert evaluation.notes == (BACKGROUND, OPEN)
    assert evaluation.scores.precision == pytest.approx([1, 1 / 2])


def test_it_is_said_wherever_notes_are(make_run: Callable, truth: Path, tmp_path: Path) -> None:
    run = make_run({"a.jpg": FOUND}, ("cat", "dog"))
    printed = CliRunner().invoke(
        app,
        ["eval", str(run.directory), "--truth", str(truth), "--out", str(tmp_path / "eval")],
        catch_exceptions=False,
    )
    assert f"note: {BACKGROUND}" in printed.output
    metrics = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert metrics["notes"] == [BACKGROUND, OPEN]
    assert metrics["unscored"] == [
        {"name": "background", "pixels": 5, "predicted_pixels": 3},
        {"name": "(left open)", "pixels": 2, "predicted_pixels": 1},
    ]
    assert f"- {BACKGROUND}" in (tmp_path / "eval/report.md").read_text()


def test_photos_add_up(make_run: Callable, truth: Path, save_mask: Callable[..., Path]) -> None:
    """The second is nothing but background, and labelled all over."""
    save_mask("b.png", [[0] * 12])
    run = make_run({"a.jpg": FOUND, "b.jpg": [[0] * 12]}, ("cat", "dog"))
    evaluation = evaluate_run(run, open_truth(truth, run))
    assert "background (77.3% of all pixels). 78.9% of the pixels" in evaluation.notes[0]  # 17 of 22, 15 of 19


def test_a_run_with_a_background_scores_it(make_run: Callable, truth: Path) -> None:
    run = make_run({"a.jpg": np.add(FOUND, 1)}, ("background", "cat", "dog"))
    evaluation = evaluate_run(run, open_truth(truth, run))
    assert [note for note in evaluation.notes if "not scored" in note] == []
    assert evaluation.matrix.counts[0].tolist() == [2, 2, 1, 0]


def test_a_class_that_the_run_ignores(make_run: Callable, truth: Path) -> None:
    entries = [ClassEntry("cat", ("cat",)), ClassEntry("dog", ("dog",), ignore=True)]
    run = make_run({"a.jpg": np.where(np.array(FOUND) == 0, 0, -1)}, Vocabulary(tuple(entries)))
    evaluation = evaluate_run(run, open_truth(truth, run))
    assert evaluation.notes[0].startswith(
        "Classes of the truth that are not scored: background (50.0% of all pixels), dog (10.0% of all pixels). 50.0% "
    )  # of four cats two lie on the background


def test_classes_without_a_pixel_are_not_worth_a_word(make_run: Callable, truth: Path, save_mask: Callable) -> None:
    save_mask("a.png", [[1, 2]])
    run = make_run({"a.jpg": [[0, -1]]}, ("cat", "dog"))
    assert evaluate_run(run, open_truth(truth, run)).notes == ()


def test_nothing_labelled(make_run: Callable, truth: Path) -> None:
    run = make_run({"a.jpg": [[-1] * 10]}, ("cat", "dog"))
    assert "0.0% of the pixels that the run labelled" in evaluate_run(run, open_truth(truth, run)).notes[0]


def test_coco_pixels_without_an_annotation(make_run: Callable, tmp_path: Path) -> None:
    """They are background; a crowd is left open."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 1}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"size": [1, 4], "counts": [0, 1, 3]}},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 1,
                "segmentation": {"size": [1, 4], "counts": [1, 1, 2]},
            },
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    run = make_run({"a.jpg": [[0, 0, 0, -1]]}, ("cat", "dog"))
    evaluation = evaluate_run(run, open_truth(tmp_path / "truth.json", run))
    assert evaluation.matrix.outside.tolist() == [[1, 1], [0, 1]]
    assert any("background (50.0% of all pixels). 33.3% of the pixels" in note for note in evaluation.notes)
    assert any(note.startswith("25.0% of all pixels are left open") for note in evaluation.notes)


def test_truth_for_other_metrics_leaves_them_open(make_run: Callable, truth: Path, tmp_path: Path) -> None:
    run = make_run({"a.jpg": FOUND}, ("cat", "dog"))
    opened = open_truth(truth, run)
    found, whole = opened.mask("a.jpg", (1, 10)), opened.whole_mask("a.jpg", (1, 10))
    assert found is not None
    assert whole is not None
    assert found.tolist() == [[65535] * 5 + [0, 0, 1, 65535, 65535]]
    assert whole.tolist() == [[2] * 5 + [0, 0, 1, 65535, 65535]]
    assert write_report(evaluate_run(run, opened), tmp_path / "report")


def test_matrices_add_up_only_where_they_leave_out_the_same() -> None:
    one, other = ConfusionMatrix(["cat"], ["sky"]), ConfusionMatrix(["cat"], ["sky"])
    one.update(np.array([0, 1, 1, 255]), np.array([0, 0, -1, 0]))
    other.update(np.array([1, 255]), np.array([0, -1]))
    assert (one + other).outside.tolist() == [[1, 2], [1, 1]]
    with pytest.raises(ValueError, match="the same classes"):
        one + ConfusionMatrix(["cat"])
