"""One confusion matrix over a whole run, and the scores that follow from it.

Rows are truth, columns prediction, with one more column for pixels that the run left without a label: they
are missed truth, but no class's false positive. Pixels that are not scored are counted apart, so that a report can say
how much of the prediction no score sees. Memory depends on the number of classes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from annotator.errors import ConfigError
from annotator.photo_changes import Changed, unchanged
from annotator.prediction import NOTHING, nearest
from annotator.run import RunReader
from annotator.vocabulary import BACKGROUND_NAME
from evaluation.matching import IGNORE, Size, TruthError
from evaluation.truth import Truth

METRICS = ("miou",)
CHUNK_PIXELS = 1 << 18
"""Pixels counted at a time: keeps the memory of `update` small, whatever the photo's size."""

LONGEST_SIDE = 2048
"""Of what is scored at another size than the photo's."""

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """All in [0, 1]; NaN where there is nothing to divide by.

    iou, precision, recall: one per class. A class with no pixel in truth and prediction has IoU NaN and is
    left out of `miou`; `mean_accuracy` is over classes with a pixel in truth.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    iou: Shares
    precision: Shares
    recall: Shares


class ConfusionMatrix:
    """Counts pixels by (truth, prediction). Matrices of one class list add up with `+`.

    unscored: classes of the truth that no score counts; their numbers follow those of `classes`.
    """

    def __init__(self, classes: Sequence[str], unscored: Sequence[str] = ()) -> None:
        self.classes = tuple(classes)
        self.unscored = tuple(unscored)
        self.counts: Counts = np.zeros((len(self.classes), len(self.classes) + 1), dtype=np.int64)
        """classes x (classes + 1) int64; the last column is "nothing"."""
        self.outside: Counts = np.zeros((len(self.unscored) + 1, 2), dtype=np.int64)
        """(unscored + 1) x 2 int64: pixels without and with a predicted label; the last row is `ignore`."""

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        if (self.classes, self.unscored) != (other.classes, other.unscored):
            raise ValueError("Expected two matrices of the same classes, but got different ones")
        total = ConfusionMatrix(self.classes, self.unscored)
        total.counts = self.counts + other.counts
        total.outside = self.outside + other.outside
        return total

    @property
    def truth_pixels(self) -> Counts:
        """Per class."""
        return self.counts.sum(axis=1)

    @property
    def predicted_pixels(self) -> Counts:
        """Per class, without "nothing"."""
        return self.counts[:, :-1].sum(axis=0)

    def update(self, truth: NDArray[np.integer], prediction: NDArray[np.integer], ignore: int = 255) -> None:
        """Adds one photo.

        truth:      integers from 0 to classes + unscored - 1, or `ignore` (255 for 8-bit truth, 65535 for 16-bit).
        prediction: integers of the same shape from -1 (nothing) to classes - 1; any value where truth is not scored.
        """
        _validate(truth, prediction)
        truth, prediction = truth.ravel(), prediction.ravel()
        for start in range(0, truth.size, CHUNK_PIXELS):
            chunk = slice(start, start + CHUNK_PIXELS)
            self._add(truth[chunk], prediction[chunk], ignore)

    def _add(self, truth: NDArray[np.integer], prediction: NDArray[np.integer], ignore: int) -> None:
        """1-D arrays."""
        classes, unscored = len(self.classes), len(self.unscored)
        open_pixel = truth == ignore
        outside = open_pixel | ((truth >= classes) & (truth < classes + unscored))
        rows = np.where(open_pixel[outside], unscored, truth[outside].astype(np.int64) - classes)
        labelled = prediction[outside] != NOTHING
        self.outside += np.bincount(rows * 2 + labelled, minlength=self.outside.size).reshape(self.outside.shape)
        self.counts += _count(truth[~outside], prediction[~outside], classes)

    def compute(self) -> Scores:
        hits = self.counts.diagonal().astype(np.float64)
        truth, predicted = self.truth_pixels, self.predicted_pixels
        iou, recall = _divide(hits, truth + predicted - hits), _divide(hits, truth)
        return Scores(
            miou=mean(iou),
            pixel_accuracy=float(_divide(hits.sum(), truth.sum())),
            mean_accuracy=mean(recall),
            frequency_weighted_iou=float(_divide((truth * np.nan_to_num(iou)).sum(), truth.sum())),
            iou=iou,
            precision=_divide(hits, predicted),
            recall=recall,
        )


@dataclass(frozen=True)
class Evaluation:
    """How well a run fits its truth.

    images:        photos that were scored.
    without_truth: labelled photos that have none; left out.
    failed:        photos that the run could not label; left out, so look at this number beside the scores.
    unused_truth:  masks for which the run has no photo.
    notes:         sentences for the user on what the scores do and do not cover.
    """

    run: str
    labeler: str
    truth: str
    matrix: ConfusionMatrix
    scores: Scores
    images: int
    without_truth: int
    failed: int
    unused_truth: int
    notes: tuple[str, ...]


def evaluate_run(
    run: RunReader, truth: Truth, metrics: Sequence[str] = METRICS, short_side: int | None = None
) -> Evaluation:
    """Scores every labelled photo of the run that has truth, one photo in memory at a time.

    short_side: truth and labels are brought to it before they are compared; None compares them as they are.
    """
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise ConfigError(f"no metric {unknown[0]!r}; known are {', '.join(METRICS)}")
    matrix = ConfusionMatrix(truth.names, truth.unscored)
    images = without_truth = failed = 0
    changed = Changed()
    for record in unchanged(run, changed):
        if record.status == "failed" or record.not_finite:
            failed += 1
        elif (mask := truth.whole_mask(record.path, record.size)) is None:
            without_truth += 1
        else:
            labels = record.prediction().class_map()
            if short_side is not None:
                size = _scored_size(record.size, short_side)
                mask, labels = nearest(mask, size), nearest(labels, size)
            matrix.update(mask, labels, ignore=IGNORE)
            images += 1
    if not images:
        raise TruthError(
            f"{run.directory}: every photo that has truth failed in this run or has changed since, so there is nothing "
            "to score"
        )
    scores = matrix.compute()
    return Evaluation(
        run=str(run.directory),
        labeler=run.manifest.labeler,
        truth=truth.source,
        matrix=matrix,
        scores=scores,
        images=images,
        without_truth=without_truth,
        failed=failed,
        unused_truth=truth.unused,
        notes=(*truth.notes, *changed.notes(), *_notes(run, truth, matrix, scores, short_side)),
    )


def _scored_size(size: Size, short_side: int) -> Size:
    """(height, width) with this short side, or with LONGEST_SIDE as the long one where that makes it smaller."""
    scale = min(short_side / min(size), LONGEST_SIDE / max(size))
    height, width = (max(int(length * scale + 0.5), 1) for length in size)
    return height, width


def mean(values: Shares) -> float:
    """Over the values that are not NaN; NaN when all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _notes(run: RunReader, truth: Truth, matrix: ConfusionMatrix, scores: Scores, short_side: int | None) -> list[str]:
    notes = []
    if short_side is not None:
        notes.append(f"Truth and labels are scored at a short side of {short_side} px, as in the labeler's paper.")
    if run.manifest.state != "complete":
        notes.append(
            f"The run is not complete (its state is {run.manifest.state!r}): only photos labelled so far count."
        )
    if truth.missing:
        known = len(truth.names) - len(truth.missing)
        share = _divide(matrix.truth_pixels[known:].sum(), matrix.truth_pixels.sum())
        notes.append(
            f"{share:.1%} of the truth's pixels belong to classes that the run does not know and are counted as "
            f"missed; over the run's own {known} classes alone the mIoU is {mean(scores.iou[:known]):.1%}."
        )
    return [*notes, *unscored_notes(matrix)]


def unscored_notes(matrix: ConfusionMatrix) -> list[str]:
    """Sentences on pixels that no score sees, and on how much of the prediction lies there."""
    pixels = matrix.counts.sum() + matrix.outside.sum()
    predicted = max(int(matrix.predicted_pixels.sum() + matrix.outside[:, 1].sum()), 1)
    *by_class, left_open = matrix.outside
    totals: dict[str, int] = {}
    for name, row in zip(matrix.unscored, by_class, strict=True):
        totals[name] = totals.get(name, 0) + int(row.sum())
    notes = []
    if shares := [f"{name} ({total / pixels:.1%} of all pixels)" for name, total in totals.items() if total]:
        inside = sum(int(row[1]) for row in by_class)
        mend = "; a run with a background class is scored there" if BACKGROUND_NAME in map(str.casefold, totals) else ""
        notes.append(
            f"Classes of the truth that are not scored: {', '.join(shares)}. {inside / predicted:.1%} of the pixels "
            f"that the run labelled lie there and count neither for nor against{mend}."
        )
    if left_open.any():
        notes.append(
            f"{left_open.sum() / pixels:.1%} of all pixels are left open by the truth; {left_open[1] / predicted:.1%} "
            "of the pixels that the run labelled lie there and count neither for nor against."
        )
    return notes


def _validate(truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> None:
    for name, array in (("truth", truth), ("prediction", prediction)):
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"Expected {name} to hold integers, but got {array.dtype}")
    if truth.shape != prediction.shape:
        raise ValueError(f"Expected truth and prediction of one shape, but got {truth.shape} and {prediction.shape}")


def _count(truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int) -> Counts:
    """1-D arrays of pixels that are scored -> classes x (classes + 1) counts."""
    rows, columns = truth.astype(np.int64), prediction.astype(np.int64)
    for name, values, low in (("truth", rows, 0), ("prediction", columns, NOTHING)):
        if values.size and (values.min() < low or values.max() >= classes):
            found = f"{values.min()} to {values.max()}"
            raise ValueError(f"Expected {name} values from {low} to {classes - 1}, but got {found}")
    columns[columns == NOTHING] = classes
    counts = np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)


def _divide(part: NDArray | np.number, whole: NDArray | np.number) -> Shares:
    """NaN where `whole` is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)
