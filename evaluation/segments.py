"""Scores of a photo's segments after each has a class: IoU per photo, and Segment Recall.

Segments of one photo with the same class count as one. Pixels that the truth leaves open (IGNORE) are not scored.
Where the truth has a background, that is no class: it is nothing to find, and a class that the photo's truth does
not have loses nothing by lying on it, while one that it has does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from annotator.prediction import NOTHING, LabelMap
from evaluation.matching import IGNORE, TruthMask

RECALL_THRESHOLD = 0.5
RECALL_STEPS = 100
"""Recall is kept for IoU above 0, 0.01, ..., 1."""
CHUNK_PIXELS = 1 << 18
"""Pixels counted at a time."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Overlap:
    """How S predicted segments lie over the T classes of one photo's truth, in pixels that are scored.

    labels:        class indices of the truth, without the background; T.
    shared:        T x S, pixels of each segment on each class.
    on_background: S.
    truth_pixels:  T.
    """

    labels: tuple[int, ...]
    shared: Counts
    on_background: Counts
    truth_pixels: Counts


def overlap(truth: TruthMask, segments: LabelMap, count: int, background: int = IGNORE) -> Overlap:
    """One photo.

    truth:      H x W class indices, IGNORE where nothing is scored.
    segments:   H x W index of the segment, -1 where there is none.
    count:      S, how many segments there are.
    background: class index of the background; IGNORE where it is none.
    """
    if truth.shape != segments.shape:
        raise ValueError(f"Expected truth and segments of one shape, but got {truth.shape} and {segments.shape}")
    open_pixel = truth == IGNORE
    classes = int(truth.max(where=~open_pixel, initial=0)) + 1
    counts = np.zeros((classes, count + 1), dtype=np.int64)  # the last column is "nothing"
    rows, columns, scored = truth.ravel(), segments.ravel(), ~open_pixel.ravel()
    for start in range(0, rows.size, CHUNK_PIXELS):
        chunk = slice(start, start + CHUNK_PIXELS)
        row, column = rows[chunk][scored[chunk]].astype(np.int64), columns[chunk][scored[chunk]]
        place = row * (count + 1) + np.where(column == NOTHING, count, column)
        counts += np.bincount(place, minlength=counts.size).reshape(counts.shape)
    present = counts.sum(axis=1) > 0
    on_background = counts[background, :-1] if background < classes else np.zeros(count, dtype=np.int64)
    if background < classes:
        present[background] = False
    labels = np.flatnonzero(present)
    return Overlap(tuple(labels.tolist()), counts[labels, :-1], on_background, counts[labels].sum(axis=1))


def label_ious(overlap: Overlap, classes: NDArray[np.int32]) -> dict[int, float]:
    """IoU of every class that the photo's truth has, or that is predicted where it has another.

    classes: of each segment; -1 for one that dropped out, or that is background.
    """
    predicted = overlap.shared.sum(axis=0)
    ious = {}
    for row, label in enumerate(overlap.labels):
        chosen = classes == label
        hit = overlap.shared[row, chosen].sum()
        claimed = predicted[chosen].sum() + overlap.on_background[chosen].sum()
        ious[label] = float(hit / (overlap.truth_pixels[row] + claimed - hit))
    for label in np.unique(classes).tolist():
        if label != NOTHING and label not in ious and predicted[classes == label].any():
            ious[label] = 0.0
    return ious


def photo_iou(ious: Mapping[int, float]) -> float:
    """The mean; NaN for a photo with nothing to find and nothing wrongly found."""
    return sum(ious.values()) / len(ious) if ious else float("nan")


@dataclass
class SegmentScores:
    """Sums over photos, of any number of them.

    photos:  that have an IoU.
    labels:  pairs of a photo and a class of its truth.
    hits:    of those with IoU above 0, 0.01, ..., 1; 101.
    segments, verified: predicted segments, and those that kept a class.
    """

    photos: int = 0
    iou_sum: float = 0.0
    labels: int = 0
    segments: int = 0
    verified: int = 0

    def __post_init__(self) -> None:
        self.hits: Counts = np.zeros(RECALL_STEPS + 1, dtype=np.int64)

    def update(self, ious: Mapping[int, float], overlap: Overlap, classes: NDArray[np.int32]) -> None:
        """Adds one photo, with its IoU per class as `label_ious` finds it."""
        found = np.array([ious[label] for label in overlap.labels])
        self.hits += (found[:, None] > recall_thresholds()).sum(axis=0)
        self.labels += len(overlap.labels)
        if ious:
            self.photos += 1
            self.iou_sum += photo_iou(ious)
        self.segments += len(classes)
        self.verified += int((classes != NOTHING).sum())

    @property
    def iou(self) -> float:
        """Mean over photos."""
        return self.iou_sum / self.photos if self.photos else float("nan")

    @property
    def recalls(self) -> NDArray[np.float64]:
        """Segment Recall at IoU above 0, 0.01, ..., 1."""
        return self.hits / self.labels if self.labels else np.full(len(self.hits), np.nan)

    @property
    def recall(self) -> float:
        """At IoU above 0.5."""
        return float(self.recalls[round(RECALL_THRESHOLD * RECALL_STEPS)])

    @property
    def mean_recall(self) -> float:
        return float(self.recalls.mean())


def recall_thresholds() -> NDArray[np.float64]:
    """0, 0.01, ..., 1, each as the division of two whole numbers, so that an IoU of 7/100 is not above 0.07."""
    return np.arange(RECALL_STEPS + 1) / RECALL_STEPS
