"""Every method the plain way, straight from METHODS' equations, as one would write it in an afternoon.

A photo at a time, decoded in full in this process; a window (crop, prompt) at a time through open_clip's own modules;
all classes enlarged to the photo's full size, argmax, and one `pycocotools.encode` per class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F

SHORT, LONG, WINDOW, STRIDE = 448, 2048, 448, 224
GAMMA, DELTA = 0.2, 0.99
DIY_SIDE, DIY_SCALES = 256, (256, 128, 64)

Size = tuple[int, int]
"""(height, width)."""
Method = Callable[[Tensor], Tensor]
"""3 x H x W in [0, 1], the whole photo -> C x h x w probabilities over it."""


def label(file: Path, method: Method) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """Class per pixel, and a COCO annotation per class."""
    with Image.open(file) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    photo = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    probabilities = method(photo)
    full = F.interpolate(probabilities[None], size=photo.shape[1:], mode="bilinear", align_corners=False)[0]
    classes = full.argmax(dim=0).numpy()
    annotations = []
    for index in np.unique(classes):
        encoded = coco.encode(np.asfortranarray(classes == index).astype(np.uint8))
        box = coco.toBbox(encoded).tolist()
        annotations.append({"category_id": int(index), "rle": encoded, "area": int(coco.area(encoded)), "bbox": box})
    return classes, annotations


def embed_names(text: Callable[[list[str]], Tensor], names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """N x d, one prompt after the other."""
    rows = []
    for name in names:
        prompts = [F.normalize(text([template.replace("{}", name)])[0].float(), dim=0) for template in templates]
        rows.append(F.normalize(torch.stack(prompts).mean(dim=0), dim=0))
    return torch.stack(rows)


# -- CLIP on windows -------------------------------------------------------------------------------------------------


def maskclip(clip: Any, names: Tensor) -> Method:
    """names: C x d."""

    def score(window: Tensor) -> Tensor:
        return probabilities_of(dense(clip, window)[0], names)

    return lambda photo: slide(photo, clip.patch_size, score)


def dinoiser(clip: Any, heads: Any, names: Tensor, background: int | None) -> Method:
    """heads: g is `obj_proj`, h is `bkg_decoder`."""

    def score(window: Tensor) -> Tensor:
        features, intermediate = dense(clip, window)
        grid = features.shape[1:]
        similar = F.normalize(heads.obj_proj(intermediate[None])[0].flatten(1), dim=0)
        affinity = similar.T @ similar
        affinity[affinity < GAMMA] = 0
        flat = features.flatten(1)
        pooled = torch.einsum("pq,dq->dp", affinity, flat) / (affinity.sum(dim=1) + 1e-6)
        probabilities = probabilities_of(pooled.reshape(-1, *grid), names)
        if background is not None:
            foreground = heads.bkg_decoder(F.normalize(intermediate, dim=0)[None])[0, 0].sigmoid() > 0.5
            to_background = (probabilities.amax(dim=0) < DELTA) & ~foreground
            probabilities[:, to_background] = 0
            probabilities[background, to_background] = 1
        return probabilities

    return lambda photo: slide(photo, clip.patch_size, score)


def slide(photo: Tensor, patch: int, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Short side to 448; windows of 448 every 224, the last pushed back inside; overlapping probabilities averaged."""
    canvas = F.interpolate(photo[None], size=fitted(photo.shape[1:]), mode="bilinear", align_corners=False)[0]
    height, width = canvas.shape[1:]
    total, count = None, torch.zeros(height, width)
    for top in starts(height):
        for left in starts(width):
            window = canvas[:, top : top + WINDOW, left : left + WINDOW]
            probabilities = score(window)
            padded = (probabilities.shape[1] * patch, probabilities.shape[2] * patch)
            pixels = F.interpolate(probabilities[None], size=padded, mode="bilinear", align_corners=False)[0]
            if total is None:
                total = torch.zeros(len(pixels), height, width)
            total[:, top : top + WINDOW, left : left + WINDOW] += pixels[:, : window.shape[1], : window.shape[2]]
            count[top : top + WINDOW, left : left + WINDOW] += 1
    assert total is not None
    return total / count


def fitted(size: Sequence[int]) -> Size:
    short, long = min(size), max(size)
    new_short, new_long = SHORT, math.floor(long * SHORT / short + 0.5)
    if new_long > LONG:
        new_short, new_long = max(1, math.floor(short * LONG / long + 0.5)), LONG
    return (new_short, new_long) if size[0] <= size[1] else (new_long, new_short)


def starts(length: int) -> list[int]:
    last = max(length - WINDOW, 0)
    return [*range(0, last, STRIDE), last]


def probabilities_of(features: Tensor, names: Tensor) -> Tensor:
    """d x h x w -> C x h x w."""
    return (100 * torch.einsum("dhw,cd->chw", F.normalize(features, dim=0), names)).softmax(dim=0)


def dense(clip: Any, window: Tensor) -> tuple[Tensor, Tensor]:
    """MaskCLIP's features, d x h x w, and the output of `ln_2` in the third block from the end, D x h x w."""
    visual, patch = clip.visual, clip.patch_size
    height, width = window.shape[1:]
    padded = F.pad(window[None], (0, -width % patch, 0, -height % patch))
    x = visual.conv1((padded - clip.mean) / clip.std)
    grid = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.expand(1, 1, -1)
    x = visual.ln_pre(torch.cat([class_token, x], dim=1) + positions(visual.positional_embedding, grid))
    taken = []
    blocks = visual.transformer.resblocks
    hook = blocks[-3].ln_2.register_forward_hook(lambda module, given, result: taken.append(result))
    for block in blocks[:-1]:
        x = block(x)
    hook.remove()
    last = blocks[-1]
    width = x.shape[2]
    values = F.linear(last.ln_1(x), last.attn.in_proj_weight[2 * width :], last.attn.in_proj_bias[2 * width :])
    x = x + last.attn.out_proj(values)
    x = x + last.mlp(last.ln_2(x))
    x = visual.ln_post(x) @ visual.proj
    return tuple(tokens[0, 1:].T.reshape(-1, *grid) for tokens in (x, taken[0]))  # type: ignore[return-value]


def positions(embedding: Tensor, grid: Sequence[int]) -> Tensor:
    side = round((len(embedding) - 1) ** 0.5)
    square = embedding[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(square, size=tuple(grid), mode="bicubic", align_corners=False)
    return torch.cat([embedding[:1], resized.flatten(2)[0].T])


# -- CLIP-DIY --------------------------------------------------------------------------------------------------------


def diy(clip: Any, found: Any, names: Tensor) -> Method:
    """names: C x d, the background first."""

    def method(photo: Tensor) -> Tensor:
        square = F.interpolate(photo[None], size=(DIY_SIDE, DIY_SIDE), mode="bilinear", align_corners=False)[0]
        scores = []
        for scale in DIY_SCALES:
            places = range(0, DIY_SIDE - scale + 1, scale // 2)
            grid = torch.zeros(len(names), len(places), len(places))
            for row, top in enumerate(places):
                for column, left in enumerate(places):
                    crop = square[:, top : top + scale, left : left + scale]
                    grid[:, row, column] = names @ F.normalize(embed(clip, crop), dim=0)
            scores.append(F.interpolate(grid[None], size=(DIY_SIDE, DIY_SIDE), mode="bilinear", align_corners=False)[0])
        mean = torch.stack(scores).mean(dim=0)
        theta = objectness(found, photo)
        weighted = mean * theta
        weighted[0] = mean[0] * (1 - theta)
        return (100 * weighted).softmax(dim=0)

    return method


def embed(clip: Any, crop: Tensor) -> Tensor:
    """One crop -> d."""
    side = clip.image_size
    resized = F.interpolate(crop[None], size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return clip.visual((resized - clip.mean) / clip.std)[0]


def objectness(found: Any, photo: Tensor) -> Tensor:
    """FOUND's soft map of the photo at short side 448, on the square; its logits are what is upsampled to pixels."""
    canvas = F.interpolate(photo[None], size=fitted(photo.shape[1:]), mode="bilinear", align_corners=False)
    patch = found.dino.patch_size
    grid = found.logits(canvas)[None]
    padded = (grid.shape[2] * patch, grid.shape[3] * patch)
    theta = F.interpolate(grid, size=padded, mode="bilinear", align_corners=False)
    theta = theta[:, :, : canvas.shape[2], : canvas.shape[3]].sigmoid()
    return F.interpolate(theta, size=(DIY_SIDE, DIY_SIDE), mode="bilinear", align_corners=False)[0, 0]
