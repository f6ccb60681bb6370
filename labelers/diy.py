"""CLIP-DIY (Wysoczańska et al., WACV 2024): CLIP as a classifier of many crops, guided by objectness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.models.classifier import LOGIT_SCALE, NameClassifier
from annotator.models.packs import Networks
from annotator.models.windows import WindowPlan, Winners, in_fixed_batches, to_canvas, upsampled_winners
from annotator.prediction import Prediction
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size, register
from labelers.dense import check_shares, own_sizes, to_prediction


@dataclass(frozen=True)
class DiyParameters:
    """Explained in configs/labelers/diy.yaml."""

    scales: tuple[int, ...]
    image_side: int
    objectness: Literal["found", "found-bkg", "none"]
    objectness_side: int
    threshold: float

    def __post_init__(self) -> None:
        check_shares(threshold=self.threshold)
        if not self.scales or any(scale < 2 or scale > self.image_side for scale in self.scales):
            raise ValueError(
                f"scales: expected patch sizes from 2 to image_side {self.image_side}, but got {self.scales}"
            )


@register(
    LabelerSpec(
        "diy",
        needs_vocabulary=True,
        needs_background=True,
        paper="CLIP-DIY, Wysoczańska et al., WACV 2024",
        roles=("clip", "found"),
    ),
    DiyParameters,
)
class Diy:
    spec: LabelerSpec

    def __init__(self, networks: Networks, parameters: DiyParameters) -> None:
        self._networks = networks
        self._parameters = parameters
        self._clip = networks.clip
        self._found = networks.found if parameters.objectness != "none" else None
        self._objectness_plan = WindowPlan(short_side=parameters.objectness_side)

    @property
    def working_side(self) -> int | None:
        return max(self._parameters.image_side, self._parameters.objectness_side)

    def prepare(self, vocabulary: Vocabulary | None) -> None:
        assert vocabulary is not None
        self._vocabulary = vocabulary
        self._background = vocabulary.require_background("diy")
        self._classifier = NameClassifier(self._clip, vocabulary, photo_of)

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        with self._networks.inference():
            return [
                to_prediction(self._winners(image, size), self._vocabulary, self._parameters.threshold)
                for image, size in zip(images, sizes or own_sizes(images), strict=True)
            ]

    def _winners(self, image: Image, size: Size) -> Winners:
        side = self._parameters.image_side
        square = to_canvas(image, (side, side), self._networks.device)
        scores = torch.stack([self._classify_patches(square, scale) for scale in self._parameters.scales]).mean(dim=0)
        if self._found is not None:
            objectness = self._objectness(image, size)  # Theta
            weights = objectness.expand_as(scores).clone()
            weights[self._background] = 1 - objectness
            scores = scores * weights
        probabilities = (LOGIT_SCALE * scores).softmax(dim=0)
        return upsampled_winners(lambda chosen: probabilities[chosen], probabilities.amax(dim=(1, 2)), size)

    def _classify_patches(self, square: Tensor, scale: int) -> Tensor:
        """rho_s: 3 x side x side -> C x side x side, cosine of every overlapping patch with every class."""
        patches = square.unfold(1, scale, scale // 2).unfold(2, scale, scale // 2)  # 3 x n x n x scale x scale
        rows, columns = patches.shape[1:3]
        crops = patches.permute(1, 2, 0, 3, 4).flatten(0, 1)
        cosines = in_fixed_batches(crops, self._classify, min(len(crops), self._networks.crops_at_once))
        grid = cosines.T.reshape(-1, rows, columns)
        return F.interpolate(grid[None], size=square.shape[1:], mode="bilinear", align_corners=False)[0]

    def _classify(self, crops: Tensor) -> Tensor:
        """B x 3 x s x s -> B x C."""
        side = self._clip.image_size
        resized = F.interpolate(crops, size=(side, side), mode="bicubic", align_corners=False).clamp(0, 1)
        return self._classifier.cosines(self._clip.embed(resized))

    def _objectness(self, image: Image, size: Size) -> Tensor:
        """Theta, side x side in [0, 1]."""
        assert self._found is not None
        canvas = to_canvas(image, self._objectness_plan.resized(size), self._networks.device)[None]
        network = self._found.objectness if self._parameters.objectness == "found" else self._found.seed_objectness
        grid = network(canvas)[:, None].float()
        patch = self._found.dino.patch_size
        padded = F.interpolate(
            grid, size=(grid.shape[2] * patch, grid.shape[3] * patch), mode="bilinear", align_corners=False
        )
        theta = padded[:, :, : canvas.shape[2], : canvas.shape[3]]
        side = self._parameters.image_side
        return F.interpolate(theta, size=(side, side), mode="bilinear", align_corners=False)[0, 0]


def photo_of(name: str) -> tuple[str]:
    """The paper's prompt. A vowel takes "an"; the authors' own code never writes it."""
    return (f"a photo of {'an' if name[:1].lower() in 'aeiou' else 'a'} {{}}",)
