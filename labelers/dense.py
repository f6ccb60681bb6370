"""What the vocabulary-driven labelers share: sliding windows, and the way from pixel winners to predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from annotator.limits import Limits, Share, Side
from annotator.models.classifier import NameClassifier, imagenet_templates
from annotator.models.packs import Networks
from annotator.models.upsample import Winners
from annotator.models.windows import ClassMaps, WindowPlan, scan
from annotator.prediction import NOTHING, Prediction
from annotator.stages import staged
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size

PIXELS_AT_ONCE = 2**20


@dataclass(frozen=True)
class WindowParameters:
    """Explained in configs/labelers/maskclip.yaml."""

    short_side: Side
    long_side: Annotated[int, Limits(1, 10**6)]
    window: Side
    stride: Side
    threshold: Share


class WindowLabeler(ABC):
    """A labeler that scores the patches of sliding windows against class names in ImageNet's templates."""

    spec: LabelerSpec

    def __init__(self, networks: Networks, parameters: WindowParameters) -> None:
        self._networks = networks
        self._clip = networks.clip
        self._plan = WindowPlan(parameters.short_side, parameters.long_side, parameters.window, parameters.stride)
        self._threshold = parameters.threshold

    @property
    def working_side(self) -> int | None:
        return self._plan.short_side

    def prepare(self, vocabulary: Vocabulary | None) -> None:
        assert vocabulary is not None
        templates = imagenet_templates()
        self._vocabulary = vocabulary
        self._classifier = NameClassifier(self._clip, vocabulary, lambda _: templates)

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        with self._networks.inference():
            winners = scan(
                images,
                sizes or own_sizes(images),
                self._plan,
                self._score,
                patch_size=self._clip.patch_size,
                batch=self._networks.windows_at_once,
                device=self._networks.device,
            )
            finish = partial(to_prediction, vocabulary=self._vocabulary, threshold=self._threshold)
            return list(map(finish, winners))  # a comprehension would hold one photo's winners while the next are found

    @abstractmethod
    def _score(self, windows: Tensor) -> Sequence[ClassMaps]:
        """B x 3 x H x W RGB in [0, 1] -> B maps of class probabilities per patch."""


def own_sizes(images: Sequence[Image]) -> list[Size]:
    return [(image.shape[0], image.shape[1]) for image in images]


@staged("prediction")
def to_prediction(winners: Winners, vocabulary: Vocabulary, threshold: float) -> Prediction:
    """Winners over the vocabulary's entries -> what is written; `winners.best` becomes the label map.

    Pixels below their entry's threshold (`threshold` where it has none) and ignored entries become nothing;
    merged entries count as the class they merge into. A label's score is the mean confidence of its pixels.
    """
    limits = np.array([threshold if e.threshold is None else e.threshold for e in vocabulary.entries], dtype=np.float32)
    classes = winners.best
    counts, totals = np.zeros(len(vocabulary.classes) + 1), np.zeros(len(vocabulary.classes) + 1)  # the last: nothing
    for band in _bands(classes.shape):
        best, confidence = classes[band], winners.confidence[band]
        found = np.take(vocabulary.class_of_entry, best, mode="clip")  # in half the time of an index
        if limits.any():
            found[confidence < limits[best]] = NOTHING
        classes[band] = found
        values, lengths, sums = _runs(found.ravel(), confidence.ravel())
        values[values < 0] = len(counts) - 1
        counts += np.bincount(values, weights=lengths, minlength=len(counts))
        totals += np.bincount(values, weights=sums, minlength=len(totals))

    present = np.flatnonzero(counts[:-1])
    label_of_class = np.full(len(counts), NOTHING, dtype=np.int32)  # the last entry answers for -1
    label_of_class[present] = np.arange(len(present))
    for band in _bands(classes.shape):
        classes[band] = np.take(label_of_class, classes[band], mode="wrap")
    return Prediction(
        label_map=classes,
        labels=tuple(vocabulary.names[index] for index in present),
        class_ids=tuple(int(index) for index in present),
        scores=tuple(float(total / count) for total, count in zip(totals[present], counts[present], strict=True)),
    )


def _runs(values: NDArray[np.int32], weights: NDArray[np.float32]) -> tuple[NDArray, NDArray, NDArray]:
    """Of equal values in a row: the value, how many, and the sum of their weights; fewer than pixels by far."""
    starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    return values[starts], np.diff(starts, append=len(values)), np.add.reduceat(weights, starts, dtype=np.float64)


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Some rows at a time, so that what is worked out per pixel on the way stays small."""
    rows = max(PIXELS_AT_ONCE // shape[1], 1)
    return (slice(start, start + rows) for start in range(0, shape[0], rows))
