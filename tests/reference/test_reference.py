"""The reference's parts against other libraries: open_clip, timm, torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from reference import image_ops, vit
from reference.networks import clip_of, dino_of, open_clip_vit, photo, timm_vit

CLOSE = {"rtol": 0, "atol": 1e-9}


def with_positions(
    model: torch.nn.Module, name: str, square: torch.nn.Module, size: tuple[int, int], offset: float = 0.0
) -> None:
    """Gives `model`, built for `size`, the weights of `square`, its positions resized by torch.

    offset: DINO's own code asks for a scale that is this many patches too large.
    """
    state = square.state_dict()
    positions = state[name].reshape(-1, state[name].shape[-1])
    side = int((len(positions) - 1) ** 0.5)
    grid = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if size != (side, side):
        target = {"scale_factor": tuple((length + offset) / side for length in size)} if offset else {"size": size}
        grid = functional.interpolate(grid, **target, mode="bicubic", align_corners=False)
    state[name] = torch.cat([positions[:1], grid[0].flatten(1).T]).reshape(model.state_dict()[name].shape)
    model.load_state_dict(state)


def normalised(image: np.ndarray, mean: Any, std: Any) -> torch.Tensor:
    return torch.from_numpy((image / 255.0 - np.array(mean)) / np.array(std)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(5, 7), (13, 4), (1, 30), (2, 2), (9, 11)])
def test_resize_is_torchs(kernel: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((5, 7, 3))
    theirs = functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None], size=size, mode=kernel, align_corners=False
    )
    np.testing.assert_allclose(image_ops.resize(image, size, kernel), theirs[0].permute(1, 2, 0), **CLOSE)


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (448, [0]),
        (300, [0]),  # shorter than a window
        (449, [0, 1]),
        (672, [0, 224]),  # the grid ends at the border
        (673, [0, 224, 225]),
        (2048, [0, 224, 448, 672, 896, 1120, 1344, 1568, 1600]),
    ],
)
def test_window_positions(side: int, expected: list[int]) -> None:
    assert image_ops.window_positions(side, 448, 224) == expected


@pytest.mark.parametrize("size", [(5, 7), (13, 4), (30, 30), (2, 2), (9, 11)])
def test_antialiased_is_pillows(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((9, 11, 3))
    theirs = [
        Image.fromarray(image[..., c].astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC) for c in range(3)
    ]
    np.testing.assert_allclose(image_ops.antialiased(image, size), np.stack(theirs, axis=2), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (448, 597)),  # 597.33
        ((640, 480), (597, 448)),
        ((100, 100), (448, 448)),
        ((128, 129), (448, 452)),  # 451.5 rounds up
        ((100, 1000), (205, 2048)),  # 4480 is too long; 204.8
        ((1, 9000), (1, 2048)),  # never nothing
    ],
)
def test_fitted_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert image_ops.fitted_size(size, 448, 2048) == expected


def test_class_map_gives_ties_to_the_first_class() -> None:
    assert image_ops.class_map(np.array([[[0.2, 0.4, 0.4], [0.5, 0.1, 0.5]]])).tolist() == [[1, 0]]


@pytest.mark.parametrize(("patch", "quick"), [(16, False), (8, False), (8, True)])
def test_clip_embedding_is_open_clips(patch: int, quick: bool) -> None:
    model, image = open_clip_vit(patch, quick), photo(32, 32)
    with torch.no_grad():
        theirs = model(normalised(image, vit.CLIP_MEAN, vit.CLIP_STD))[0]
    np.testing.assert_allclose(vit.clip_embedding(image / 255.0, clip_of(model, quick_gelu=quick)), theirs, **CLOSE)


def padded_model(square: torch.nn.Module) -> tuple[torch.nn.Module, torch.Tensor, np.ndarray]:
    """open_clip's model for 48 x 64 pixels, and a 41 x 60 photo padded to that before normalisation."""
    model = open_clip_vit(8, size=(48, 64))
    with_positions(model, "positional_embedding", square, (6, 8))
    image = photo(41, 60)
    black = np.zeros((48, 64, 3))
    black[:41, :60] = image
    return model, normalised(black, vit.CLIP_MEAN, vit.CLIP_STD), image


def test_clip_of_another_size_is_open_clips_with_resized_positions() -> None:
    square = open_clip_vit(8)
    model, pixels, image = padded_model(square)
    with torch.no_grad():
        theirs = model(pixels)[0]
    np.testing.assert_allclose(vit.clip_embedding(image / 255.0, clip_of(square)), theirs, **CLOSE)


def test_dense_features_are_open_clips_own_block_masked_to_the_diagonal() -> None:
    square = open_clip_vit(8)
    model, pixels, image = padded_model(square)
    last = model.transformer.resblocks[-1]
    seen: dict[str, torch.Tensor] = {}
    last.register_forward_pre_hook(lambda _, given: seen.update(before=given[0]))
    model.transformer.resblocks[-3].ln_2.register_forward_hook(lambda *call: seen.update(inner=call[2]))
    with torch.no_grad():
        model(pixels)
        before = seen["before"]
        alone = torch.full((49, 49), -torch.inf, dtype=torch.float64).fill_diagonal_(0.0)
        dense = model.ln_post(last(before, attn_mask=alone)) @ model.proj
        keys = functional.linear(last.ln_1(before), last.attn.in_proj_weight, last.attn.in_proj_bias)[0, 1:, 32:64]
    clip = clip_of(square)
    states = vit.clip_states(image / 255.0, clip)
    assert states.grid == (6, 8)
    np.testing.assert_allclose(vit.maskclip_features(states, clip), dense[0, 1:], **CLOSE)
    np.testing.assert_allclose(vit.intermediate_features(states, clip), seen["inner"][0, 1:], **CLOSE)
    np.testing.assert_allclose(vit.clip_keys(states, clip), keys, **CLOSE)


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_dino_is_timms(size: tuple[int, int]) -> None:
    square, image = timm_vit(), photo(*size)
    model = timm_vit(size)
    with_positions(model, "pos_embed", square, (size[0] // 8, size[1] // 8), offset=0.1)
    attention = model.blocks[-1].attn
    attention.fused_attn = False
    seen: dict[str, torch.Tensor] = {}
    attention.qkv.register_forward_hook(lambda *call: seen.update(qkv=call[2]))
    attention.attn_drop.register_forward_hook(lambda *call: seen.update(weights=call[2]))
    with torch.no_grad():
        tokens = model.forward_features(normalised(image, vit.IMAGENET_MEAN, vit.IMAGENET_STD))[0]
    ours = vit.dino_features(image / 255.0, dino_of(square))
    assert ours.grid == (size[0] // 8, size[1] // 8)
    np.testing.assert_allclose(ours.tokens, tokens, **CLOSE)
    np.testing.assert_allclose(np.hstack([ours.query, ours.key, ours.value]), seen["qkv"][0, 1:], **CLOSE)
    np.testing.assert_allclose(ours.class_attention, seen["weights"][0, :, 0, 1:], **CLOSE)
