"""A network that gives NaN or infinity: the photo fails with that reason, the others of its batch are labelled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_against_reference as small
import test_zeroguide
import torch
from PIL import Image
from reference import networks
from torch import nn

from annotator.engines import local
from annotator.engines.decoding import DecodePool
from annotator.images import MAX_PIXELS, ImageRef
from annotator.models.upsample import upsampled_winners
from annotator.prediction import Prediction
from annotator.run import ImageRecord

SIZE = (64, 96)
BROKEN = [math.nan, math.inf, -math.inf]
REASON = "labelling failed: FloatingPointError: the network gave values that are not finite (NaN or infinity)"


def poison(module: nn.Module, value: float) -> None:
    """One number of what the module gives becomes `value` for a photo that is white in its upper left corner."""

    def forward(found: Callable[..., Any]) -> Callable[..., Any]:
        def poisoned(pixels: torch.Tensor, *rest: Any, **named: Any) -> Any:
            output = found(pixels, *rest, **named).clone()
            white = pixels.flatten(2)[:, :, 0].mean(dim=1) > 2
            output.view(len(output), -1)[white, -1] = value
            return output

        return poisoned

    module.forward = forward(module.forward)  # type: ignore[method-assign]


def labeler_of(name: str, value: float, part: str) -> Any:
    """part: which network breaks, in its patch embedding."""
    if name == "zeroguide":
        given = test_zeroguide.small_networks()
        labeler = test_zeroguide.build("none", given, linkage="neighbours")
        broken = given.dino.vit.patch_embed.proj if part == "dino" else given.clip.visual.conv1
    else:
        settings = {"scales": [64, 32], "image_side": 64, "objectness_side": 64} if name == "diy" else small.windows()
        labeler, clip = small.build(name, 16, **settings)
        labeler.prepare(small.vocabulary(background=True))
        broken = labeler._found.dino.vit.patch_embed.proj if part == "found" else clip.visual.conv1
    poison(broken, value)
    return labeler


def label(labeler: Any, folder: Path) -> list[ImageRecord]:
    """Three photos as one batch; the network breaks on the second."""
    for number in range(3):
        pixels = np.minimum(networks.photo(*SIZE, seed=number), 200)
        pixels[:32, :32] = 255 if number == 1 else 90
        Image.fromarray(pixels).save(folder / f"{number}.png")
    refs = [ImageRef(folder, f"{number}.png") for number in range(3)]
    with DecodePool(0, 4, working_side=None, max_pixels=MAX_PIXELS) as pool:
        return list(local.execute(refs, labeler, pool, 3))


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("maskclip", "clip"),
        ("dinoiser", "clip"),
        ("diy", "clip"),
        ("diy", "found"),
        ("zeroguide", "clip"),
        ("zeroguide", "dino"),
    ],
)
def test_the_photo_fails_with_its_reason(name: str, part: str, value: float, tmp_path: Path) -> None:
    records = label(labeler_of(name, value, part), tmp_path)
    assert [record.status for record in records] == ["ok", "failed", "ok"]
    assert records[1].error == REASON
    scores = [segment.score for record in records for segment in record.segments]
    assert scores
    assert all(map(math.isfinite, scores))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_bad_number_in_one_map_is_noticed(value: float) -> None:
    """Of five classes on a 4 x 4 grid a single value; without a check all 400 pixels became class 0, score NaN."""
    maps = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0))
    maps[3, 2, 1] = value
    peaks = maps.amax(dim=(1, 2))
    with pytest.raises(FloatingPointError, match="not finite"):
        upsampled_winners(lambda chosen: maps[chosen], peaks, (20, 20))


@pytest.mark.parametrize("value", BROKEN)
def test_no_prediction_has_a_score_that_is_not_finite(value: float) -> None:
    """The contract for every labeler, a third party's too."""
    good = Prediction(np.zeros((2, 2), np.int32), ("cat",), (0,), (0.5,), np.ones((1, 3), np.float16))
    with pytest.raises(ValueError, match="Expected finite scores, but got NaN or infinity for 'cat'"):
        replace(good, scores=(value,))
    with pytest.raises(ValueError, match="Expected finite embeddings"):
        replace(good, embeddings=np.full((1, 3), value, np.float16))
