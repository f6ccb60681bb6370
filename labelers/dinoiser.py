"""CLIP-DINOiser (Wysoczańska et al., ECCV 2024): MaskCLIP's features, pooled over patches that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from annotator.limits import Share
from annotator.models.backbone import to_whole_patches
from annotator.models.clip import DenseFeatures
from annotator.models.heads import affinity, guided_pooling, to_grid
from annotator.models.packs import Networks
from annotator.models.windows import ClassMaps
from annotator.stages import stage
from labelers.base import LabelerSpec, register
from labelers.dense import WindowLabeler, WindowParameters


@dataclass(frozen=True)
class DinoiserParameters(WindowParameters):
    """Explained in configs/labelers/dinoiser.yaml."""

    affinity: Literal["clip", "dino", "clip-keys"]
    objectness: Literal["head", "found", "none"]
    gamma: Share
    delta: Share
    background_patch: Literal["shared", "alone"] | None


@register(
    LabelerSpec(
        "dinoiser",
        needs_vocabulary=True,
        paper="CLIP-DINOiser, Wysoczańska et al., ECCV 2024",
        roles=("clip", "heads", "dino", "found"),
    ),
    DinoiserParameters,
)
class Dinoiser(WindowLabeler):
    def __init__(self, networks: Networks, parameters: DinoiserParameters) -> None:
        super().__init__(networks, parameters)
        self._parameters = parameters
        self._heads = networks.heads if parameters.affinity == "clip" or parameters.objectness == "head" else None
        self._dino = networks.dino if parameters.affinity == "dino" else None
        self._found = networks.found if parameters.objectness == "found" else None
        usual = "alone" if networks.pack == "embedded" else "shared"
        self._alone = (parameters.background_patch or usual) == "alone"

    def _score(self, windows: Tensor) -> Sequence[ClassMaps]:
        clip = self._clip.dense(windows)
        with stage("pool"):
            pooled = guided_pooling(clip.maskclip, self._affinity(windows, clip))  # F+, Eq. 1
        scores = self._classifier.score(pooled)
        background = self._vocabulary.background_entry
        if background is None or self._parameters.objectness == "none":
            return scores.maps()
        foreground = self._foreground(windows, clip)
        unsure = scores.confidence.view_as(foreground) < self._parameters.delta
        return scores.maps(decided=unsure & ~foreground, decision=background, alone=self._alone)

    def _affinity(self, windows: Tensor, clip: DenseFeatures) -> Tensor:
        """A, B x P x P: from the trained g, from DINO's values (its teacher) or from CLIP's own keys.

        Teachers see windows that are padded with black, as the heads' training did.
        """
        if self._parameters.affinity == "clip-keys":
            features = clip.keys
        elif self._dino is not None:
            attention = self._dino.last_attention(to_whole_patches(windows, self._dino.patch_size))
            values = F.normalize(attention.as_map(attention.values), dim=1)
            features = to_grid(values, clip.maskclip)
        else:
            assert self._heads is not None
            features = self._heads.affinity_features(clip.intermediate)
        return affinity(features, self._parameters.gamma)

    def _foreground(self, windows: Tensor, clip: DenseFeatures) -> Tensor:
        """B x h x w bool: where the trained h, or FOUND (its teacher), sees an object."""
        if self._found is not None:
            padded = to_whole_patches(windows, self._found.dino.patch_size)
            return to_grid(self._found.objectness(padded)[:, None], clip.maskclip)[:, 0] > 0.5
        assert self._heads is not None
        return self._heads.objectness(clip.intermediate) > 0.5
