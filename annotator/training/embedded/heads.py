"""Trains FOUND's decoder on mini-dino's keys, and CLIP-DINOiser's two heads on mini-clip's intermediate features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.clip import resize_positions
from annotator.models.heads import DinoiserHeads
from annotator.models.mini_clip import MiniTower
from annotator.models.mini_dino import MiniDino
from annotator.training.embedded.dino import features_of

NO_LABEL = 255
GAMMA = 0.2
BATCH = 16
WINDOW = 14
SHARPNESS = 10.0
"""Inference cuts at GAMMA, so the logit is 10 x (cosine - GAMMA) instead of the bare cosine."""


@torch.no_grad()
def keys_of(vit: MiniDino, shard: dict[str, Tensor]) -> Tensor:
    """B x D x h x w."""
    patches = vit.patch_embed.proj.mix(features_of(shard))
    block: Any = vit.blocks[0]
    normed = block.norm1(patches.flatten(2).transpose(1, 2))
    return block.attn.qkv(normed).chunk(3, dim=-1)[1].transpose(1, 2).unflatten(2, patches.shape[-2:])


def token_labels(labels: Tensor) -> Tensor:
    """B x 4h x 4w -> B x h x w: the label at the middle of each token."""
    return labels[:, 2::4, 2::4].long()


def train_found(keys: Tensor, target: Tensor, steps: int = 500, seed: int = 0) -> nn.Conv2d:
    """keys: B x D x h x w; target: B x h x w in [0, 1], -1 where unknown."""
    torch.manual_seed(seed)
    decoder = nn.Conv2d(keys.shape[1], 1, kernel_size=1)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=5e-2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 50, 0.7)
    for _ in range(steps):
        chosen = torch.randint(len(keys), (50,))
        wanted = target[chosen]
        known = wanted >= 0
        loss = F.binary_cross_entropy_with_logits(decoder(keys[chosen])[:, 0][known], wanted[known])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return decoder.requires_grad_(False)


@torch.no_grad()
def intermediate_of(tower: MiniTower, shard: dict[str, Tensor]) -> Tensor:
    """What `DenseClip.dense(...).intermediate` is, from cached features: B x D x h x w."""
    features = features_of(shard)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = tower.conv1.mix(features, tower.conv1.stem.classify(features.stride32))
        grid = (tokens.shape[2], tokens.shape[3])
        x = tokens.flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = tower.ln_pre(x + resize_positions(tower.positional_embedding, grid))
        blocks = tower.transformer.resblocks
        for block in blocks[:-3]:
            x = block(x)
        block = blocks[-3]
        x = block.ln_2(x + block.attention(block.ln_1(x)))
    return x[:, 1:].float().transpose(1, 2).unflatten(2, grid)


def train_heads(
    intermediate: Tensor,
    teacher: Tensor,
    labels: Tensor,
    objectness: Tensor,
    steps: int = 600,
    seed: int = 0,
) -> DinoiserHeads:
    """Binary cross-entropy of both heads.

    teacher:    B x C x h x w, normalised; patches more similar than GAMMA belong together, unless labels tell.
    labels:     B x h x w, 255 where unknown; known patches belong together when their labels agree.
    objectness: B x h x w in [0, 1], -1 where unknown.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    heads = DinoiserHeads(intermediate.shape[1])
    optimiser = torch.optim.AdamW(
        [
            {"params": heads.obj_proj.parameters(), "lr": 1e-3},
            {"params": heads.bkg_decoder.parameters(), "lr": 3e-2},
        ],
        weight_decay=1e-2,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [1e-3, 3e-2], total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        chosen = torch.randint(len(intermediate), (BATCH,))
        y, x = random.integers(0, intermediate.shape[-1] - WINDOW + 1, 2)
        window = (..., slice(y, y + WINDOW), slice(x, x + WINDOW))
        features, label = intermediate[chosen][window].float(), labels[chosen][window].flatten(1)
        similar = F.normalize(heads.affinity_features(features).flatten(2), dim=1)
        similar = similar.mT @ similar
        alike = teacher[chosen][window].float().flatten(2)
        wanted = (alike.mT @ alike > GAMMA).float()
        known = (label != NO_LABEL)[:, :, None] & (label != NO_LABEL)[:, None]
        either = (label > 0)[:, :, None] | (label > 0)[:, None]
        same = label[:, :, None] == label[:, None]
        wanted = torch.where(known & either, same.float(), wanted)
        loss = F.binary_cross_entropy_with_logits(SHARPNESS * (similar - GAMMA), wanted)
        object_logits = heads.bkg_decoder(F.normalize(features, dim=1))[:, 0]
        target = objectness[chosen][window]
        loss = loss + F.binary_cross_entropy_with_logits(object_logits[target >= 0], target[target >= 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return heads.eval().requires_grad_(False)


def shards_in(folder: Path, limit: int | None = None) -> Sequence[Path]:
    return sorted(folder.glob("*.pt"))[:limit]
