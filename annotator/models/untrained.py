"""Weights drawn from a seed, for the pack that shows that everything runs before there are trained ones."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from annotator.models.compat import prepare_torchvision
from annotator.models.heads import DinoiserHeads
from annotator.models.weights import State


def untrained_state(slot: str, architecture: Any, seed: int) -> tuple[State, str]:
    """The weights for a pack's slot, the same on every call, and their SHA-256."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = _network(slot, architecture).state_dict()
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return state, digest.hexdigest()


def _network(slot: str, architecture: Any) -> nn.Module:
    if slot == "heads":
        return DinoiserHeads(architecture["width"])
    prepare_torchvision()
    if slot == "clip":
        import open_clip

        clip: nn.Module = open_clip.CLIP(**open_clip.get_model_config(architecture))
        return clip
    import timm

    if slot == "found":
        with torch.device("meta"):  # only its width is asked for
            width = timm.create_model(architecture, pretrained=False).embed_dim
        return nn.Conv2d(width, 1, kernel_size=1)
    vit: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0)
    return vit
