"""FOUND and CLIP-DINOiser's heads on cases small enough for paper and pencil, and in their published formats."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import networks
from torch import Tensor, nn

from annotator.errors import WeightsError
from annotator.models.dino import Dino, LastAttention
from annotator.models.found import Found, load_found
from annotator.models.heads import affinity, guided_pooling, load_heads
from annotator.models.weights import read_state


class FixedDino(nn.Module):
    """Two heads on 1 x 4 patches, whatever the photo."""

    attention = (((0.25, 0.15, 0.15, 0.20), (0.15, 0.05, 0.07, 0.02)),)
    keys = ((((3.0, 0.0), (0.0, 3.0), (0.0, 9.0), (3.0, 0.0)), ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 0.0))),)

    def last_attention(self, images: Tensor) -> LastAttention:
        keys, attention = torch.tensor(self.keys), torch.tensor(self.attention)
        return LastAttention(keys, keys, keys, attention, (1, 4))


def test_seed_form_by_hand() -> None:
    """The mean attention is 0.13: head 0 exceeds it at all patches (Q = 1), head 1 at the first alone (Q = 1/4), so
    b = (log 1.25, log 5) = (0.223, 1.609). Weighted attention: 0.297, 0.114, 0.146, 0.077; the least, that of the
    last patch, makes it the seed. (Without weights it would be the second.)
    """
    b0, b1 = math.log(1.25), math.log(5)
    long, short = (3 * b0) ** 2, b1**2  # squared lengths of the two heads' parts; the third patch has one only
    cosines = [long / (long + short), short / (long + short), 0.0, 1.0]
    assert [round(cosine, 2) for cosine in cosines] == [0.15, 0.85, 0, 1]
    found = Found(FixedDino(), None).seed_objectness(torch.zeros(1, 3, 8, 32))
    assert found.tolist() == [[[1.0, 0.0, 1.0, 0.0]]]  # an object where the cosine is at most 0.3


def test_decoder_by_hand() -> None:
    """Weights (1/2, -1/4, 1, 2) on both heads' keys side by side, bias 1/2."""
    decoder = nn.Conv2d(4, 1, 1)
    weight = torch.tensor([0.5, -0.25, 1.0, 2.0]).view(1, 4, 1, 1)
    decoder.load_state_dict({"weight": weight, "bias": torch.tensor([0.5])})
    found = Found(FixedDino(), decoder).objectness(torch.zeros(1, 3, 8, 32))
    logits = [1.5 + 2 + 0.5, -0.75 + 1 + 0.5, -2.25 + 0.5, 1.5 + 1 + 0.5]
    np.testing.assert_allclose(found, [[[1 / (1 + math.exp(-logit)) for logit in logits]]], atol=1e-6)
    assert Found(FixedDino(), decoder).logits(torch.zeros(1, 3, 8, 32)).tolist() == [[logits]]


def test_published_decoder_format(tmp_path: Path) -> None:
    weight, bias = (torch.from_numpy(value).float() for value in networks.random_decoder().values())
    torch.save({"decoder": {"weight": weight, "bias": bias}}, tmp_path / "decoder_weights.pt")
    dino = Dino(networks.timm_vit().float())
    found = load_found(dino, read_state(tmp_path / "decoder_weights.pt", "found"))
    images = torch.rand(2, 3, 20, 33, generator=torch.Generator().manual_seed(0))
    attention = dino.last_attention(images)
    logits = torch.einsum("bcyx,c->byx", attention.as_map(attention.keys), weight[0, :, 0, 0]) + bias
    torch.testing.assert_close(found.objectness(images), logits.sigmoid(), rtol=0, atol=1e-6)


def test_a_decoder_of_another_width_is_refused() -> None:
    state = {"weight": torch.zeros(1, 384, 1, 1), "bias": torch.zeros(1)}
    with pytest.raises(WeightsError, match="'weight' to be 1 x 24 x 1 x 1 in 1 x 1 decoder, but found 1 x 384 x 1 x 1"):
        load_found(Dino(networks.timm_vit().float()), state)


def test_published_heads_format(tmp_path: Path) -> None:
    """g reads the features as they are with its border repeated, h reads them at length 1."""
    tensors = {name: torch.from_numpy(value).float() for name, value in networks.random_heads().items()}
    beside = {"clip_backbone.backbone.visual.proj": torch.ones(3)}
    torch.save({"epoch": 1, "model_state_dict": {**tensors, **beside}}, tmp_path / "last.pt")
    heads = load_heads(read_state(tmp_path / "last.pt", "dinoiser"))

    constant = torch.randn(32, generator=torch.Generator().manual_seed(0))
    features = constant.view(1, 32, 1, 1).expand(1, 32, 3, 5)  # the same everywhere, so the border must not show
    g = tensors["obj_proj.weight"].sum(dim=(2, 3)) @ constant + tensors["obj_proj.bias"]
    expected = g.view(1, 20, 1, 1).expand(1, 20, 3, 5)
    torch.testing.assert_close(heads.affinity_features(features), expected, rtol=1e-4, atol=1e-4)
    h = tensors["bkg_decoder.weight"][0, :, 0, 0] @ (constant / constant.norm()) + tensors["bkg_decoder.bias"]
    torch.testing.assert_close(heads.objectness(features), h.sigmoid().view(1, 1, 1).expand(1, 3, 5))
    assert not any(parameter.requires_grad for parameter in heads.parameters())


def test_heads_that_are_none_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"heads: expected tensor 'obj_proj\.weight'"):
        load_heads({})


def test_affinity_and_pooling_by_hand() -> None:
    """Patches (1, 0), (3, 4), (0, -2): cosines .6, 0 and -.8, of which only .6 is at least gamma."""
    features = torch.tensor([[[[1.0, 3.0, 0.0]], [[0.0, 4.0, -2.0]]]])  # 1 x 2 x 1 x 3
    weights = affinity(features, gamma=0.2)
    np.testing.assert_allclose(weights, [[[1, 0.6, 0], [0.6, 1, 0], [0, 0, 1]]], atol=1e-6)
    assert affinity(features, gamma=0.7)[0, 0, 1] == 0
    pooled = guided_pooling(features, weights)
    expected = [[[[2.8 / 1.6, 3.6 / 1.6, 0]], [[2.4 / 1.6, 4 / 1.6, -2]]]]
    np.testing.assert_allclose(pooled, expected, atol=1e-5)
