"""DINO's last attention layer against timm itself and against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import networks, vit
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from annotator.models.clip import resize_positions
from annotator.models.dino import POSITION_OFFSET, Dino, load_timm_dino
from annotator.models.weights import read_state


def per_head_as_rows(per_head: Tensor) -> np.ndarray:
    """1 x heads x N x c -> N x (heads * c)."""
    return per_head[0].transpose(0, 1).flatten(1).numpy()


def hooked_qkv(model: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What timm's own forward pass computes in its last attention layer, B x tokens x D each."""
    seen: list[Tensor] = []
    handle = model.blocks[-1].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(images)
    handle.remove()
    q, k, v = seen[0].chunk(3, dim=-1)
    return q, k, v


def test_equals_timm() -> None:
    """At the trained size, on a batch."""
    model = networks.timm_vit().float()
    dino = Dino(model)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (vit.IMAGENET_MEAN, vit.IMAGENET_STD))
    with torch.inference_mode():
        q, k, v = hooked_qkv(model, (images - mean) / std)
        found = dino.last_attention(images)
    assert found.grid == (4, 4)
    for ours, theirs in ((found.queries, q), (found.keys, k), (found.values, v)):
        assert ours.shape == (2, 3, 16, 8)
        torch.testing.assert_close(ours.transpose(1, 2).flatten(2), theirs[:, 1:], rtol=0, atol=1e-5)
    heads_q, heads_k = (part.view(2, 17, 3, 8).transpose(1, 2) for part in (q, k))
    attention = (heads_q @ heads_k.transpose(-2, -1) / 8**0.5).softmax(dim=-1)
    torch.testing.assert_close(found.class_attention, attention[:, :, 0, 1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(37, 53), (61, 7), (8, 8)])
def test_any_size_equals_the_reference(size: tuple[int, int]) -> None:
    dino = Dino(networks.timm_vit().float())
    positions = dino.vit.pos_embed.clone()
    pixels = networks.photo(*size) / 255
    expected = vit.dino_features(pixels, networks.dino_of(networks.timm_vit()))
    found = dino.last_attention(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])
    assert found.grid == expected.grid
    for ours, theirs in (
        (found.queries, expected.query),
        (found.keys, expected.key),
        (found.values, expected.value),
    ):
        np.testing.assert_allclose(per_head_as_rows(ours), theirs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.class_attention[0], expected.class_attention, rtol=0, atol=1e-5)
    assert torch.equal(dino.vit.pos_embed, positions)


def test_padding_has_the_mean_colour() -> None:
    """FOUND pads after mean/std: a photo of the mean colour looks the same padded or at the whole size."""
    dino = Dino(networks.timm_vit().float())
    mean = torch.tensor(vit.IMAGENET_MEAN)[None, :, None, None]
    padded, whole = (dino.last_attention(mean.expand(1, 3, *size)) for size in ((33, 50), (40, 56)))
    torch.testing.assert_close(padded.keys, whole.keys, rtol=0, atol=1e-6)
    torch.testing.assert_close(padded.class_attention, whole.class_attention, rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [(5, 3), (9, 30), (4, 4)])
def test_positions_are_scaled_as_dinos_own_code_does(grid: tuple[int, int]) -> None:
    """By (patches + 0.1) / trained patches; at the trained size they stay. Against torch's interpolation."""
    square = torch.rand(1 + 16, 24, generator=torch.Generator().manual_seed(0))
    found = resize_positions(square, grid, POSITION_OFFSET)
    scales = tuple((length + 0.1) / 4 for length in grid)
    expected = F.interpolate(square[1:].T.view(1, 24, 4, 4), scale_factor=scales, mode="bicubic")
    if grid == (4, 4):
        expected = square[1:].T.view(1, 24, 4, 4)
    assert expected.shape[2:] == grid
    torch.testing.assert_close(found[1:], expected.flatten(2)[0].T)
    assert torch.equal(found[0], square[0])


def test_maps_keep_heads_side_by_side_and_rows_in_order() -> None:
    dino = Dino(networks.timm_vit().float())
    found = dino.last_attention(torch.rand(2, 3, 16, 40))
    keys = found.as_map(found.keys)
    assert keys.shape == (2, 24, 2, 5)
    assert torch.equal(keys[1, 8 + 3, 1, 2], found.keys[1, 1, 5 + 2, 3])


def test_loads_timms_weights_from_a_file(tmp_path) -> None:
    import timm

    name = "vit_tiny_patch16_224"
    model = timm.create_model(name, num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    dino = load_timm_dino(name, read_state(tmp_path / "model.safetensors", "timm"))
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (vit.IMAGENET_MEAN, vit.IMAGENET_STD))
    with torch.inference_mode():
        _, keys, _ = hooked_qkv(model, (images - mean) / std)
        found = dino.last_attention(images).keys
    assert (dino.patch_size, dino.width) == (16, 192)
    torch.testing.assert_close(found.transpose(1, 2).flatten(2), keys[:, 1:], rtol=0, atol=1e-4)
