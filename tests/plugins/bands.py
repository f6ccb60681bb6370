"""Labelers of a third party, known to the tool by their entry points alone: pixels labelled by brightness."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from annotator.models.packs import Networks
from annotator.prediction import Prediction
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size, register


@dataclass(frozen=True)
class BandsParameters:
    """tints: weights of red, green and blue. seconds: how long a photo takes, beyond the computing."""

    tints: tuple[float, ...] = (0.25, 0.5, 0.25)
    seconds: float = 0.0


class _ByBrightness:
    working_side = None

    def __init__(self, networks: Networks, parameters: BandsParameters) -> None:
        self.parameters = parameters
        self.names: tuple[str, ...] = ("dark", "bright")
        self.class_ids: tuple[int, ...] = (-1, -1)

    def prepare(self, vocabulary: Vocabulary | None) -> None:
        if vocabulary is not None:
            self.names, self.class_ids = vocabulary.names, tuple(range(len(vocabulary.names)))

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        time.sleep(self.parameters.seconds * len(images))
        return [self._label(image) for image in images]

    def _label(self, image: Image) -> Prediction:
        brightness = image @ np.array(self.parameters.tints, dtype=np.float32)
        bands = (brightness * len(self.names) / 256).astype(np.int32)
        return Prediction(bands, self.names, self.class_ids, [0.5] * len(self.names))


@register(LabelerSpec("bands", needs_vocabulary=True, paper="none", roles=()), BandsParameters)
class Bands(_ByBrightness):
    """A class per band of brightness, the darkest first."""


@register(LabelerSpec("shades", needs_vocabulary=False, paper="none", roles=()), BandsParameters)
class Shades(_ByBrightness):
    """Dark and bright, in words of its own."""
