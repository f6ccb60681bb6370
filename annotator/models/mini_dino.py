"""mini-dino: the embedded pack's model for the DINO role; not a trained ViT, and weaker than one.

Its patches are principal components of the frozen convolutional stem's features, and one attention layer reads them:
keys and values are the components, layer-normed, and the class token's query is a fixed direction per head, fitted to
how strongly the stem responds to any of its classes. Nothing else was learned, but the stem was, from ImageNet labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.dino import Dino
from annotator.models.mini_clip import IMAGE_MEAN, IMAGE_STD, PATCH, STEM_CHANNELS, Stem, StemFeatures
from annotator.models.weights import load_strict

COMPONENTS16, COMPONENTS32 = 64, 192
WIDTH = COMPONENTS16 + COMPONENTS32
HEADS = 4
GRID = 14


class Components(nn.Module):
    """B x 3 x H x W -> B x WIDTH x H/16 x W/16; standardisation is folded into the projections."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.stride16 = nn.Conv2d(STEM_CHANNELS[1], COMPONENTS16, kernel_size=1)
        self.stride32 = nn.Conv2d(STEM_CHANNELS[2], COMPONENTS32, kernel_size=1)

    def mix(self, features: StemFeatures) -> Tensor:
        fine, coarse = self.stride16(features.stride16), self.stride32(features.stride32)
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([fine, coarse], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(self.stem(images))


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = Components()
        self.patch_size = (PATCH, PATCH)


class LastBlock(nn.Module):
    """The part of timm's `Block` that leads to q, k and v."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = Attention(WIDTH, num_heads=HEADS, qkv_bias=True)


class MiniDino(nn.Module):
    """Named as in timm's `VisionTransformer`; one block deep, positions all zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim = WIDTH
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID**2, WIDTH))
        self.norm_pre = nn.Identity()
        self.blocks = nn.ModuleList([LastBlock()])


def load_mini_dino(state: Mapping[str, Tensor], stem_state: Mapping[str, Tensor]) -> Dino:
    """state: `mini_dino.safetensors`, without the stem. stem_state: as for `load_mini_clip`."""
    vit = MiniDino()
    stem = vit.patch_embed.proj.stem.load(stem_state)
    fixed = {f"patch_embed.proj.stem.{name}": tensor for name, tensor in stem.state_dict().items()}
    load_strict(vit, {**state, **fixed}, role="dino", what="mini-dino")
    return Dino(vit, IMAGE_MEAN, IMAGE_STD)
