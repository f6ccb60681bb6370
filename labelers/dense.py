"""What the vocabulary-driven labelers share: from window scores or pixel winners to predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from annotator.models.packs import Networks
from annotator.models.windows import Score, WindowPlan, Winners, scan
from annotator.prediction import NOTHING, Prediction
from annotator.vocabulary import Vocabulary
from labelers.base import Image, Size


def label_windows(
    images: Sequence[Image],
    sizes: Sequence[Size] | None,
    *,
    score: Score,
    plan: WindowPlan,
    networks: Networks,
    vocabulary: Vocabulary,
    threshold: float,
) -> list[Prediction]:
    """Labels photos by sliding windows; `score` gives class probabilities per patch of a window."""
    with networks.inference():
        winners = scan(
            images,
            sizes or own_sizes(images),
            plan,
            score,
            patch_size=networks.clip.patch_size,
            batch=networks.windows_at_once,
            device=networks.device,
        )
        return [to_prediction(found, vocabulary, threshold) for found in winners]


def own_sizes(images: Sequence[Image]) -> list[Size]:
    return [(image.shape[0], image.shape[1]) for image in images]


def to_prediction(winners: Winners, vocabulary: Vocabulary, threshold: float) -> Prediction:
    """Winners over the vocabulary's entries -> what is written.

    Pixels below their entry's threshold (`threshold` where it has none) and ignored entries become nothing;
    merged entries count as the class they merge into. A label's score is the mean confidence of its pixels.
    """
    limits = np.array([threshold if e.threshold is None else e.threshold for e in vocabulary.entries], dtype=np.float32)
    classes = vocabulary.class_of_entry[winners.best]
    if limits.any():
        classes = np.where(winners.confidence >= limits[winners.best], classes, NOTHING)

    held = classes >= 0
    counts = np.bincount(classes[held], minlength=len(vocabulary.classes))
    totals = np.bincount(classes[held], weights=winners.confidence[held], minlength=len(vocabulary.classes))
    present = np.flatnonzero(counts)
    label_of_class = np.full(len(counts) + 1, NOTHING, dtype=np.int32)  # the last entry answers for -1
    label_of_class[present] = np.arange(len(present))
    return Prediction(
        label_map=label_of_class[classes],
        labels=tuple(vocabulary.names[index] for index in present),
        class_ids=tuple(int(index) for index in present),
        scores=tuple(float(total / count) for total, count in zip(totals[present], counts[present], strict=True)),
    )
