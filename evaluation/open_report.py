"""An evaluation of free-text labels as files and as plain rows for a terminal.

`write_open_report` leaves in a folder:

    open.md                   scores, notes and the curves, to read
    open.json                 the scores, to compute with: shares from 0 to 1, null where one does not exist
    photos.csv                a line per photo and way of reassignment
    captions.csv              for tgq: what was said of every segment of the truth
    threshold-st.csv, .png    scores by verification threshold; tt likewise
    recall-st.csv, .png       Segment Recall by IoU threshold; tt and names likewise
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from annotator.csv_cells import csv_text
from annotator.files import replacing
from annotator.finite_json import report_text
from annotator.run import write_atomically
from evaluation.open_evaluation import OpenEvaluation
from evaluation.report import escaped, make_folder, percent, share_or_none, table_lines
from evaluation.tgq import THRESHOLD, TextQuality

RESULT_COLUMNS = ("labels by", "verified", "IoU %", "recall at 0.5 %", "mean recall %", "segments kept", "photos")
PHOTO_COLUMNS = ("path", "by", "verified", "iou", "truth_labels", "found")
CAPTION_COLUMNS = ("path", "truth", "caption", "similarity", "right")


def write_open_report(evaluation: OpenEvaluation, folder: str | Path) -> list[Path]:
    """Writes the files into a folder, which is made where needed, and returns their paths."""
    folder = Path(folder)
    make_folder(folder)
    texts = {
        "open.md": _markdown(evaluation),
        "open.json": report_text(_as_dict(evaluation)),
    }
    if evaluation.results:
        texts["photos.csv"] = csv_text(
            PHOTO_COLUMNS,
            (
                (photo.path, photo.by, photo.verification, _number(photo.iou), photo.labels, photo.found)
                for photo in evaluation.photos
            ),
        )
    if evaluation.quality is not None:
        texts["captions.csv"] = csv_text(
            CAPTION_COLUMNS,
            (
                (found.path, found.name, found.caption, f"{found.similarity:.4f}", int(found.right))
                for found in evaluation.quality.captions
            ),
        )
    for name, curves in evaluation.curves.items():
        texts[f"{name}.csv"] = csv_text(curves.header, curves.rows())
    for name, text in texts.items():
        write_atomically(folder / name, text)
    pictures = {folder / f"{name}.png": curves for name, curves in evaluation.curves.items()}
    for path, curves in pictures.items():
        with replacing(path) as file:
            curves.draw().save(file, "PNG")
    return [*(folder / name for name in texts), *pictures]


def result_rows(evaluation: OpenEvaluation) -> list[tuple[str, ...]]:
    """Plain text under RESULT_COLUMNS."""
    return [
        (
            result.by,
            result.verification,
            *(percent(share) for share in (result.scores.iou, result.scores.recall, result.scores.mean_recall)),
            f"{result.scores.verified:,} of {result.scores.segments:,}",
            f"{result.scores.photos:,}",
        )
        for result in evaluation.results
    ]


def open_summary_rows(evaluation: OpenEvaluation) -> list[tuple[str, str]]:
    """(what, value) in plain text: what the table of results does not say."""
    left_out = {"without truth": evaluation.without_truth, "failed": evaluation.failed}
    photos = ", ".join([f"{evaluation.images} scored", *(f"{n} {what}" for what, n in left_out.items() if n)])
    quality = evaluation.quality
    return [*([("text quality (TGQ)", _in_words(quality))] if quality is not None else []), ("photos", photos)]


def _in_words(quality: TextQuality) -> str:
    return (
        f"{percent(quality.share)} % of {len(quality.captions):,} segments of {quality.photos:,} photos "
        f"have a caption with cosine > {THRESHOLD:g} to their name"
    )


def _as_dict(evaluation: OpenEvaluation) -> dict[str, Any]:
    quality = evaluation.quality
    return {
        "run": evaluation.run,
        "labeler": evaluation.labeler,
        "truth": evaluation.truth,
        "images": evaluation.images,
        "images_without_truth": evaluation.without_truth,
        "images_failed": evaluation.failed,
        "unused_truth": evaluation.unused_truth,
        "notes": list(evaluation.notes),
        "results": [
            {
                "by": result.by,
                "verified_by": result.verification,
                "iou": share_or_none(result.scores.iou),
                "recall": share_or_none(result.scores.recall),
                "mean_recall": share_or_none(result.scores.mean_recall),
                "photos": result.scores.photos,
                "truth_labels": result.scores.labels,
                "segments": result.scores.segments,
                "segments_verified": result.scores.verified,
            }
            for result in evaluation.results
        ],
        "tgq": None if quality is None else _quality_as_dict(quality),
    }


def _quality_as_dict(quality: TextQuality) -> Mapping[str, Any]:
    return {
        "share": share_or_none(quality.share),
        "segments": len(quality.captions),
        "photos": quality.photos,
        "photos_unreadable": quality.unreadable,
    }


def _markdown(evaluation: OpenEvaluation) -> str:
    origin = [("run", evaluation.run), ("labeler", evaluation.labeler), ("truth", evaluation.truth)]
    curves = [line for name, each in evaluation.curves.items() for line in (f"![{each.title}]({name}.png)", "")]
    return "\n".join(
        [
            "# Evaluation of free-text labels",
            "",
            *table_lines(("", ""), [*open_summary_rows(evaluation), *origin]),
            "",
            *(f"- {escaped(note)}" for note in evaluation.notes),
            *([""] if evaluation.notes else []),
            *(["## Segments", "", *table_lines(RESULT_COLUMNS, result_rows(evaluation)), ""] if curves else []),
            *curves,
        ]
    )


def _number(value: float) -> str:
    share = share_or_none(value)
    return "" if share is None else repr(share)
