"""Small random networks of the real classes, and photos on which their patches differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from reference import vit


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter, biases and norms too, so that none can be left out unseen; patches of different looks differ."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        is_gain = name.endswith("weight") and ("norm" in name or "ln_" in name)
        torch.nn.init.normal_(parameter, mean=float(is_gain), std=0.1 if parameter.ndim == 1 else 0.25)
    return module.double().eval()


def numpy_weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def open_clip_vit(patch: int = 16, quick: bool = False, size: int | tuple[int, int] = 32) -> torch.nn.Module:
    from open_clip.transformer import QuickGELU, VisionTransformer

    activation = QuickGELU if quick else torch.nn.GELU
    options = {"layers": 4, "heads": 4, "mlp_ratio": 2.0, "output_dim": 16, "act_layer": activation}
    return randomise(VisionTransformer(image_size=size, patch_size=patch, width=32, **options), seed=1)


def timm_vit(size: int | tuple[int, int] = 32, seed: int = 2) -> torch.nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    shape = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}
    return randomise(VisionTransformer(img_size=size, patch_size=8, **shape), seed)


def photo(height: int, width: int, seed: int = 3) -> np.ndarray:
    """Patches of colour with some grain."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 220, (height // 12 + 1, width // 12 + 1, 3)).repeat(12, axis=0).repeat(12, axis=1)
    return (blocks[:height, :width] + rng.integers(0, 36, (height, width, 3))).astype(np.uint8)


def clip_of(model: torch.nn.Module, **options: Any) -> vit.Clip:
    return vit.Clip(numpy_weights(model), heads=4, **options)


def dino_of(model: torch.nn.Module) -> vit.Dino:
    return vit.Dino(numpy_weights(model), heads=3)


def random_heads() -> dict[str, np.ndarray]:
    """CLIP-DINOiser's g and h on the ViT above."""
    draw = np.random.default_rng(5).normal
    return {
        "obj_proj.weight": draw(size=(20, 32, 3, 3)),
        "obj_proj.bias": draw(size=20),
        "bkg_decoder.weight": draw(size=(1, 32, 1, 1)),
        "bkg_decoder.bias": draw(size=1) * 0.1,
    }


def random_decoder() -> dict[str, np.ndarray]:
    """FOUND's 1 x 1 convolution on the DINO above."""
    return {"weight": np.random.default_rng(6).normal(size=(1, 24, 1, 1)) * 0.3, "bias": np.array([0.05])}
