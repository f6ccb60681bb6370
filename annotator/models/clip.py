"""Dense CLIP: pixel-wise features from an image classifier, without retraining it.

Works on any open_clip-style `VisionTransformer` (class token, `conv1`, pre-norm blocks with fused q/k/v,
`ln_post`, `proj`). Symbols: B images, P = h x w patches, D width of the transformer, d of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.backbone import Backbone, to_whole_patches
from annotator.models.compat import prepare_torchvision
from annotator.models.fp32 import exact_fp32
from annotator.models.text_cache import TextCache
from annotator.models.weights import load_strict

PROMPTS_AT_ONCE = 256


@dataclass(frozen=True)
class DenseFeatures:
    """What one forward pass yields per patch, on the token grid of the padded input.

    maskclip:     B x d x h x w, in the joint space, not normalised.
    intermediate: B x D x h x w, output of `ln_2` in the third block from the end.
    keys:         B x D x h x w, keys of the last attention layer, heads concatenated.
    """

    maskclip: Tensor
    intermediate: Tensor
    keys: Tensor


class DenseClip(Backbone):
    """A CLIP vision tower with dense outputs, and its text side.

    text:       list of prompts -> N x d embeddings, not normalised.
    weights_id: names these weights in the text-embedding cache (their SHA-256); "" keeps nothing on disk.
    """

    visual: Any
    mean: Tensor
    std: Tensor
    block_passes = ("_dense_blocks", "_embed_blocks")

    def __init__(
        self,
        visual: nn.Module,
        text: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        weights_id: str = "",
    ) -> None:
        super().__init__()
        self.visual = visual.eval().requires_grad_(False)
        self.text = text.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.patch_size: int = self.visual.patch_size[0]
        self.image_size: int = self.visual.image_size[0]
        self._text_cache = TextCache(weights_id)

    @property
    def device(self) -> torch.device:
        return self.visual.proj.device

    def normalise(self, images: Tensor) -> Tensor:
        """B x 3 x H x W RGB in [0, 1] -> padded right/bottom with zeros to whole patches, then mean/std."""
        return (to_whole_patches(images, self.patch_size) - self.mean) / self.std

    def dense(self, images: Tensor) -> DenseFeatures:
        """B x 3 x H x W RGB in [0, 1] -> per-patch features, in one forward pass without the last attention."""
        with self.autocast(images.device):
            x, grid = self.tokens(self.normalise(images))
            return DenseFeatures(*(_to_map(tokens, grid) for tokens in self._dense_blocks(x)))

    def embed(self, images: Tensor) -> Tensor:
        """B x 3 x H x W RGB in [0, 1] -> B x d global embeddings (class token), not normalised."""
        with self.autocast(images.device):
            x, _ = self.tokens(self.normalise(images))
            return self._embed_blocks(x).float()

    def tokens(self, normalised: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """-> B x (1 + P) x D tokens that enter the first block, and their (h, w)."""
        patches = self.visual.conv1(normalised)  # B x D x h x w
        height, width = patches.shape[-2:]
        x = patches.flatten(2).transpose(1, 2)
        class_token = self.visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        positions = resize_positions(self.visual.positional_embedding, (height, width))
        x = torch.cat([class_token, x], dim=1) + positions.to(x.dtype)
        return self.visual.ln_pre(x), (height, width)

    def _dense_blocks(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B x (1 + P) x D tokens -> those of `DenseFeatures`: maskclip, intermediate, keys."""
        blocks = self.visual.transformer.resblocks
        tap = len(blocks) - 3
        intermediate = x
        for index, block in enumerate(blocks[:-1]):
            x = x + block.ls_1(attend(block.attn, block.ln_1(x)))
            after_attention = block.ln_2(x)
            if index == tap:
                intermediate = after_attention
            x = x + block.ls_2(block.mlp(after_attention))
        last = blocks[-1]
        attended = last.ln_1(x)
        _, key_weight, value_weight = last.attn.in_proj_weight.chunk(3)
        _, key_bias, value_bias = last.attn.in_proj_bias.chunk(3)
        keys = F.linear(attended, key_weight, key_bias)
        x = x + last.ls_1(last.attn.out_proj(F.linear(attended, value_weight, value_bias)))
        x = x + last.ls_2(last.mlp(last.ln_2(x)))
        return self.visual.ln_post(x) @ self.visual.proj, intermediate, keys

    def _embed_blocks(self, x: Tensor) -> Tensor:
        """B x (1 + P) x D tokens -> B x d."""
        blocks = self.visual.transformer.resblocks
        for block in blocks:
            asking = 1 if block is blocks[-1] else None  # nothing reads the last layer's patches
            x = x[:, :asking] + block.ls_1(attend(block.attn, block.ln_1(x), asking))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        embedding: Tensor = self.visual.ln_post(x[:, 0]) @ self.visual.proj
        return embedding

    def text_embeddings(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """One embedding per name: mean over templates of normalised text embeddings, normalised. N x d.

        In float32 whatever the precision. Kept on disk, so that a second run embeds nothing.
        """
        return self._text_cache.get(names, templates, self._embed_names, self.device).to(self.device)

    def _embed_names(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        rows = []
        with exact_fp32(), torch.autocast(self.device.type, enabled=False):
            for name in names:
                prompts = self.text([template.replace("{}", name) for template in templates]).float()
                rows.append(F.normalize(F.normalize(prompts, dim=-1).mean(dim=0), dim=-1))
        return torch.stack(rows).cpu()


def attend(layer: Any, x: Tensor, asking: int | None = None) -> Tensor:
    """Self-attention by an `nn.MultiheadAttention`, B x T x D; for the first `asking` tokens alone, or for all.

    The layer's own forward pass turns tokens before images; its products then run image by image.
    """
    width = x.shape[-1]
    q = F.linear(x[:, :asking], layer.in_proj_weight[:width], layer.in_proj_bias[:width])
    kv = F.linear(x, layer.in_proj_weight[width:], layer.in_proj_bias[width:])
    k, v = kv.unflatten(-1, (2, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each B x heads x T x c
    attended = F.scaled_dot_product_attention(q.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2), k, v)
    return layer.out_proj(attended.transpose(1, 2).flatten(2))


def resize_positions(positions: Tensor, grid: tuple[int, int], offset: float = 0.0) -> Tensor:
    """(1 + g*g) x D position embeddings -> (1 + h*w) x D: patches bicubically, the class token's row kept.

    offset: in patches; the square is scaled by (h + offset) / g and (w + offset) / g.
    """
    side = round((len(positions) - 1) ** 0.5)
    if grid == (side, side):
        return positions
    patches = positions[1:].T.reshape(1, -1, side, side).float()
    target: Any = {"size": grid}
    if offset:
        target = {"scale_factor": ((grid[0] + offset) / side, (grid[1] + offset) / side)}
    resized = F.interpolate(patches, **target, mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized.flatten(2)[0].T.to(positions.dtype)])


def _to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """B x (1 + P) x C -> B x C x h x w, class token dropped, float32."""
    patches = tokens[:, 1:].transpose(1, 2)
    return patches.reshape(*patches.shape[:2], *grid).float()


class OpenClipText(nn.Module):
    """The text tower of an open_clip model with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    def forward(self, prompts: list[str]) -> Tensor:
        """N prompts -> N x d, not normalised."""
        device = next(self.model.parameters()).device
        batches = (prompts[start : start + PROMPTS_AT_ONCE] for start in range(0, len(prompts), PROMPTS_AT_ONCE))
        return torch.cat([self._encode(self.tokenizer(batch).to(device)) for batch in batches])

    def _encode(self, tokens: Tensor) -> Tensor:
        """The model's `encode_text`; of CLIP's own kind of tower only as far as the longest prompt goes, since
        causal attention keeps what follows the end-of-text token from mattering."""
        model = self.model
        if model.text_pool_type != "argmax" or model.attn_mask is None or isinstance(model.text_projection, nn.Linear):
            return model.encode_text(tokens)
        ends = tokens.argmax(dim=1)  # end-of-text has the highest number
        length = int(ends.max()) + 1
        x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        return x[torch.arange(len(x), device=x.device), ends] @ model.text_projection


def load_open_clip(
    architecture: str, state: dict[str, Tensor], mean: Sequence[float], std: Sequence[float], weights_id: str = ""
) -> DenseClip:
    """An open_clip architecture by name, with the weights of its full state dict (vision and text)."""
    prepare_torchvision()
    import open_clip

    model = open_clip.CLIP(**open_clip.get_model_config(architecture))
    load_strict(model, state, role="clip", what=architecture)
    return DenseClip(model.visual, OpenClipText(model, open_clip.get_tokenizer(architecture)), mean, std, weights_id)
