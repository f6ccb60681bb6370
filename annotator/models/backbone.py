"""What all large networks here share: their forward pass may run in reduced precision, nothing after it does."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["fp32", "bf16"]


class Backbone(nn.Module):
    """precision: of the forward pass; weights and results stay float32. Set by whoever places the network.

    Cosines times 100 and thresholds on similarities do not survive eight bits of mantissa, so autocast is kept
    to where the time goes.
    """

    precision: Precision = "fp32"
    forward_passes: tuple[str, ...] = ()
    """Names of the methods that take the time."""

    def compile_forward_passes(self) -> None:
        """`torch.compile` for each of them, done at their first call and again for every new shape."""
        for name in self.forward_passes:
            setattr(self, name, torch.compile(getattr(self, name), dynamic=False))

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def to_whole_patches(images: Tensor, patch: int) -> Tensor:
    """B x C x H x W with zeros to the right and below, until both sides are whole patches."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % patch, 0, -height % patch))
