"""The plain ways give the masks that the tool gives, else a ratio of their times would say nothing; and the benchmarks
run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
import torch
from PIL import Image
from reference import networks as small
from reference import vit
from timing import class_names, interleaved, say_ratio, write_samples
from torch import Tensor, nn

from annotator.models.clip import DenseClip
from annotator.models.dino import Dino
from annotator.models.found import Found
from annotator.models.heads import load_heads
from annotator.models.packs import Networks
from annotator.vocabulary import Vocabulary
from labelers import base

pytestmark = pytest.mark.slow

NAMES = ("background", "dog", "bus", "sea")
SIZE = (300, 410)
"""height, width: of two windows, neither side a whole number of patches."""


class WordVectors(nn.Module):
    """Prompts -> vectors, the same for the same prompt, and close to each other, as texts are in CLIP."""

    def forward(self, prompts: list[str]) -> Tensor:
        shared = np.random.default_rng(0).normal(size=16) * 4
        draws = [np.random.default_rng(list(prompt.encode())).normal(size=16) for prompt in prompts]
        return torch.tensor(shared + np.stack(draws)).float()


@pytest.fixture(scope="module")
def networks() -> Networks:
    clip = DenseClip(small.open_clip_vit().float(), WordVectors(), vit.CLIP_MEAN, vit.CLIP_STD)
    decoder = nn.Conv2d(24, 1, 1)
    decoder.load_state_dict({name: torch.from_numpy(value) for name, value in small.random_decoder().items()})
    heads = load_heads({name: torch.from_numpy(value).float() for name, value in small.random_heads().items()})
    return Networks.of(clip=clip, heads=heads, found=Found(Dino(small.timm_vit().float()), decoder))


def method_of(name: str, networks: Any, names: Tensor) -> plain.Method:
    if name == "maskclip":
        return plain.maskclip(networks.clip, names)
    if name == "dinoiser":
        return plain.dinoiser(networks.clip, networks.heads, names, background=0)
    return plain.diy(networks.clip, networks.found, names)


@pytest.mark.parametrize("name", ["maskclip", "dinoiser", "diy"])
def test_the_plain_way_gives_the_tools_masks(networks: Networks, name: str, tmp_path: Path) -> None:
    pixels = small.photo(*SIZE)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    labeler: Any = base.build(name, networks)
    labeler.prepare(Vocabulary.of(NAMES))
    (found,) = labeler.label([pixels])
    with torch.inference_mode():
        classes, annotations = plain.label(tmp_path / "photo.png", method_of(name, networks, labeler._classifier.names))
    assert classes.shape == SIZE
    assert len(np.unique(classes)) > 1
    assert (found.class_map() == classes).mean() >= 0.995
    areas = {segment.class_id: segment.area for segment in found.segments()}
    for each in annotations:
        assert each["area"] == pytest.approx(areas.get(each["category_id"], 0), abs=0.005 * pixels.size)


def test_prompts_one_at_a_time_give_the_same_vectors(networks: Networks) -> None:
    templates = ("a photo of a {}.", "art of the {}.")
    one_at_a_time = plain.embed_names(networks.clip.text, NAMES, templates)
    torch.testing.assert_close(one_at_a_time, networks.clip.text_embeddings(NAMES, templates))


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("bench_rle.py", ["--size", "64x48", "--seconds", "0.01"]), ("bench_export.py", ["--photos", "20"])],
)
def test_a_benchmark_says_its_ratio(script: str, arguments: list[str]) -> None:
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout
    assert re.match(r"ratio \d+\.\d\d, target \d+ (holds|does not hold): .", said)


def test_ways_are_timed_in_turns() -> None:
    order: list[str] = []
    ways = interleaved(lambda: order.append("plain"), lambda: order.append("ours"), 3)
    assert order == ["plain", "ours"] * 3
    assert (len(ways.plain), len(ways.ours)) == (3, 3)


@pytest.mark.parametrize(
    ("plain_seconds", "target", "line"),
    [
        (6.0, 3.0, "ratio 3.00, target 3 holds: x"),
        (5.9, 3.0, "ratio 2.95, target 3 does not hold: x"),
        (6.0, None, "ratio 3.00: x"),
    ],
)
def test_the_line(plain_seconds: float, target: float | None, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    say_ratio(plain_seconds, 2.0, target, "x")
    assert capsys.readouterr().out == line + "\n"


@pytest.mark.parametrize("size", [(90, 50), (640, 480), (41, 97)])
def test_samples_have_the_size_asked_for(size: tuple[int, int], tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    files = write_samples(tmp_path, size, 9)
    assert len(set(files)) == 9
    for file in files:
        with Image.open(file) as image:
            assert (image.size, image.format) == (size, "JPEG")


@pytest.mark.parametrize(("count", "background"), [(20, False), (20, True), (171, False)])
def test_class_names_are_different_ones(count: int, background: bool) -> None:
    names = class_names(count, background)
    assert len(set(names)) == count
    assert (names[0] == "background") == background
