"""Fits mini-dino in closed form: whitened principal components of stem features, and the class token's query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.mini_clip import Stem, StemFeatures
from annotator.models.mini_dino import HEADS, WIDTH, MiniDino

WHITENING = 0.5  # 0 keeps each component's spread, 1 makes all alike
SHARPNESS = 2.0  # of the class token's attention, in standard deviations of the stem's response
RIDGE = 1e-2


def features_of(shard: dict[str, Tensor]) -> StemFeatures:
    return StemFeatures(*(shard[name].float() for name in StemFeatures._fields))


@torch.no_grad()
def fit_dino(shards: Sequence[Path], stem: dict[str, Tensor]) -> MiniDino:
    """From cached views; which masks or labels they carry is not looked at."""
    vit = MiniDino()
    proj = vit.patch_embed.proj
    proj.stem.load(stem)
    loaded = [features_of(torch.load(file, weights_only=True)) for file in shards]
    _principal_components(proj.stride16, [f.stride16 for f in loaded])
    _principal_components(proj.stride32, [f.stride32 for f in loaded])
    block: Any = vit.blocks[0]
    for parameter in block.attn.parameters():
        parameter.zero_()
    block.attn.qkv.weight[WIDTH : 2 * WIDTH] = block.attn.qkv.weight[2 * WIDTH :] = torch.eye(WIDTH)
    tokens = torch.cat([block.norm1(proj.mix(f).flatten(2).transpose(1, 2)) for f in loaded]).flatten(0, 1)
    response = torch.cat([_response(proj.stem, f) for f in loaded]).flatten()
    for head in range(HEADS):
        part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        keys = tokens[:, part] - tokens[:, part].mean(dim=0)
        gram = keys.T @ keys / len(keys)
        direction = torch.linalg.solve(gram + RIDGE * torch.eye(len(gram)), keys.T @ response / len(keys))
        spread = (keys @ direction).std()
        block.attn.qkv.bias[part] = SHARPNESS * direction / spread * (WIDTH // HEADS) ** 0.5
    return vit.eval().requires_grad_(False)


def _principal_components(into: nn.Conv2d, maps: Sequence[Tensor]) -> None:
    """Fills a 1 x 1 convolution: standardise, project, whiten; components in an order that mixes them over heads."""
    rows = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])
    mean, spread = rows.mean(dim=0), rows.std(dim=0) + 1e-5
    standard = (rows - mean) / spread
    variances, axes = torch.linalg.eigh(standard.T @ standard / len(rows))
    order = torch.arange(into.out_channels).view(-1, HEADS).T.flatten()
    chosen = variances.argsort(descending=True)[: into.out_channels][order]
    projection = axes[:, chosen] * variances[chosen] ** (-WHITENING / 2) / spread[:, None]
    into.weight.copy_(projection.T[:, :, None, None])
    assert into.bias is not None
    into.bias.copy_(-mean @ projection)


def _response(stem: Stem, features: StemFeatures) -> Tensor:
    """Strongest class logit per location, standardised within each view: B x P."""
    strongest = stem.classify(features.stride32).amax(dim=1, keepdim=True)
    strongest = F.interpolate(strongest, size=features.stride16.shape[-2:], mode="bilinear").flatten(1)
    return (strongest - strongest.mean(dim=1, keepdim=True)) / (strongest.std(dim=1, keepdim=True) + 1e-5)
