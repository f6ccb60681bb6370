"""An evaluation as files and as plain rows for a terminal.

`write_report` leaves in a folder:

    report.md        scores, notes and the per-class table, to read
    metrics.json     the same, to compute with: shares from 0 to 1, null where a score does not exist
    per_class.csv    the per-class table
    confusion.csv    pixel counts, rows truth, columns prediction
    confusion.png    the same as shares of each row
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from annotator.csv_cells import csv_text
from annotator.errors import ConfigError
from annotator.files import replacing
from annotator.finite_json import report_text
from annotator.run import write_atomically
from evaluation.confusion import Evaluation
from evaluation.picture import draw_confusion

CLASS_COLUMNS = ("class", "IoU %", "precision %", "recall %", "truth pixels", "predicted pixels")
NOTHING_COLUMN = "(nothing)"
LEFT_OPEN = "(left open)"
ABSENT = "–"


@dataclass(frozen=True)
class ClassScore:
    """One line of the per-class table; None where nothing can be divided."""

    name: str
    iou: float | None
    precision: float | None
    recall: float | None
    truth_pixels: int
    predicted_pixels: int


def write_report(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """Writes the five files into a folder, which is made where needed, and returns their paths."""
    folder = Path(folder)
    make_folder(folder)
    texts = {
        "report.md": _markdown(evaluation),
        "metrics.json": report_text(_as_dict(evaluation)),
        "per_class.csv": csv_text(
            list(ClassScore.__annotations__), (asdict(row).values() for row in per_class(evaluation))
        ),
        "confusion.csv": csv_text(
            ["truth", *evaluation.matrix.classes, NOTHING_COLUMN],
            ([name, *row] for name, row in zip(evaluation.matrix.classes, evaluation.matrix.counts, strict=True)),
        ),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    picture = draw_confusion(evaluation.matrix.counts, [printable(name) for name in evaluation.matrix.classes])
    with replacing(folder / "confusion.png") as file:
        picture.save(file, "PNG")
    return [*(folder / name for name in texts), folder / "confusion.png"]


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{folder}: expected a folder for the report, but found a file") from None


def per_class(evaluation: Evaluation) -> list[ClassScore]:
    """In class order."""
    matrix, scores = evaluation.matrix, evaluation.scores
    shares = ([share_or_none(share) for share in each] for each in (scores.iou, scores.precision, scores.recall))
    columns = (matrix.classes, *shares, matrix.truth_pixels.tolist(), matrix.predicted_pixels.tolist())
    return [ClassScore(*row) for row in zip(*columns, strict=True)]


def summary_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """(what, value) in plain text: the head of every report."""
    scores, matrix = evaluation.scores, evaluation.matrix
    scored = int((matrix.truth_pixels + matrix.predicted_pixels > 0).sum())
    left_out = f", {len(matrix.classes) - scored} without a pixel left out" if scored < len(matrix.classes) else ""
    pixels = int(matrix.counts.sum())
    photos = {"without truth": evaluation.without_truth, "failed": evaluation.failed}
    shares = {
        "mIoU": scores.miou,
        "pixel accuracy": scores.pixel_accuracy,
        "mean accuracy": scores.mean_accuracy,
        "frequency-weighted IoU": scores.frequency_weighted_iou,
        "pixels labelled nothing": matrix.counts[:, -1].sum() / pixels if pixels else math.nan,
    }
    return [
        *((what, f"{percent(share)} %") for what, share in shares.items()),
        ("classes", f"{scored}{left_out}"),
        ("photos", ", ".join([f"{evaluation.images} scored", *(f"{n} {what}" for what, n in photos.items() if n)])),
    ]


def class_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """The per-class table in plain text, under CLASS_COLUMNS."""
    return [
        (
            printable(row.name),
            *(percent(share) for share in (row.iou, row.precision, row.recall)),
            f"{row.truth_pixels:,}",
            f"{row.predicted_pixels:,}",
        )
        for row in per_class(evaluation)
    ]


def printable(text: str) -> str:
    """On one line, without control characters: a class name must not move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def _as_dict(evaluation: Evaluation) -> dict[str, Any]:
    scores = evaluation.scores
    return {
        "run": evaluation.run,
        "labeler": evaluation.labeler,
        "truth": evaluation.truth,
        "images": evaluation.images,
        "images_without_truth": evaluation.without_truth,
        "images_failed": evaluation.failed,
        "unused_truth": evaluation.unused_truth,
        "miou": share_or_none(scores.miou),
        "pixel_accuracy": share_or_none(scores.pixel_accuracy),
        "mean_accuracy": share_or_none(scores.mean_accuracy),
        "frequency_weighted_iou": share_or_none(scores.frequency_weighted_iou),
        "notes": list(evaluation.notes),
        "unscored": [
            {"name": name, "pixels": without + labelled, "predicted_pixels": labelled}
            for name, (without, labelled) in zip(
                [*evaluation.matrix.unscored, LEFT_OPEN], evaluation.matrix.outside.tolist(), strict=True
            )
        ],
        "classes": [asdict(row) for row in per_class(evaluation)],
    }


def _markdown(evaluation: Evaluation) -> str:
    origin = [("run", evaluation.run), ("labeler", evaluation.labeler), ("truth", evaluation.truth)]
    return "\n".join(
        [
            "# Evaluation",
            "",
            *table_lines(("", ""), [*summary_rows(evaluation), *origin]),
            "",
            *(f"- {escaped(note)}" for note in evaluation.notes),
            *([""] if evaluation.notes else []),
            "## Classes",
            "",
            *table_lines(CLASS_COLUMNS, class_rows(evaluation)),
            "",
            "A class without a pixel in truth and prediction has no IoU and is left out of the mean.",
            "",
            "## Confusion",
            "",
            "![Share of each class's pixels by predicted class](confusion.png)",
            "",
        ]
    )


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The first column left, the others right."""
    lines = [header, ("---", *("---:",) * (len(header) - 1))]
    return [f"| {' | '.join(line)} |" for line in [*lines, *([escaped(cell) for cell in row] for row in rows)]]


def escaped(text: str) -> str:
    """Shown by Markdown as it stands: a class may be named `|` or `<script>`."""
    return re.sub(r"([\\`*_{}\[\]|~#!])", r"\\\1", html.escape(printable(text), quote=False))


def share_or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def percent(share: float | None) -> str:
    return ABSENT if share is None or math.isnan(share) else f"{100 * share:.1f}"
