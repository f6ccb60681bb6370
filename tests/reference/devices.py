"""A device that this machine does not have."""

from __future__ import annotations

import pytest
from torch import Tensor


class OnCpu(Tensor):
    """What came from the device, and all that is made of it."""


def take_float64_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes every tensor for one on a device without float64, such as Apple's, until its `cpu()` is called."""
    to_cpu, to_double = Tensor.cpu, Tensor.double

    def cpu(tensor: Tensor) -> Tensor:
        return to_cpu(tensor).as_subclass(OnCpu)

    def double(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, OnCpu):
            raise TypeError("Cannot convert an MPS tensor to float64, which the framework does not support")
        return to_double(tensor)

    monkeypatch.setattr(Tensor, "cpu", cpu)
    monkeypatch.setattr(Tensor, "double", double)
