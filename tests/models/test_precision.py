"""bf16 is switched on where it was asked for, in the blocks; what is compared with thresholds stays float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from reference import networks, vit
from torch import Tensor, nn

from annotator.errors import ConfigError
from annotator.models.backbone import Backbone, Precision
from annotator.models.clip import DenseClip
from annotator.models.devices import resolve_precision
from annotator.models.dino import Dino
from annotator.models.found import SEED_SIMILARITY, Found
from annotator.models.networks import Networks
from annotator.models.packs import read_pack

IMAGES = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(3))
LARGE = torch.rand(2, 3, 240, 320, generator=torch.Generator().manual_seed(4))
"""Of many patches, so that some are near the threshold."""
DTYPES: list[tuple[Precision, torch.dtype]] = [("fp32", torch.float32), ("bf16", torch.bfloat16)]


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize(("precision", "dtype"), DTYPES)
def test_a_packs_networks_run_in_it(precision: Precision, dtype: torch.dtype) -> None:
    """From the pack's files to the numbers inside a block; a network within a network is one of them."""
    given = read_pack("embedded").networks("dinoiser", "cpu", precision)
    backbones = [given.clip, given.dino, given.found.dino]
    assert all(isinstance(backbone, Backbone) for backbone in backbones)
    assert [backbone.precision for backbone in backbones] == [precision] * 3
    block: Any = given.clip.visual.transformer.resblocks[0]
    with given.inference(), outputs_of(block.mlp) as inside:
        found = given.clip.dense(IMAGES)
    assert [output.dtype for output in inside] == [dtype]
    assert {features.dtype for features in vars(found).values()} == {torch.float32}


@pytest.mark.parametrize(("precision", "dtype"), DTYPES)
def test_clip_embeds_in_it_and_answers_in_float32(precision: Precision, dtype: torch.dtype) -> None:
    clip = DenseClip(networks.open_clip_vit(16).float(), nn.Identity(), vit.CLIP_MEAN, vit.CLIP_STD)
    given = Networks.of(precision=precision, clip=clip)
    with given.inference(), outputs_of(given.clip.visual.transformer.resblocks[1].mlp) as inside:
        assert given.clip.embed(IMAGES).dtype == torch.float32
    assert [output.dtype for output in inside] == [dtype]


@pytest.mark.parametrize(("precision", "dtype"), DTYPES)
def test_dinos_attention_is_of_float32(precision: Precision, dtype: torch.dtype) -> None:
    """q, k and v as the last layer makes them; what comes of them is worked out again in float64."""
    given = Networks.of(precision=precision, dino=Dino(networks.timm_vit().float()))
    with given.inference(), outputs_of(given.dino.vit.blocks[-1].attn.qkv) as inside:
        found = given.dino.last_attention(IMAGES)
    (qkv,) = inside
    assert qkv.dtype == dtype
    q, k, v = qkv.double().unflatten(-1, (3, found.keys.shape[1], -1)).permute(2, 0, 3, 1, 4)
    for ours, theirs in ((found.queries, q), (found.keys, k), (found.values, v)):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs[:, :, 1:], rtol=0, atol=0)
    attention = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)[:, :, 0, 1:]
    assert found.class_attention.dtype == torch.float32
    torch.testing.assert_close(found.class_attention.double(), attention, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("precision", "dtype"), DTYPES)
def test_founds_objectness_is_of_float32(precision: Precision, dtype: torch.dtype) -> None:
    decoder = nn.Conv2d(24, 1, 1)
    decoder.load_state_dict({name: torch.from_numpy(value) for name, value in networks.random_decoder().items()})
    given = Networks.of(precision=precision, found=Found(Dino(networks.timm_vit().float()), decoder))
    with given.inference(), outputs_of(given.found.dino.vit.blocks[-1].attn.qkv) as inside:
        theta, seeds = given.found.objectness(LARGE), given.found.seed_objectness(LARGE)
        attention = given.found.dino.last_attention(LARGE)
    assert [output.dtype for output in inside] == [dtype] * 3
    keys = attention.as_map(attention.keys).double()
    weight, bias = decoder.weight.double(), decoder.bias
    assert bias is not None
    logits = torch.einsum("bchw,c->bhw", keys, weight[0, :, 0, 0]) + bias.double()
    assert theta.dtype == torch.float32
    torch.testing.assert_close(theta.double(), logits.sigmoid(), rtol=0, atol=1e-6)

    a, keys = attention.class_attention.double(), attention.keys.double()
    share = (a > a.mean(dim=(1, 2), keepdim=True)).double().mean(dim=2).clamp(min=1 / a.shape[2])
    beta = (share.sum(dim=1, keepdim=True) / share).log()
    seed = torch.einsum("bhp,bh->bp", a, beta).argmin(dim=1)
    weighted = nn.functional.normalize(torch.einsum("bhpc,bh->bphc", keys, beta).flatten(2), dim=2)
    cosines = torch.stack([patches @ patches[index] for patches, index in zip(weighted, seed, strict=True)])
    clear = (cosines - SEED_SIMILARITY).abs() > 1e-6
    assert torch.equal(seeds.flatten(1)[clear] == 1, (cosines <= SEED_SIMILARITY)[clear])
    assert clear.float().mean() > 0.9


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="--precision fp16: expected auto, fp32 or bf16"):
        resolve_precision("fp16", "cpu")
