"""CLIP-DIY (Wysoczańska et al., WACV 2024): CLIP as a classifier of many crops, guided by objectness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.limits import Limits, Share, Side
from annotator.models.classifier import LOGIT_SCALE, NameClassifier
from annotator.models.masked_clip import to_square
from annotator.models.packs import Networks
from annotator.models.upsample import CLASSES_AT_ONCE, Winners, upsampled_winners
from annotator.models.windows import WindowPlan, in_fixed_batches, to_canvas
from annotator.prediction import Prediction
from annotator.stages import stage, staged
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size, register
from labelers.dense import own_sizes, to_prediction


@dataclass(frozen=True)
class DiyParameters:
    """Explained in configs/labelers/diy.yaml."""

    scales: tuple[Side, ...]
    image_side: Side
    objectness: Literal["found", "found-bkg", "none"]
    objectness_side: Annotated[int | None, Limits(1, 16_384)]
    upsample: Literal["probabilities", "labels"]
    threshold: Share

    def __post_init__(self) -> None:
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

    @property
    def working_side(self) -> int | None:
        side = self._parameters.objectness_side
        return None if side is None else max(self._parameters.image_side, side)

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
        weight = None if self._found is None else self._objectness(image, size)
        maps = _PixelClasses(self._classify_patches(square), side, weight, self._background)
        if self._parameters.upsample == "labels":
            return upsampled_winners(maps.of, maps.peaks(), (side, side)).nearest(size)
        return upsampled_winners(maps.of, maps.peaks(), size)

    def _classify_patches(self, square: Tensor) -> list[Tensor]:
        """Per scale C x n x n: cosine of every overlapping patch with every class."""
        grids = [(self._parameters.image_side - scale) // (scale // 2) + 1 for scale in self._parameters.scales]
        crops = chain.from_iterable(self._crops(square, scale) for scale in self._parameters.scales)
        cosines = in_fixed_batches(crops, self._classify, self._networks.crops_at_once)
        parts = cosines.split([side**2 for side in grids])
        return [part.T.reshape(-1, side, side) for part, side in zip(parts, grids, strict=True)]

    def _crops(self, square: Tensor, scale: int) -> Iterator[Tensor]:
        """The patches of one scale, n x 3 x h x w at the size that CLIP wants, some at a time."""
        side = self._clip.image_size
        patches = square.unfold(1, scale, scale // 2).unfold(2, scale, scale // 2)  # 3 x n x n x scale x scale
        for some in patches.permute(1, 2, 0, 3, 4).flatten(0, 1).split(self._networks.crops_at_once):
            with stage("preprocess"):
                resized = to_square(some, side)
            yield resized

    def _classify(self, crops: Tensor) -> Tensor:
        """B x 3 x h x w -> B x C."""
        return self._classifier.cosines(self._clip.embed(crops))

    def _objectness(self, image: Image, size: Size) -> Tensor:
        """Theta, side x side in [0, 1]. What is upsampled to pixels are FOUND's logits, as its authors do."""
        assert self._found is not None
        plan = WindowPlan(short_side=self._parameters.objectness_side or min(size))
        canvas = to_canvas(image, plan.resized(size), self._networks.device)[None]
        if self._parameters.objectness == "found":
            theta = self._upsampled(self._found.logits(canvas), canvas).sigmoid()
        else:
            theta = self._upsampled(self._found.seed_objectness(canvas), canvas)
        side = self._parameters.image_side
        return F.interpolate(theta, size=(side, side), mode="bilinear", align_corners=False)[0, 0]

    def _upsampled(self, grid: Tensor, canvas: Tensor) -> Tensor:
        """B x h x w of patches -> B x 1 x H x W of the canvas's pixels, without the padding."""
        assert self._found is not None
        patch = self._found.dino.patch_size
        size = (grid.shape[1] * patch, grid.shape[2] * patch)
        padded = F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=False)
        return padded[:, :, : canvas.shape[2], : canvas.shape[3]]


class _PixelClasses:
    """Class probabilities on the square, a few classes at a time.

    grids:  rho_s per scale, C x n x n; weight: Theta, side x side, or None.
    """

    def __init__(self, grids: list[Tensor], side: int, weight: Tensor | None, background: int) -> None:
        self._grids = grids
        self._side = side
        self._weight = weight
        self._background = background
        self._classes = torch.arange(len(grids[0]), device=grids[0].device)
        total = torch.full((side, side), -torch.inf, device=self._classes.device)
        for some in self._classes.split(CLASSES_AT_ONCE):
            total = torch.logaddexp(total, self._logits(some).logsumexp(dim=0))
        self._total = total  # log of the softmax's denominator

    def peaks(self) -> Tensor:
        """The highest probability of each class, C.

        Into one tensor: a small one kept from every round would keep the next from using the memory that it had.
        """
        highest = self._total.new_empty(len(self._classes))
        for some in self._classes.split(CLASSES_AT_ONCE):
            highest[some] = self.of(some).amax(dim=(1, 2))
        return highest

    @staged("classify")
    def of(self, chosen: Tensor) -> Tensor:
        """Indices of n classes -> n x side x side."""
        return (self._logits(chosen) - self._total).exp()

    def _logits(self, chosen: Tensor) -> Tensor:
        size = (self._side, self._side)
        laid = [F.interpolate(grid[None, chosen], size=size, mode="bilinear")[0] for grid in self._grids]
        scores = sum(laid[1:], laid[0]) / len(laid)
        if self._weight is not None:
            is_background = (chosen == self._background)[:, None, None]
            scores = scores * torch.where(is_background, 1 - self._weight, self._weight)
        return LOGIT_SCALE * scores


def photo_of(name: str) -> tuple[str]:
    """The paper's prompt. A vowel takes "an"; the authors' own code never writes it."""
    return (f"a photo of {'an' if name[:1].lower() in 'aeiou' else 'a'} {{}}",)
