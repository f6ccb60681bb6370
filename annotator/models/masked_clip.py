"""CLIP's embedding of a segment in its photo: attention kept to the segment, the whole photo's view subtracted.

Zero-guidance segmentation, section 2. Symbols: S segments, T = 1 + h * w tokens, D width of the transformer, d of the
joint space; M the mask on tokens, S_l and w_l saliency and weight of layer l.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.errors import ConfigError
from annotator.limits import Limits, check_fields
from annotator.models.clip import DenseClip
from annotator.models.devices import SEGMENTS_AT_ONCE

SIGMA = 2.5**0.5  # 2 sigma^2 = 5
LAST_SHARE = 6  # without a choice, the last sixth of the layers sees the mask


@dataclass(frozen=True)
class SegmentOptions:
    """baseline: `full` is the paper's method, the others are rows of its ablation.
    saliency: whether S_l compares outputs of the attention layer (the paper) or its weights (the authors' code, which
              also subtracts there, so that the output projection's bias stays).
    first_masked: the first layer that sees the mask, counted from 1; None: the first of the last sixth.
    sigma: of the bell that turns S_l into w_l."""

    baseline: Literal["full", "no-subtraction", "crop-and-mask"] = "full"
    saliency: Literal["output", "attention"] = "output"
    first_masked: int | None = None
    sigma: Annotated[float, Limits(0.001, 1000)] = SIGMA

    def __post_init__(self) -> None:
        check_fields(self)


def embed_segments(
    clip: DenseClip,
    image: Tensor,
    masks: Tensor,
    options: SegmentOptions | None = None,
    at_once: int = SEGMENTS_AT_ONCE,
) -> Tensor:
    """image: 3 x H x W RGB in [0, 1]; masks: S x h x w in [0, 1] over the same photo, of any size -> S x d, normalised.

    at_once: segments that share a batch.
    """
    return SegmentEmbedder(clip, image, options or SegmentOptions(), at_once).embed(masks)


class SegmentEmbedder:
    """Of one photo; the layers that see no mask run once, however many segments are asked for."""

    def __init__(
        self, clip: DenseClip, image: Tensor, options: SegmentOptions, at_once: int = SEGMENTS_AT_ONCE
    ) -> None:
        self._clip = clip
        self._image = image
        self._options = options
        self._at_once = at_once
        blocks = clip.visual.transformer.resblocks
        first = first_masked_layer(len(blocks), options.first_masked)
        self._masked_blocks = blocks[first - 1 :]
        if options.baseline != "crop-and-mask":
            with clip.autocast(image.device):
                x, self._grid = clip.tokens(clip.normalise(to_square(image[None], clip.image_size)))
                for block in blocks[: first - 1]:
                    x = block(x)
            self._shared = x  # 1 x T x D

    def embed(self, masks: Tensor) -> Tensor:
        """S x h x w -> S x d, normalised."""
        if not len(masks):
            return masks.new_zeros((0, self._clip.visual.proj.shape[1]), dtype=torch.float32)
        parts = masks.to(self._image.device).split(self._at_once)
        embeddings = [
            self._crops(part) if self._options.baseline == "crop-and-mask" else self._embed(part) for part in parts
        ]
        return F.normalize(torch.cat(embeddings), dim=1)

    def _embed(self, masks: Tensor) -> Tensor:
        on_grid = area_average(masks, self._grid).flatten(1)
        mask = F.pad(on_grid, (1, 0), value=1.0)  # S x T, the class token's first
        visual = self._clip.visual
        x = self._shared
        with self._clip.autocast(x.device):
            for block in self._masked_blocks:
                x = x + block.ls_1(self._attention(block, x, mask))
                if block is self._masked_blocks[-1]:
                    x = x[:, :1]
                x = x + block.ls_2(block.mlp(block.ln_2(x)))
            embedding: Tensor = visual.ln_post(x[:, 0]) @ visual.proj
        return embedding.float()

    def _attention(self, block: Any, x: Tensor, mask: Tensor) -> Tensor:
        """masked - w * (class token's unmasked output), S x T x D. x: S x T x D, or 1 x T x D where all share it."""
        layer = block.attn
        qkv = F.linear(block.ln_1(x), layer.in_proj_weight, layer.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each S x heads x T x c
        bias = mask.log().to(q.dtype)[:, None, None]  # exp(x) M / sum exp(x) M = softmax(x + log M)
        every = (len(mask), -1, -1, -1)
        attended = F.scaled_dot_product_attention(q.expand(every), k.expand(every), v.expand(every), attn_mask=bias)
        masked = _concatenated(attended)
        if self._options.baseline == "no-subtraction":
            return layer.out_proj(masked)
        unmasked = _concatenated(F.scaled_dot_product_attention(q, k, v))
        if self._options.saliency == "attention":
            logits = (q @ k.transpose(-2, -1)).float() / q.shape[-1] ** 0.5
            weights, masked_weights = logits.softmax(dim=-1), (logits + bias).softmax(dim=-1)
            similarity = F.cosine_similarity(masked_weights, weights, dim=-1).mean(dim=(1, 2))
            return layer.out_proj(masked - self._weight(similarity) * unmasked[:, :1])
        masked, unmasked = layer.out_proj(masked), layer.out_proj(unmasked)
        similarity = F.cosine_similarity(masked.float(), unmasked.float(), dim=-1).mean(dim=1)
        return masked - self._weight(similarity) * unmasked[:, :1]

    def _weight(self, saliency: Tensor) -> Tensor:
        """w = exp(-(S + 1)^2 / 2 sigma^2), S x 1 x 1."""
        return torch.exp(-((saliency + 1) ** 2) / (2 * self._options.sigma**2))[:, None, None]

    def _crops(self, masks: Tensor) -> Tensor:
        """Each segment alone on CLIP's mean colour, cut out along its box, as a photo of its own."""
        size = self._image.shape[1:]
        crops = []
        for mask in masks:
            full = F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0]
            alone = full * self._image + (1 - full) * self._clip.mean[0]
            (y0, y1), (x0, x1) = (_extent(full.amax(dim=axis)) for axis in (1, 0))
            crops.append(to_square(alone[None, :, y0:y1, x0:x1], self._clip.image_size))
        return self._clip.embed(torch.cat(crops))


def first_masked_layer(depth: int, chosen: int | None) -> int:
    """Counted from 1, of `depth` layers."""
    if chosen is not None and not 1 <= chosen <= depth:
        raise ConfigError(f"first_masked: expected one of CLIP's {depth} layers, counted from 1, but got {chosen}")
    return chosen or depth - max(depth // LAST_SHARE, 1) + 1


def _concatenated(heads: Tensor) -> Tensor:
    """S x heads x T x c -> S x T x D."""
    return heads.transpose(1, 2).flatten(2)


def _extent(present: Tensor) -> tuple[int, int]:
    """First and one past the last index that is not zero; all where none is."""
    found = present.nonzero()
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, len(present))


def to_square(images: Tensor, side: int) -> Tensor:
    """B x 3 x H x W -> B x 3 x side x side, the ratio given up, as CLIP's class token was trained: bicubic with
    antialiasing, whose kernel is Pillow's. Without it pixels differ by up to 25 of 255."""
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)


def area_average(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """S x H x W -> S x h x w: the mean of each cell, pixels that it cuts counted by their part. float32."""
    rows, columns = (_overlaps(length, cells) for length, cells in zip(masks.shape[1:], grid, strict=True))
    averages = rows @ masks.cpu().double() @ columns.T  # in float64, so that a full cell is exactly 1
    return averages.float().to(masks.device)


def _overlaps(length: int, cells: int) -> Tensor:
    """cells x length: the share of each cell that each pixel fills."""
    cell, pixel = torch.arange(cells, dtype=torch.float64)[:, None], torch.arange(length, dtype=torch.float64)
    start, end = cell * length / cells, (cell + 1) * length / cells
    overlap = torch.minimum(end, pixel + 1) - torch.maximum(start, pixel)
    return overlap.clamp(min=0) * cells / length
