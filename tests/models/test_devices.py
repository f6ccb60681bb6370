"""What this machine has to compute with, and what its CPU does beside."""

from __future__ import annotations

import os

import pytest
import torch

from annotator.errors import ConfigError
from annotator.models.devices import MOST_DECODERS, decode_workers, resolve_device


@pytest.mark.parametrize("has_one", [False, True])
def test_apples_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, has_one: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_one)
    assert resolve_device("auto") == ("mps" if has_one else "cpu")
    if has_one:
        assert resolve_device("mps") == "mps"
    else:
        with pytest.raises(ConfigError, match="mps"):
            resolve_device("mps")


@pytest.mark.parametrize(("cores", "workers"), [(None, 1), (1, 1), (3, 2), (1000, MOST_DECODERS)])
def test_a_gpu_is_fed_by_all_cores_but_one(monkeypatch: pytest.MonkeyPatch, cores: int | None, workers: int) -> None:
    """On systems that do not say which of their cores are ours, of all that there are; they may not know that."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert decode_workers("cuda:1") == workers
    assert decode_workers("cpu") == 1
