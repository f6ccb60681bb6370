"""The trained model as a labeler: `annotate run --labeler segmenter --set weights=FILE --vocab classes.txt`.

annotate's own labelers get their networks from a pack and read no file; this one has no pack, so it reads its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from annotator.errors import VocabularyError
from annotator.models.devices import kind_of
from annotator.models.packs import Networks
from annotator.models.upsample import Winners
from annotator.models.weights import sha256_of
from annotator.prediction import Prediction
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size, register
from labelers.dense import own_sizes, to_prediction
from segmenter.model import load_model


@dataclass(frozen=True)
class SegmenterParameters:
    """weights: what `segmenter.train` wrote.
    sha256:  the file's, found here: it stands in the run's settings, so that other weights are another run. Given,
             the file is held to it.
    """

    weights: str
    sha256: str = ""

    def __post_init__(self) -> None:
        file = Path(self.weights)
        if not file.is_file():
            raise ValueError(f"weights: expected a file that segmenter.train wrote, but there is no {file}")
        found = sha256_of(file)
        if self.sha256 not in ("", found):
            raise ValueError(f"sha256: expected {self.sha256}, but {file} has {found}")
        object.__setattr__(self, "sha256", found)


@register(
    LabelerSpec("segmenter", needs_vocabulary=True, paper="LR-ASPP, Howard et al., ICCV 2019", roles=()),
    SegmenterParameters,
)
class SegmenterLabeler:
    """Whole photos, one look each; a label's score is the mean probability of its pixels."""

    def __init__(self, networks: Networks, parameters: SegmenterParameters) -> None:
        self._networks = networks
        self._weights = parameters.weights
        self._model = load_model(Path(parameters.weights)).to(networks.device)
        self._batch = 1 if kind_of(networks.device) == "cpu" else networks.photos_at_once

    @property
    def working_side(self) -> int | None:
        return self._model.kind.short_side

    def prepare(self, vocabulary: Vocabulary | None) -> None:
        assert vocabulary is not None
        for place, (wanted, found) in enumerate(zip_longest(self._model.kind.classes, vocabulary.names), start=1):
            if wanted != found:
                raise VocabularyError(
                    f"{vocabulary.source}: expected the classes of {self._weights} in their order, with "
                    f"{wanted or 'nothing'!r} as number {place}, but found {found or 'nothing'!r}; take the "
                    "classes.txt of the export that it was trained on"
                )
        self._vocabulary = vocabulary
        entries = enumerate(vocabulary.entries)
        self._entry_of_class = np.array([index for index, entry in entries if entry in vocabulary.classes], np.int32)

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        device, precise = kind_of(self._networks.device), self._networks.precision == "fp32"
        with torch.autocast(device, torch.bfloat16, enabled=not precise):
            found = [*self._model.winners(images, sizes or own_sizes(images), self._batch)]
        winners = [Winners(self._entry_of_class[each.best], each.confidence) for each in found]
        return [to_prediction(each, self._vocabulary, threshold=0.0) for each in winners]
