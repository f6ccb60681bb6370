"""What all large networks here share: their forward pass may run in reduced precision, nothing after it does."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]


class Backbone(nn.Module):
    """precision: of the forward pass; weights and results stay float32. Set by whoever places the network.

    Cosines times 100 and thresholds on similarities do not survive eight bits of mantissa, so autocast is kept
    to where the time goes.
    """

    precision: Precision = "fp32"

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")
