"""When memory runs out, networks see less at a time, the user is told once, and every photo is labelled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import test_against_reference as small
import test_zeroguide
import torch
from PIL import Image
from reference import networks

from annotator.config import RunConfig
from annotator.engines.crew import Crew
from annotator.images import ImageRef
from annotator.models.devices import is_out_of_memory
from annotator.models.packs import Networks
from annotator.run import ImageRecord

NAMES = [f"{number}.png" for number in range(5)]
SETTINGS = {
    "maskclip": small.windows(),
    "dinoiser": small.windows(),
    "diy": {"image_side": 64, "scales": [64, 32, 16], "objectness_side": 64},
}


class Limited:
    """A vision tower that has the memory for `images` images at a time; `asked` are the sizes of its batches."""

    def __init__(self, conv1: torch.nn.Module, images: int) -> None:
        self.images = images
        self.asked: list[int] = []
        self._forward = conv1.forward
        conv1.forward = self.forward  # type: ignore[method-assign]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(pixels))
        if len(pixels) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self._forward(pixels)


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """The second is so long that it has more windows than the others."""
    for number, name in enumerate(NAMES):
        size = (40, 100) if number == 1 else (80, 70)
        Image.fromarray(networks.photo(*size, seed=number)).save(tmp_path / name)
    return [ImageRef(tmp_path, name) for name in NAMES]


def crew_of(name: str, photos_at_once: int) -> tuple[Crew, Networks, torch.nn.Module]:
    labeler, clip = small.build(name, 16, **SETTINGS[name])
    labeler.prepare(small.vocabulary(background=True))
    given = labeler._networks
    given.windows_at_once, given.crops_at_once = 32, 60  # as on a GPU
    config = RunConfig(labeler=name, batch_size=photos_at_once, workers=0)
    return Crew(config, labeler, ["cuda:7"], [given]), given, clip.visual.conv1


def label(crew: Crew, refs: list[ImageRef]) -> list[ImageRecord]:
    with crew.decoders() as pool:
        return list(crew.execute(refs, pool))


@pytest.mark.parametrize("name", list(SETTINGS))
def test_batches_get_smaller_until_they_fit(name: str, refs: list[ImageRef], caplog: pytest.LogCaptureFixture) -> None:
    """Not the same number of windows again, some of them zeros; and the next batch of photos starts small."""
    crew, given, conv1 = crew_of(name, photos_at_once=2)
    expected = [record.segments for record in label(crew, refs)]
    given.windows_at_once, given.crops_at_once = 32, 60
    tower = Limited(conv1, images=5)
    with caplog.at_level(logging.WARNING):
        records = label(crew, refs)
    assert [record.status for record in records] == ["ok"] * 5
    assert max(tower.asked[-4:]) <= 5
    tried = [count for count in tower.asked if count > 5]
    assert len(tried) <= 4  # 32 -> 16 -> 8 -> 4, or 60 -> 30 -> 15 -> 7 -> 3: once in the whole run
    assert [message for message in caplog.messages if "OUT OF MEMORY on cuda:7" in message] == caplog.messages
    assert len(caplog.messages) == 1
    for record, segments in zip(records, expected, strict=True):
        assert [segment.label for segment in record.segments] == [segment.label for segment in segments]
        areas = np.array([[a.area, b.area] for a, b in zip(record.segments, segments, strict=True)])
        np.testing.assert_allclose(areas[:, 0], areas[:, 1], rtol=0.01)


def test_a_device_too_small_for_one_window_fails_the_photos_with_their_reason(refs: list[ImageRef]) -> None:
    crew, _, conv1 = crew_of("maskclip", photos_at_once=2)
    tower = Limited(conv1, images=0)
    records = label(crew, refs[:2])
    assert [record.status for record in records] == ["failed"] * 2
    assert "OutOfMemoryError: CUDA out of memory" in records[0].error
    assert tower.asked == [32, 16, 8, 4, 2, 1, 1, 1]  # down once, then each photo by itself


def test_other_errors_do_not_make_batches_smaller(refs: list[ImageRef]) -> None:
    crew, given, conv1 = crew_of("maskclip", photos_at_once=2)
    conv1.forward = lambda pixels: 1 / 0  # type: ignore[method-assign, assignment]
    assert [record.status for record in label(crew, refs[:2])] == ["failed"] * 2
    assert given.windows_at_once == 32


def test_zero_guidance_embeds_fewer_segments_at_a_time(refs: list[ImageRef]) -> None:
    given = test_zeroguide.small_networks()
    labeler = test_zeroguide.build("none", given)
    given.segments_at_once = 4
    tokens: list[int] = []
    given.clip.visual.ln_post.register_forward_hook(lambda module, inputs, output: tokens.append(len(inputs[0])))
    labeler.label([networks.photo(64, 80)])
    assert max(tokens) == 4
    given.halve_batches()
    tokens.clear()
    labeler.label([networks.photo(64, 80)])
    assert max(tokens) == 2


def test_what_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)  # the CPU's own error
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


@pytest.fixture
def half_a_gigabyte() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_real_device_that_runs_out_of_memory(
    refs: list[ImageRef], half_a_gigabyte: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A ViT-B/16 on windows of 448 wants more for 32 of them than the half gigabyte that it is left."""
    from open_clip.transformer import VisionTransformer

    from annotator.models.clip import DenseClip
    from labelers import base

    visual = VisionTransformer(
        image_size=224, patch_size=16, width=768, layers=12, heads=12, mlp_ratio=4, output_dim=16
    )
    clip = DenseClip(visual, small.WordVectors(), (0.5,) * 3, (0.5,) * 3).to("cuda")
    given = Networks.of(device="cuda", clip=clip)
    labeler = base.build("maskclip", given)
    labeler.prepare(small.vocabulary(background=False))
    crew = Crew(RunConfig(labeler="maskclip", batch_size=16, workers=0), labeler, ["cuda"], [given])
    with caplog.at_level(logging.WARNING):
        records = label(crew, refs)
    assert [record.status for record in records] == ["ok"] * 5
    assert given.windows_at_once < 32
    assert len(caplog.messages) == 1
