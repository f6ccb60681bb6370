"""Networks through `torch.compile`: the same features, and an error where it cannot work."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from reference import networks, vit
from torch import nn

from annotator.errors import ConfigError
from annotator.models.clip import DenseClip
from annotator.models.devices import require_compiler
from annotator.models.networks import Networks


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler on this machine")
def test_compiled_networks_say_the_same() -> None:
    clip = DenseClip(networks.open_clip_vit(16).float(), nn.Identity(), vit.CLIP_MEAN, vit.CLIP_STD)
    images = torch.from_numpy(networks.photo(32, 32) / 255).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = clip.dense(images)
        given = Networks.of(clip=clip)
        given.compiled = True
        found = given.clip.dense(images)
    assert "dense" in vars(given.clip), "nothing was compiled"
    for name in ("maskclip", "intermediate", "keys"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-4)


def test_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"--compile: expected a C\+\+ compiler.*install g\+\+"):
        require_compiler("cpu")
    require_compiler("cuda:0")
