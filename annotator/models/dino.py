"""DINO: a self-supervised ViT (timm) whose last attention layer tells which patches belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from annotator.models.backbone import Backbone, to_whole_patches
from annotator.models.clip import resize_positions
from annotator.models.compat import prepare_torchvision
from annotator.models.weights import load_strict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
POSITION_OFFSET = 0.1
"""DINO's own code scales its positions by (patches + 0.1) / trained patches, to be safe from rounding. That shifts them
a little, and FOUND's decoder and CLIP-DINOiser's heads were trained on the result."""


@dataclass(frozen=True)
class LastAttention:
    """The last attention layer on patches, per head: B x heads x P x c, P = h x w of the padded input.

    class_attention: B x heads x P, what the class token looks at (softmax over all tokens, its own included).
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    class_attention: Tensor
    grid: tuple[int, int]

    def as_map(self, per_head: Tensor) -> Tensor:
        """B x heads x P x c -> B x (heads * c) x h x w."""
        stacked = per_head.permute(0, 1, 3, 2).flatten(1, 2)
        return stacked.reshape(*stacked.shape[:2], *self.grid)


class Dino(Backbone):
    """A timm VisionTransformer, run up to its last q/k/v. Any input size: positions are resized.

    position_offset: see `annotator.models.clip.resize_positions`.
    """

    vit: Any
    mean: Tensor
    std: Tensor
    block_passes = ("_blocks",)

    def __init__(
        self,
        vit: nn.Module,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        position_offset: float = POSITION_OFFSET,
    ) -> None:
        super().__init__()
        self.position_offset = position_offset
        self.vit = vit.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.patch_size: int = self.vit.patch_embed.patch_size[0]
        self.width: int = self.vit.embed_dim

    def last_attention(self, images: Tensor) -> LastAttention:
        """B x 3 x H x W RGB in [0, 1]; mean/std, then zeros (the mean colour) right/bottom up to whole patches."""
        padded = to_whole_patches((images - self.mean) / self.std, self.patch_size)
        with self.autocast(images.device):
            patches = self.vit.patch_embed.proj(padded)  # B x D x h x w
            grid = (patches.shape[-2], patches.shape[-1])
            x = torch.cat([self.vit.cls_token.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
            x = self.vit.norm_pre(x + resize_positions(self.vit.pos_embed[0], grid, self.position_offset))
            qkv = self._blocks(x)
        heads = self.vit.blocks[-1].attn.num_heads
        q, k, v = qkv.reshape(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).float()
        class_logits = (q[:, :, :1] * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # B x heads x 1 x (1 + P)
        class_attention = class_logits.softmax(dim=-1)[:, :, 0, 1:]
        return LastAttention(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], class_attention, grid)

    def _blocks(self, x: Tensor) -> Tensor:
        """B x (1 + P) x D tokens -> B x (1 + P) x 3D, what the last attention layer makes of them."""
        for block in self.vit.blocks[:-1]:
            x = block(x)
        last = self.vit.blocks[-1]
        qkv: Tensor = last.attn.qkv(last.norm1(x))
        return qkv


def load_timm_dino(architecture: str, state: dict[str, Tensor]) -> Dino:
    """A timm architecture by name (`vit_base_patch16_224.dino`, ...), with its weights."""
    prepare_torchvision()
    import timm

    vit = timm.create_model(architecture, pretrained=False, num_classes=0, weight_init="skip")
    load_strict(vit, state, role="dino", what=architecture)
    return Dino(vit)
