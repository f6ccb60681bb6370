"""CLIP-DINOiser's recipe: losses against loops in float64, targets against the reference, seeded and resumable."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_drawn_photos import draw_photos, small_clip, small_dino
from reference import methods, networks, vit

from annotator.models.clip import DenseClip
from annotator.models.dino import Dino
from annotator.models.found import Found, load_found
from annotator.models.heads import DinoiserHeads
from annotator.training.crops import CropRecipe, PhotoCrops
from annotator.training.heads import (
    HeadsRecipe,
    Taught,
    affinity_loss,
    keep,
    kept_batches,
    live_batches,
    objectness_loss,
    teach,
    train_heads,
)
from annotator.training.loop import random_of

RECIPE = HeadsRecipe(
    steps=60, batch=3, crops=CropRecipe(side=64, jitter=0.5), affinity_rate=1e-2, objectness_rate=1e-1, decay_from=50
)
Networks = tuple[DenseClip, Dino, Found]


@pytest.fixture
def teachers() -> Networks:
    dino = small_dino()
    decoder = {name: torch.from_numpy(value).float() for name, value in networks.random_decoder().items()}
    return small_clip(), dino, load_found(dino, decoder)


@pytest.fixture
def photos(tmp_path: Path) -> PhotoCrops:
    return PhotoCrops(draw_photos(tmp_path / "photos"), RECIPE.crops)


def random_taught(seed: int = 0) -> Taught:
    random = torch.Generator().manual_seed(seed)
    alike = torch.nn.functional.normalize(torch.randn(2, 5, 3, 4, generator=random), dim=1)
    return Taught(torch.randn(2, 32, 3, 4, generator=random), alike, torch.rand(2, 3, 4, generator=random) > 0.5)


def cross_entropy(logit: float, target: float) -> float:
    p = methods.sigmoid(logit)
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def test_losses_equal_loops_over_patches() -> None:
    """Every pair of patches in float64, from the equations."""
    weights = networks.random_heads()
    heads = DinoiserHeads(32, affinity_width=20)
    heads.load_state_dict({name: torch.from_numpy(value).float() for name, value in weights.items()})
    taught = random_taught()
    pairs, patches = [], []
    for image in range(2):
        inner = taught.intermediate[image].flatten(1).T.double().numpy()
        teacher = taught.alike[image].flatten(1).T.double().numpy()
        guide = methods.unit(methods.convolve3x3(inner, (3, 4), *vit.layer(weights, "obj_proj")))
        for p in range(12):
            pairs += [
                cross_entropy(max(float(guide[p] @ guide[q]), 0.0), float(teacher[p] @ teacher[q] > 0.2))
                for q in range(12)
            ]
        weight, bias = vit.layer(weights, "bkg_decoder")
        objects = taught.objects[image].flatten().tolist()
        for feature, wanted in zip(methods.unit(inner), objects, strict=True):
            patches.append(cross_entropy(float(weight[0, :, 0, 0] @ feature + bias[0]), float(wanted)))
    with torch.no_grad():
        assert affinity_loss(heads, taught, RECIPE).item() == pytest.approx(np.mean(pairs), abs=1e-5)
        assert objectness_loss(heads, taught).item() == pytest.approx(np.mean(patches), abs=1e-5)


def test_the_scaled_logit_by_hand() -> None:
    """Patches with cosines of 1 and -1 (so 0), together and apart: logits 10 (1 - 0.2) = 8 and -2."""
    heads = DinoiserHeads(1, affinity_width=1)
    torch.nn.init.zeros_(heads.obj_proj.weight)
    torch.nn.init.zeros_(heads.obj_proj.bias)
    heads.obj_proj.weight.data[0, 0, 1, 1] = 1
    signs = torch.tensor([[[[2.0, -3.0]]]])
    taught = Taught(signs, torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.zeros(1, 1, 2, dtype=torch.bool))
    loss = affinity_loss(heads, taught, replace(RECIPE, scale=10.0, offset=0.2))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-8)) + math.log1p(math.exp(-2))) / 2)


def test_teachers_equal_the_reference(teachers: Networks) -> None:
    """CLIP's patches are twice as large as DINO's: what DINO and FOUND say comes to CLIP's grid."""
    pixels = networks.photo(64, 80) / 255
    taught = teach(torch.from_numpy(pixels).float().permute(2, 0, 1)[None], *teachers)
    clip = networks.clip_of(networks.open_clip_vit(), mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    dino = networks.dino_of(networks.timm_vit())
    inner = vit.intermediate_features(vit.clip_states(pixels, clip), clip)
    values = methods.unit(methods.dino_values(pixels, dino, (4, 5)))
    soft = methods.found(pixels, dino, networks.random_decoder())
    objects = methods.on_grid(soft.reshape(-1, 1), (8, 10), (4, 5))[:, 0] > 0.5
    np.testing.assert_allclose(taught.intermediate[0].flatten(1).T, inner, rtol=0, atol=1e-3)
    np.testing.assert_allclose(taught.alike[0].flatten(1).T, values, rtol=0, atol=1e-4)
    assert 0 < objects.mean() < 1
    assert taught.objects[0].flatten().tolist() == objects.tolist()


def test_both_heads_learn_from_photos_alone(teachers: Networks, photos: PhotoCrops) -> None:
    kept = keep(*teachers, photos, 6, RECIPE)
    torch.manual_seed(RECIPE.seed)
    start = DinoiserHeads(32)
    trained = train_heads(kept_batches(kept, RECIPE), 32, RECIPE)
    assert trained is not None
    with torch.no_grad():
        for loss in (lambda heads: affinity_loss(heads, kept, RECIPE), lambda heads: objectness_loss(heads, kept)):
            assert loss(trained) < 0.95 * loss(start)


def test_live_and_resumed_training_end_alike(teachers: Networks, photos: PhotoCrops, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=4, decay_from=2)
    batches = live_batches(*teachers, photos, recipe)
    first = train_heads(batches, 32, recipe)
    assert train_heads(batches, 32, recipe, checkpoint=tmp_path / "heads.ckpt", minutes=0) is None
    again = train_heads(batches, 32, recipe, checkpoint=tmp_path / "heads.ckpt")
    assert first is not None
    assert again is not None
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_kept_crops_are_those_that_would_be_drawn(teachers: Networks, photos: PhotoCrops) -> None:
    kept = keep(*teachers, photos, 4, RECIPE)
    assert kept.intermediate.shape == (4, 32, 4, 4)
    assert kept.intermediate.dtype == kept.alike.dtype == torch.float16
    last = teach(photos.draw(1, random_of(RECIPE.seed + 1, 3)).images(), *teachers)
    torch.testing.assert_close(kept.intermediate[3:].float(), last.intermediate, rtol=1e-3, atol=1e-2)
