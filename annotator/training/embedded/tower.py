"""The tower's paths on cached stem features, with gradients: dense tokens, class token, class token under a mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.clip import resize_positions
from annotator.models.mini_clip import MiniTower


def start(tower: MiniTower, names: Tensor) -> None:
    """Small residual branches, and a path that leads the implied name straight to the output."""
    conv1, blocks = tower.conv1, tower.transformer.resblocks
    for block in blocks:
        nn.init.normal_(block.attn.out_proj.weight, std=0.02 / math.sqrt(2 * len(blocks)))
        nn.init.normal_(block.mlp.c_proj.weight, std=0.02 / math.sqrt(2 * len(blocks)))
        nn.init.normal_(block.mlp.c_fc.weight, std=0.02)
    nn.init.normal_(tower.positional_embedding, std=0.02)
    nn.init.normal_(tower.class_embedding, std=0.02)
    with torch.no_grad():
        conv1.names.copy_(names)
        _, _, directions = torch.linalg.svd(names - names.mean(dim=0), full_matrices=False)
        basis = directions[: conv1.name_projection.out_features]  # width x d
        conv1.name_projection.weight.copy_(6 * basis)
        conv1.name_projection.bias.zero_()
        tower.proj.copy_(basis)


def trunk(tower: MiniTower, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """B x D x h x w of `conv1` -> B x (1 + P) x D, what enters the last block; and what the heads read, B x P x D."""
    grid = (tokens.shape[2], tokens.shape[3])
    x = tokens.flatten(2).transpose(1, 2)
    x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    x = intermediate = tower.ln_pre(x + resize_positions(tower.positional_embedding, grid).to(x.dtype))
    blocks = tower.transformer.resblocks
    for index, block in enumerate(blocks[:-1]):
        x = x + block.attention(block.ln_1(x))
        after_attention = block.ln_2(x)
        if index == len(blocks) - 3:
            intermediate = after_attention
        x = x + block.mlp(after_attention)
    return x, intermediate[:, 1:]


def dense(tower: MiniTower, x: Tensor) -> Tensor:
    """The value path of the last block: B x (1 + P) x D -> B x P x d, normalised."""
    _, _, values = _attention_inputs(tower, x)
    return _finish(tower, x, values)[:, 1:]


def class_token(tower: MiniTower, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
    """-> B x d, normalised. mask: B x P region shares; then masked, and masked less the photo's own output."""
    q, k, v = (
        t.unflatten(2, (tower.transformer.resblocks[-1].attn.num_heads, -1)).transpose(1, 2)
        for t in _attention_inputs(tower, x)
    )
    if mask is None:
        out = F.scaled_dot_product_attention(q[:, :, :1], k, v).transpose(1, 2).flatten(2)
        return (_finish(tower, x[:, :1], out)[:, 0],)
    logits = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float()
    weights = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    shares = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)[:, None, None]
    out_proj = tower.transformer.resblocks[-1].attn.out_proj
    full, masked = (
        out_proj(((w / w.sum(dim=-1, keepdim=True).clamp(min=1e-6)).to(v.dtype) @ v).transpose(1, 2).flatten(2))
        for w in (weights, weights * shares)
    )
    saliency = F.cosine_similarity(full.float(), masked.float(), dim=-1).mean(dim=1)
    less = torch.exp(-((saliency + 1) ** 2) / 5)[:, None, None].to(full.dtype) * full[:, :1]
    block = tower.transformer.resblocks[-1]
    return tuple(_head(tower, block, x[:, :1] + m)[:, 0] for m in (masked[:, :1], masked[:, :1] - less))


def _attention_inputs(tower: MiniTower, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    block = tower.transformer.resblocks[-1]
    q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
    return q, k, v


def _finish(tower: MiniTower, x: Tensor, attended: Tensor) -> Tensor:
    block = tower.transformer.resblocks[-1]
    return _head(tower, block, x + block.attn.out_proj(attended))


def _head(tower: MiniTower, block: nn.Module, x: Tensor) -> Tensor:
    x = x + block.mlp(block.ln_2(x))  # type: ignore[operator]
    return F.normalize((tower.ln_post(x) @ tower.proj).float(), dim=-1)
