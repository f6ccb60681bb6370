"""LR-ASPP (Howard et al., Searching for MobileNetV3, ICCV 2019, section 6.4) on a timm backbone, and its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.errors import ConfigError, WeightsError
from annotator.models.compat import prepare_torchvision
from annotator.models.packs import read_pack
from annotator.models.sources import locate
from annotator.models.upsample import Winners
from annotator.models.weights import read_state
from annotator.models.windows import HeldMaps, WindowPlan, scan
from annotator.training.provenance import read_provenance, save_weights

PACKAGED = "tf_efficientnet_lite2"
"""The backbone whose ImageNet weights come as a package with annotate."""
LOW, HIGH = 8, 32  # strides of the features that the head reads
INNER = 128  # channels between the features and the classes
LONGEST = 4096  # pixels of a photo's long side once its short side is `short_side`


@dataclass(frozen=True)
class Kind:
    """What is needed to build a model again. short_side: photos are shown to it with this short side, in pixels."""

    classes: tuple[str, ...]
    backbone: str = PACKAGED
    short_side: int = 448


class LiteHead(nn.Module):
    """Figure 10 of the paper: what is where, gated by what the whole photo shows, plus detail.

    The paper pools windows of 49 x 49 features; a photo has fewer here, so the mean is over all of them. The norm
    before the last convolution is one that this could do itself: backbones differ in the scale of their features.
    """

    def __init__(self, low: int, high: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(high, INNER, 1, bias=False), nn.BatchNorm2d(INNER), nn.ReLU())
        self.gate = nn.Sequential(nn.Conv2d(high, INNER, 1, bias=False), nn.Sigmoid())
        self.of_high = nn.Conv2d(INNER, classes, 1)
        self.of_low = nn.Sequential(nn.BatchNorm2d(low, affine=False), nn.Conv2d(low, classes, 1))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """B x low x h x w at stride 8 and B x high x h/4 x w/4 -> B x classes x h x w logits."""
        gated = self.features(high) * self.gate(high.mean(dim=(2, 3), keepdim=True))
        gated = F.interpolate(gated, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.of_high(gated) + self.of_low(low)


class Segmenter(nn.Module):
    """pretrained: fill the backbone with timm's own weights, which are downloaded."""

    mean: Tensor
    std: Tensor

    def __init__(self, kind: Kind, *, pretrained: bool = False) -> None:
        super().__init__()
        prepare_torchvision()
        import timm

        if not timm.is_model(kind.backbone):
            raise ConfigError(f"expected a backbone that timm knows, but found {kind.backbone!r}")
        self.kind = kind
        self.backbone = timm.create_model(kind.backbone, features_only=True, pretrained=pretrained)
        strides, channels = self.backbone.feature_info.reduction(), self.backbone.feature_info.channels()
        if not {LOW, HIGH} <= set(strides):
            raise ConfigError(f"{kind.backbone}: expected features at strides {LOW} and {HIGH}, but found {strides}")
        self._low, self._high = strides.index(LOW), strides.index(HIGH)
        self.head = LiteHead(channels[self._low], channels[self._high], len(kind.classes))
        seen = timm.get_pretrained_cfg(kind.backbone)
        self.register_buffer("mean", torch.tensor(seen.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(seen.std)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> Segmenter:
        """The backbone's batch norms keep the statistics of ImageNet: batches are small here."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x H x W RGB in [0, 1] -> B x classes x H/8 x W/8 logits, rounded up."""
        features = self.backbone((images - self.mean) / self.std)
        return self.head(features[self._low], features[self._high])

    @torch.inference_mode()
    def winners(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]], batch: int = 1
    ) -> Iterator[Winners]:
        """The best class per pixel of each photo: softmax, bilinear upsampling to (height, width), maximum.

        images: H x W x 3 uint8 each. batch: photos of one size that the network sees at once; never changes a mask.
        """
        plan = WindowPlan(self.kind.short_side, LONGEST, LONGEST, LONGEST)  # one window: the whole photo
        score = partial(_probabilities, self)
        yield from scan(images, sizes, plan, score, patch_size=LOW, batch=batch, device=self.mean.device)


def _probabilities(model: Segmenter, images: Tensor) -> list[HeldMaps]:
    return [HeldMaps(probabilities) for probabilities in model(images).float().softmax(dim=1)]


def new_model(kind: Kind, *, pretrained: bool = False) -> Segmenter:
    """A backbone that knows ImageNet, and a head that knows nothing."""
    if pretrained:
        return Segmenter(kind, pretrained=True)
    if kind.backbone != PACKAGED:
        raise ConfigError(f"--backbone {kind.backbone}: only {PACKAGED} comes with its weights; add --pretrained")
    from annotator.models.mini_clip import Stem

    model = Segmenter(kind)
    file = locate("clip.stem", read_pack("embedded").role("clip", "segmenter").files["clip.stem"])
    whole = Stem().load(read_state(file.path, file.source.format)).net.state_dict()
    model.backbone.load_state_dict({name: whole[name] for name in model.backbone.state_dict()})
    return model


def save_model(model: Segmenter, file: Path) -> None:
    save_weights(model.state_dict(), file, asdict(model.kind))


def load_model(file: Path) -> Segmenter:
    kind = read_provenance(file)
    if set(kind) != set(Kind.__dataclass_fields__):
        raise WeightsError(f"{file}: expected a model that segmenter.train wrote, but found other weights")
    model = Segmenter(Kind(**{**kind, "classes": tuple(kind["classes"])}))
    model.load_state_dict(read_state(file, "plain"))
    return model.eval()
