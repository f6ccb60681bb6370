"""MaskCLIP (Zhou et al., ECCV 2022): CLIP's last value path, patch by patch, against class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from annotator.models.classifier import NameClassifier, imagenet_templates
from annotator.models.packs import Networks
from annotator.models.windows import WindowPlan
from annotator.prediction import Prediction
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size, register
from labelers.dense import label_windows


@dataclass(frozen=True)
class MaskclipParameters:
    """Explained in configs/labelers/maskclip.yaml."""

    short_side: int
    long_side: int
    window: int
    stride: int
    threshold: float


@register(
    LabelerSpec("maskclip", needs_vocabulary=True, paper="MaskCLIP, Zhou et al., ECCV 2022", roles=("clip",)),
    MaskclipParameters,
)
class Maskclip:
    spec: LabelerSpec

    def __init__(self, networks: Networks, parameters: MaskclipParameters) -> None:
        self._networks = networks
        self._parameters = parameters
        self._plan = WindowPlan(parameters.short_side, parameters.long_side, parameters.window, parameters.stride)
        self._clip = networks.clip

    @property
    def working_side(self) -> int | None:
        return self._parameters.short_side

    def prepare(self, vocabulary: Vocabulary | None) -> None:
        assert vocabulary is not None
        templates = imagenet_templates()
        self._vocabulary = vocabulary
        self._classifier = NameClassifier(self._clip, vocabulary, lambda _: templates)

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        return label_windows(
            images,
            sizes,
            score=self._score,
            plan=self._plan,
            networks=self._networks,
            vocabulary=self._vocabulary,
            threshold=self._parameters.threshold,
        )

    def _score(self, windows: Tensor) -> Tensor:
        """B x 3 x H x W -> B x C x h x w."""
        return self._classifier.probabilities(self._clip.dense(windows).maskclip)
