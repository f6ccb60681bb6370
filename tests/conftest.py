"""Shared set-up: nothing of a user's own caches, models or configuration is read or written by a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from annotator.models.compat import prepare_torchvision
from annotator.models.devices import keep_freed_memory

keep_freed_memory()  # as `annotate` does


@pytest.fixture(scope="session", autouse=True)
def torchvision_operators() -> None:
    prepare_torchvision()


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and no network."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ANNOTATE_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("ANNOTATE_MODELS", raising=False)
    return folder
