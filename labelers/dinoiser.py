"""CLIP-DINOiser (Wysoczańska et al., ECCV 2024): MaskCLIP's features, pooled over patches that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.models.classifier import NameClassifier, imagenet_templates
from annotator.models.clip import DenseFeatures
from annotator.models.heads import affinity, guided_pooling
from annotator.models.packs import Networks
from annotator.models.windows import WindowPlan
from annotator.prediction import Prediction
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size, register
from labelers.dense import label_windows


@dataclass(frozen=True)
class DinoiserParameters:
    """Explained in configs/labelers/dinoiser.yaml."""

    affinity: Literal["clip", "dino", "clip-keys"]
    objectness: Literal["head", "found", "none"]
    gamma: float
    delta: float
    short_side: int
    long_side: int
    window: int
    stride: int
    threshold: float


@register(
    LabelerSpec(
        "dinoiser",
        needs_vocabulary=True,
        paper="CLIP-DINOiser, Wysoczańska et al., ECCV 2024",
        roles=("clip", "heads", "dino", "found"),
    ),
    DinoiserParameters,
)
class Dinoiser:
    spec: LabelerSpec

    def __init__(self, networks: Networks, parameters: DinoiserParameters) -> None:
        self._networks = networks
        self._parameters = parameters
        self._plan = WindowPlan(parameters.short_side, parameters.long_side, parameters.window, parameters.stride)
        self._clip = networks.clip
        self._heads = networks.heads if parameters.affinity == "clip" or parameters.objectness == "head" else None
        self._dino = networks.dino if parameters.affinity == "dino" else None
        self._found = networks.found if parameters.objectness == "found" else None

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
        clip = self._clip.dense(windows)
        pooled = guided_pooling(clip.maskclip, self._affinity(windows, clip))  # F+, Eq. 1
        probabilities = self._classifier.probabilities(pooled)
        background = self._vocabulary.background
        if background is None or self._parameters.objectness == "none":
            return probabilities
        unsure = probabilities.amax(dim=1) < self._parameters.delta
        to_background = (unsure & ~self._foreground(windows, clip))[:, None]
        one_hot = torch.zeros_like(probabilities)
        one_hot[:, background] = 1
        return torch.where(to_background, one_hot, probabilities)

    def _affinity(self, windows: Tensor, clip: DenseFeatures) -> Tensor:
        """A, B x P x P: from the trained g, from DINO's values (its teacher) or from CLIP's own keys."""
        if self._parameters.affinity == "clip-keys":
            features = clip.keys
        elif self._dino is not None:
            attention = self._dino.last_attention(windows)
            values = F.normalize(attention.as_map(attention.values), dim=1)
            features = _to_grid(values, clip.maskclip)
        else:
            assert self._heads is not None
            features = self._heads.affinity_features(clip.intermediate)
        return affinity(features, self._parameters.gamma)

    def _foreground(self, windows: Tensor, clip: DenseFeatures) -> Tensor:
        """B x h x w bool: where the trained h, or FOUND (its teacher), sees an object."""
        if self._found is not None:
            return _to_grid(self._found.objectness(windows)[:, None], clip.maskclip)[:, 0] > 0.5
        assert self._heads is not None
        return self._heads.objectness(clip.intermediate) > 0.5


def _to_grid(features: Tensor, like: Tensor) -> Tensor:
    """Bilinearly to the token grid of `like`, where it differs."""
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)
