"""mini-dino: the embedded pack's model for the DINO role, a small self-supervised ViT on a frozen convolutional stem.

Tokens are projections of the stem's features at stride 16 and 32, one per 16 x 16 pixels; pre-norm blocks with a class
token follow, named as in timm. The ViT was trained without labels (`annotator.training.embedded.dino`), the stem on
ImageNet's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.clip import resize_positions
from annotator.models.compat import prepare_torchvision
from annotator.models.dino import Dino
from annotator.models.mini_clip import IMAGE_MEAN, IMAGE_STD, PATCH, STEM_CHANNELS, Stem, StemFeatures
from annotator.models.weights import load_strict

prepare_torchvision()

from timm.layers.attention import Attention  # noqa: E402
from timm.models.vision_transformer import Block  # noqa: E402

COMPONENTS16, COMPONENTS32 = 64, 192
WIDTH = COMPONENTS16 + COMPONENTS32
HEADS = 4
DEPTH = 3
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
    """The part of timm's `Block` that leads to q, k and v; nothing behind it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = Attention(WIDTH, num_heads=HEADS, qkv_bias=True)


def whole_block() -> nn.Module:
    return Block(WIDTH, HEADS, qkv_bias=True)


class MiniDino(nn.Module):
    """Named as in timm's `VisionTransformer`, so that `Dino` runs it."""

    def __init__(self, depth: int = DEPTH) -> None:
        super().__init__()
        self.embed_dim = WIDTH
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID**2, WIDTH))
        self.norm_pre = nn.Identity()
        self.blocks = nn.ModuleList([*(whole_block() for _ in range(depth - 1)), LastBlock()])

    def tokens(self, patches: Tensor) -> Tensor:
        """B x D x h x w -> B x (1 + P) x D, what enters the first block: class token and patches, with positions."""
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        return x + resize_positions(self.pos_embed[0], (patches.shape[2], patches.shape[3])).to(x.dtype)

    def qkv(self, features: StemFeatures) -> tuple[Tensor, ...]:
        """From cached features what `Dino` reads off photos: q, k and v of the last block, B x (1 + P) x D each."""
        x = self.tokens(self.patch_embed.proj.mix(features))
        *before, last = self.blocks
        for block in before:
            x = block(x)
        return tuple(last.attn.qkv(last.norm1(x)).chunk(3, dim=-1))  # type: ignore[operator, union-attr]


def load_mini_dino(state: Mapping[str, Tensor], stem_state: Mapping[str, Tensor]) -> Dino:
    """state: `mini_dino.safetensors`, without the stem; its depth is read off it. stem_state: as for
    `load_mini_clip`."""
    vit = MiniDino(depth=max(1, sum(name.endswith(".attn.qkv.weight") for name in state)))
    stem = vit.patch_embed.proj.stem.load(stem_state)
    fixed = {f"patch_embed.proj.stem.{name}": tensor for name, tensor in stem.state_dict().items()}
    load_strict(vit, {**state, **fixed}, role="dino", what="mini-dino")
    stem.fold()
    return Dino(vit, IMAGE_MEAN, IMAGE_STD, position_offset=0.0)  # as it was trained: `MiniDino.tokens`
