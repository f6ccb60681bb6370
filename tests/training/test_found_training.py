"""FOUND's recipe: its masks against the equations, and a decoder that learns from photos alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_drawn_photos import draw_photos, small_dino
from reference import methods, networks
from torch import nn

from annotator.models.dino import Dino, LastAttention
from annotator.models.found import Found, load_found
from annotator.training.bilateral import BilateralOptions, BilateralSolver
from annotator.training.crops import CropRecipe, PhotoCrops
from annotator.training.found import (
    FoundRecipe,
    decoder_state,
    kept_batches,
    live_batches,
    refined,
    seeded_crops,
    train_found,
)
from annotator.training.loop import random_of

CROPS = CropRecipe(side=64)
RECIPE = FoundRecipe(steps=40, batch=4, crops=CROPS, seed_steps=20, self_from=20, least_agreement=0.0, solver_stride=1)
NEVER_REFINED = replace(RECIPE, least_agreement=1.01)


class SeeingDino(nn.Module):
    """Knows bright from dark patches of 8 pixels: keys (bright, dark, noise), and attention to the bright ones."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def last_attention(self, images: torch.Tensor) -> LastAttention:
        light = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 8)
        grid = (light.shape[2], light.shape[3])
        light = light.flatten(1)
        bright = (light > 0.4).float()
        noise = 0.3 * torch.randn(light.shape, generator=torch.Generator().manual_seed(0))
        keys = torch.stack([bright, 1 - bright, noise], dim=-1)[:, None]
        attention = torch.stack([light, 0.1 + 0 * light], dim=1).softmax(dim=2)
        return LastAttention(keys.repeat(1, 2, 1, 1), keys.repeat(1, 2, 1, 1), keys.repeat(1, 2, 1, 1), attention, grid)


@pytest.fixture
def photos(tmp_path: Path) -> PhotoCrops:
    return PhotoCrops(draw_photos(tmp_path / "photos"), CROPS)


def test_masks_and_keys_equal_the_reference(photos: PhotoCrops) -> None:
    """Of whole crops, where refining is kept out."""
    seeded = seeded_crops(small_dino(), photos, 3, NEVER_REFINED, random_of(0, 0))
    drawn = photos.draw(3, random_of(0, 0)).photos
    dino = networks.dino_of(networks.timm_vit())
    for one, photo in zip(seeded, drawn, strict=True):
        assert one.known.all()
        mask = methods.found_bkg(photo / 255, dino)
        assert 0 < mask.mean() < 1
        coarse = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None], size=(64, 64), mode="bilinear")
        shares = torch.nn.functional.avg_pool2d((coarse > 0.5).float(), 8)[0, 0]
        torch.testing.assert_close(one.seeds, shares, rtol=0, atol=0)


def test_the_seed_lies_in_the_photo_and_not_beside_it(tmp_path: Path) -> None:
    """Black surroundings are darker than anything in these photos, so by attention they would be the seed."""
    photos = PhotoCrops(draw_photos(tmp_path / "photos"), CropRecipe(side=96, scales=(0.5, 0.5)))
    for one in seeded_crops(SeeingDino(), photos, 4, NEVER_REFINED, random_of(0, 0)):
        assert 20 < one.known.sum() < 144
        bright = one.keys[0] > 0.5
        assert not one.seeds[~one.known].any() or (one.seeds[~one.known] < 1).all()
        assert (one.seeds[bright & one.known] > 0.5).float().mean() > 0.8


def test_refining_follows_the_photo_unless_it_strays_too_far() -> None:
    """A mask of half the photo, whose edge lies 8 pixels beside the photo's: drawn there, with an IoU of 3/4."""
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[:, 24:] = 200
    solver = BilateralSolver(photo, BilateralOptions(spatial=64))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, 4:] = True
    moved = refined(mask, solver, replace(RECIPE, least_agreement=0.5))
    assert moved[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert refined(mask, solver, replace(RECIPE, least_agreement=0.9))[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_a_decoder_learns_objects_without_labels(photos: PhotoCrops) -> None:
    dino = SeeingDino()
    losses: list[float] = []
    decoder = train_found(
        kept_batches(dino, photos, 8, RECIPE), 6, RECIPE, report=lambda step, loss: losses.append(loss)
    )
    assert decoder is not None
    assert losses[RECIPE.seed_steps - 1] < 0.7 * losses[0]
    crops = photos.draw(6, random_of(9, 9)).images()
    bright = torch.nn.functional.avg_pool2d(crops.mean(dim=1), 8) > 0.4
    found = Found(dino, decoder).objectness(crops) > 0.5
    assert (found & bright).sum() / (found | bright).sum() > 0.95


def test_the_same_seed_gives_the_same_decoder_live_or_resumed(photos: PhotoCrops, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=6, seed_steps=4, self_from=2)
    dino = small_dino()
    first = train_found(live_batches(dino, photos, recipe), dino.width, recipe)
    stopped = train_found(
        live_batches(dino, photos, recipe), dino.width, recipe, checkpoint=tmp_path / "found.ckpt", minutes=0
    )
    again = train_found(live_batches(dino, photos, recipe), dino.width, recipe, checkpoint=tmp_path / "found.ckpt")
    other = train_found(live_batches(dino, photos, recipe), dino.width, replace(recipe, seed=1))
    assert stopped is None
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_the_decoder_is_saved_as_it_is_loaded(photos: PhotoCrops) -> None:
    dino = small_dino()
    recipe = replace(RECIPE, steps=1)
    decoder = train_found(live_batches(dino, photos, recipe), dino.width, recipe)
    assert decoder is not None
    loaded = load_found(dino, decoder_state(decoder))
    images = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.objectness(images), Found(dino, decoder).objectness(images))
    assert isinstance(dino, Dino)
