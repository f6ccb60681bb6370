"""Networks through `torch.compile`: the same features for photos of all shapes, from graphs that no photo decides, and
an error where it cannot work."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import networks, vit
from torch import Tensor, nn
from torch._dynamo.utils import counters

from annotator.errors import ConfigError
from annotator.models.backbone import Backbone, CompiledBlocks
from annotator.models.clip import DenseClip
from annotator.models.devices import require_compiler
from annotator.models.dino import Dino
from annotator.models.networks import Networks
from annotator.models.oversegment import strided_keys

compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler on this machine"
)
SHAPES = [(32, 40), (40, 32), (32, 32), (24, 80), (80, 24), (33, 51), (160, 176), (8, 8), (8, 16), (64, 200)]
SHAPES += [(72, 96), (120, 104), (48, 56), (56, 48)]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def compiled(**modules: nn.Module) -> Networks:
    given = Networks.of(**modules)
    given.compiled = True
    return given


def photos(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("asked_for", [False, True])
def test_blocks_are_compiled_where_it_is_asked_for(asked_for: bool) -> None:
    given = Networks.of(clip=DenseClip(networks.open_clip_vit(16).float(), nn.Identity(), vit.CLIP_MEAN, vit.CLIP_STD))
    given.compiled = asked_for
    clip: Any = given.clip
    assert [isinstance(getattr(clip, name), CompiledBlocks) for name in clip.block_passes] == [asked_for] * 2


@pytest.mark.slow
@compiler
def test_photos_of_all_shapes_share_a_graph_that_none_of_them_decides() -> None:
    """Even those of a network whose patches overlap, as zero-guidance has them; several at once share another one."""
    eager = Dino(networks.timm_vit().float())
    given = compiled(dino=Dino(networks.timm_vit().float()))
    with given.inference():
        for shape in SHAPES:
            found, expected = given.dino.last_attention(photos(*shape)), eager.last_attention(photos(*shape))
            for name in ("queries", "keys", "values", "class_attention"):
                torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-4)
        strided = strided_keys(given.dino, photos(32, 40)[0], stride=4)
        torch.testing.assert_close(strided, strided_keys(eager, photos(32, 40)[0], stride=4), rtol=0, atol=1e-4)
        assert graphs() == 1
        for count in (2, 5):
            found, expected = (dino.last_attention(photos(48, 64, count)) for dino in (given.dino, eager))
            torch.testing.assert_close(found.keys, expected.keys, rtol=0, atol=1e-4)
        assert graphs() == 2

        before = given.dino.last_attention(photos(*SHAPES[-1])).keys
        another = compiled(dino=Dino(networks.timm_vit().float()))
        alone = another.dino.last_attention(photos(*SHAPES[-1])).keys
    torch.testing.assert_close(alone, before, rtol=0, atol=0)


@pytest.mark.slow
@compiler
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_clip_says_the_same(precision: str) -> None:
    clip, twin = (
        DenseClip(networks.open_clip_vit(16).float(), nn.Identity(), vit.CLIP_MEAN, vit.CLIP_STD) for _ in range(2)
    )
    given, eager = Networks.of(precision=precision, clip=clip), Networks.of(precision=precision, clip=twin)
    given.compiled = True
    near = 1e-4 if precision == "fp32" else 0.1
    with given.inference():
        for shape in ((32, 48), (64, 32), (30, 47)):
            found, expected = given.clip.dense(photos(*shape)), eager.clip.dense(photos(*shape))
            for name in ("maskclip", "intermediate", "keys"):
                torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=near)
        crops = photos(32, 32, 4)
        torch.testing.assert_close(given.clip.embed(crops), eager.clip.embed(crops), rtol=0, atol=near)
    assert graphs() == 2


class Small(Backbone):
    """calls: a number that torch compiles into the graph."""

    block_passes = ("_blocks",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4).requires_grad_(False)
        self.calls = 0

    def _blocks(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.calls


@pytest.mark.slow
@compiler
def test_every_device_has_graphs_of_its_own() -> None:
    """torch ends compiling a function after eight graphs: the networks of nine devices are not one function's."""
    for number in range(9):
        given = compiled(clip=Small())
        with given.inference():
            tokens = torch.rand(1, 5, 4)
            torch.testing.assert_close(given.clip._blocks(tokens), given.clip.layer(tokens))
        assert graphs() == number + 1


@pytest.mark.slow
@compiler
def test_no_photo_runs_uncompiled_without_a_word() -> None:
    """Every call wants another graph, of which torch makes eight."""
    given = compiled(clip=Small())
    with given.inference():
        for given.clip.calls in range(8):
            given.clip._blocks(torch.rand(1, 5, 4))
        given.clip.calls = 8
        with pytest.raises(Exception, match=r"limit|fullgraph"):
            given.clip._blocks(torch.rand(1, 5, 4))


@pytest.mark.parametrize(
    ("device", "compiler", "named", "message"),
    [
        ("cpu", "g++", "CXX", r"--compile: expected a C\+\+ compiler.*install g\+\+"),
        ("cuda:0", "gcc", "CC", "--compile: expected a C compiler.*install gcc"),
    ],
)
def test_no_compiler_is_one_line(
    device: str, compiler: str, named: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    (tmp_path / "Python.h").touch()
    with pytest.raises(ConfigError, match=message):
        require_compiler(device)
    for program in (compiler, "mine"):
        (tmp_path / program).touch(mode=0o755)
        require_compiler(device)
        (tmp_path / program).rename(tmp_path / "mine")
        monkeypatch.setenv(named, "mine")
    (tmp_path / "Python.h").unlink()
    with pytest.raises(ConfigError, match=r"--compile: expected Python's headers in .*, but found none; install"):
        require_compiler(device)
