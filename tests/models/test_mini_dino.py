"""mini-dino through `Dino` against a plain float64 forward pass over its own tokens, and its file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import networks, vit
from reference.image_ops import pad_to_multiple, resize
from torch import Tensor

from annotator.errors import WeightsError
from annotator.models.mini_dino import DEPTH, HEADS, WIDTH, MiniDino, load_mini_dino
from annotator.models.packs import read_pack
from annotator.models.sources import locate
from annotator.models.weights import read_state


@pytest.fixture(scope="module")
def stem_state() -> dict[str, Tensor]:
    """EfficientNet-Lite2's weights, from the package."""
    sources = read_pack("embedded").role("dino", labeler="").files["dino.stem"]
    return read_state(locate("dino.stem", sources).path, "plain")


def random_state(depth: int) -> dict[str, Tensor]:
    module = networks.randomise(MiniDino(depth), seed=4)
    for name in ("stride16", "stride32"):
        getattr(module.patch_embed.proj, name).weight.data *= 0.2
    for block in module.blocks:
        block.attn.qkv.weight.data *= 0.3
    return {name: value.float() for name, value in module.state_dict().items() if ".stem." not in name}


def stem_maps(normalised: np.ndarray, stem_state: dict[str, Tensor]) -> list[np.ndarray]:
    """timm's own network in float64, tapped by timm: h x w x C at stride 16, and at 32 behind its last convolution."""
    import timm

    net = timm.create_model("tf_efficientnet_lite2").eval()
    net.load_state_dict(dict(zip(net.state_dict(), stem_state.values(), strict=True)))
    net = net.double()
    images = torch.from_numpy(normalised).permute(2, 0, 1)[None]
    with torch.inference_mode():
        _, taps = net.forward_intermediates(images)
        fine = next(tap for tap in taps if tap.shape[1] == 120)
        coarse = net.forward_features(images)
    return [maps[0].permute(1, 2, 0).numpy() for maps in (fine, coarse)]


@pytest.mark.parametrize(("depth", "size"), [(1, (48, 64)), (DEPTH, (75, 50))])
def test_equals_a_plain_forward_pass(depth: int, size: tuple[int, int], stem_state: dict[str, Tensor]) -> None:
    state = random_state(depth)
    pixels = networks.photo(*size) / 255
    found = load_mini_dino(state, stem_state).last_attention(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])

    weights = {name: value.double().numpy() for name, value in state.items()}
    fine, coarse = stem_maps(pad_to_multiple((pixels - 0.5) / 0.5, 16), stem_state)
    grid = (fine.shape[0], fine.shape[1])
    assert found.grid == grid == (-(-size[0] // 16), -(-size[1] // 16))
    parts = []
    for name, maps in (("stride16", fine), ("stride32", coarse)):
        kernel, bias = vit.layer(weights, f"patch_embed.proj.{name}")
        parts.append(resize(maps @ kernel[:, :, 0, 0].T + bias, grid).reshape(grid[0] * grid[1], -1))
    tokens = np.concatenate([weights["cls_token"][0], np.concatenate(parts, axis=1)])
    tokens = tokens + vit.resized_positions(weights["pos_embed"][0], grid, 0.0)
    dino = vit.Dino(weights, heads=HEADS)
    for index in range(depth - 1):
        block = vit.dino_block(dino, index)
        tokens = vit.feed_forward(vit.attend(tokens, block), block)
    last = f"blocks.{depth - 1}"
    normed = vit.layer_norm(tokens, vit.layer(weights, f"{last}.norm1"), 1e-6)
    query, key, value = np.split(vit.linear(normed, vit.layer(weights, f"{last}.attn.qkv")), 3, axis=1)
    attention = vit.attention_weights(query, key, HEADS)[:, 0, 1:]
    for ours, theirs in ((found.queries, query), (found.keys, key), (found.values, value)):
        rows = ours[0].transpose(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(rows, theirs[1:], rtol=0, atol=2e-3 * np.abs(theirs).max())
    np.testing.assert_allclose(found.class_attention[0], attention, rtol=0, atol=2e-3)
    assert attention.std() > 1e-3


def test_training_reads_the_same_off_features_that_were_kept(stem_state: dict[str, Tensor]) -> None:
    """`qkv`, from the stem's features, is what `Dino` reads off the photo itself."""
    dino = load_mini_dino(random_state(2), stem_state)
    images = torch.from_numpy(networks.photo(48, 80)).float().permute(2, 0, 1)[None] / 255
    vit_: Any = dino.vit
    with torch.inference_mode():
        found = dino.last_attention(images)
        kept = vit_.patch_embed.proj.stem((images - 0.5) / 0.5)
        query, key, value = vit_.qkv(kept)
    for ours, theirs in ((query, found.queries), (key, found.keys), (value, found.values)):
        torch.testing.assert_close(ours[0, 1:], theirs[0].transpose(0, 1).flatten(1), rtol=0, atol=1e-4)


def test_the_depth_is_read_off_the_file(stem_state: dict[str, Tensor]) -> None:
    dino = load_mini_dino(random_state(2), stem_state)
    assert len(dino.vit.blocks) == 2
    assert (dino.width, dino.patch_size) == (WIDTH, 16)
    assert not any(parameter.requires_grad for parameter in dino.parameters())


def test_a_file_of_something_else_is_named(stem_state: dict[str, Tensor]) -> None:
    state = random_state(2)
    del state["blocks.0.mlp.fc1.weight"]
    with pytest.raises(WeightsError, match=r"dino: expected tensor 'blocks\.0\.mlp\.fc1\.weight'"):
        load_mini_dino(state, stem_state)
