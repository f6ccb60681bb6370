"""How well soft objectness maps find the salient objects of photos with binary masks (ECSSD and the like).

The measures are those of unsupervised object localisation. IoU, accuracy and F are of one photo, then averaged over
photos. max-F: precision and recall are averaged over photos at each of 256 cuts, F is taken of these, and the best cut
counts (Achanta et al., CVPR 2009, with its beta^2 = 0.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from annotator.images import decode, open_source
from evaluation.matching import TruthError

BETA_SQUARED = 0.3
CUTS = 256
SALIENT = 127
"""A mask's pixel above it is salient."""

Pixels = NDArray[np.uint8]
Soft = NDArray[np.floating]
Objectness = Callable[[Pixels], Soft]
"""H x W x 3 RGB -> H x W in [0, 1]; above 0.5 is salient."""
Refine = Callable[[Pixels, Soft], Soft]
"""A photo and its map -> the map drawn to the photo's edges (a bilateral solver, say)."""


@dataclass(frozen=True)
class SaliencyScores:
    """All in [0, 1].

    iou:      of the salient pixels; what the papers call IoU, and CLIP-DINOiser mIoU.
    both_iou: mean of the salient pixels' IoU and of the others'.
    """

    photos: int
    iou: float
    both_iou: float
    accuracy: float
    max_f: float


class Saliency:
    """Adds photos up."""

    def __init__(self) -> None:
        self._photos = 0
        self._sums = np.zeros(3)  # IoU, IoU of both, accuracy
        self._precision = np.zeros(CUTS)
        self._recall = np.zeros(CUTS)

    def update(self, objectness: Soft, truth: NDArray[np.bool_]) -> None:
        """objectness: H x W in [0, 1]; truth: H x W."""
        if objectness.shape != truth.shape:
            raise ValueError(f"Expected objectness and truth of one size, but got {objectness.shape} and {truth.shape}")
        if not (objectness.min() >= 0 and objectness.max() <= 1):
            raise ValueError(f"Expected objectness in [0, 1], but got {objectness.min():g} to {objectness.max():g}")
        found = objectness > 0.5
        iou = _share((found & truth).sum(), (found | truth).sum())
        other = _share((~found & ~truth).sum(), (~found | ~truth).sum())
        self._sums += iou, (iou + other) / 2, (found == truth).mean()
        precision, recall = _curve(objectness, truth)
        self._precision += precision
        self._recall += recall
        self._photos += 1

    def compute(self) -> SaliencyScores:
        if not self._photos:
            raise ValueError("Expected at least one photo to score, but got none")
        precision, recall = self._precision / self._photos, self._recall / self._photos
        below = BETA_SQUARED * precision + recall
        f = np.divide((1 + BETA_SQUARED) * precision * recall, below, out=np.zeros(CUTS), where=below > 0)
        iou, both, accuracy = self._sums / self._photos
        return SaliencyScores(self._photos, float(iou), float(both), float(accuracy), float(f.max()))


def score_folder(
    objectness: Objectness, images: str | Path, masks: str | Path, refine: Refine | None = None
) -> SaliencyScores:
    """Every photo of `images` (a folder, a glob or a list) against `masks/STEM.png`, one photo in memory at a time."""
    scores = Saliency()
    for ref in open_source(images):
        photo = decode(ref.file).pixels
        truth = _read_mask(Path(masks) / f"{Path(ref.path).stem}.png", photo.shape[:2])
        soft = objectness(photo)
        scores.update(refine(photo, soft) if refine else soft, truth)
    return scores.compute()


def _read_mask(file: Path, size: tuple[int, ...]) -> NDArray[np.bool_]:
    try:
        with Image.open(file) as image:
            values = np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise TruthError(f"{file}: expected a PNG mask of that name for its photo, but found none ({error})") from None
    if values.shape != size:
        raise TruthError(f"{file}: expected a mask of its photo's size {size}, but found {values.shape}")
    return values > SALIENT


def _curve(objectness: Soft, truth: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall where the map, in steps of 1 / 255, is at least 0, 1, ..., 255."""
    levels = np.rint(objectness * (CUTS - 1)).astype(np.int64).ravel()
    hits = _at_least(levels[truth.ravel()])
    found = _at_least(levels)
    precision = np.divide(hits, found, out=np.zeros(CUTS), where=found > 0)
    return precision, hits / max(int(truth.sum()), 1)


def _at_least(levels: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many levels are at least 0, 1, ..., 255."""
    return np.bincount(levels, minlength=CUTS)[::-1].cumsum()[::-1].astype(np.float64)


def _share(part: np.integer, whole: np.integer) -> float:
    """1 where there is nothing to find and nothing was found."""
    return float(part / whole) if whole else 1.0
