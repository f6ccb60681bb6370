"""Photos with one bright object on a dark ground, and small networks that see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from reference import networks

from annotator.models.clip import DenseClip
from annotator.models.dino import Dino

CLIP_MEAN, CLIP_STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def draw_photos(folder: Path, count: int = 6, size: tuple[int, int] = (80, 64)) -> Path:
    """A disc or a square of its own colour per photo."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        ground = rng.normal(60, 12, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
        photo = Image.fromarray(ground)
        x, y = (int(rng.integers(4, length - 44)) for length in size)
        colour = tuple(int(value) for value in rng.integers(150, 256, 3))
        pen = ImageDraw.Draw(photo)
        (pen.ellipse if index % 2 else pen.rectangle)((x, y, x + 36, y + 36), fill=colour)
        photo.save(folder / f"{index}.png")
    return folder


def small_dino() -> Dino:
    """Random weights; patches of 8 pixels."""
    return Dino(networks.timm_vit().float())


def small_clip() -> DenseClip:
    """Random weights; patches of 16 pixels, width 32; its text side is never asked."""
    return DenseClip(networks.open_clip_vit().float(), torch.nn.Identity(), CLIP_MEAN, CLIP_STD)
