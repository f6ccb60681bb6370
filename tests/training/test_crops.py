"""Random crops: what they show is what lies in the photo there, and the same seed gives the same crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_drawn_photos import draw_photos
from PIL import Image

from annotator.errors import ConfigError
from annotator.training.crops import CropRecipe, PhotoCrops
from annotator.training.loop import random_of


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """One photo of 60 x 40 whose red grows to the right and whose green grows downwards, 4 levels a pixel."""
    y, x = np.mgrid[:40, :60]
    Image.fromarray(np.stack([4 * x, 4 * y, 0 * x], axis=-1).astype(np.uint8)).save(tmp_path / "ramp.png")
    return tmp_path


def slopes(photo: np.ndarray) -> tuple[float, float]:
    """Mean change of red per column and of green per row, away from the borders."""
    inner = photo[2:-2, 2:-2].astype(float)
    return float(np.diff(inner[..., 0], axis=1).mean()), float(np.diff(inner[..., 1], axis=0).mean())


def test_a_crop_of_a_large_photo_is_full_and_to_scale(ramp: Path) -> None:
    """The short side of 40 becomes 1.5 x 32 = 48 pixels: 4 levels a pixel are now 4 x 40 / 48."""
    photos = PhotoCrops(ramp, CropRecipe(side=32, scales=(1.5, 1.5)))
    crops = photos.draw(20, random_of(0, 0))
    assert crops.photos.shape == (20, 32, 32, 3)
    assert crops.shown.all()
    mirrored = 0
    for photo in crops.photos:
        right, down = slopes(photo)
        assert down == pytest.approx(4 * 40 / 48, abs=0.1)
        assert abs(right) == pytest.approx(4 * 40 / 48, abs=0.1)
        mirrored += right < 0
    assert 4 < mirrored < 16
    assert len({int(photo[0, 0, 1]) for photo in crops.photos}) > 5  # cut at different heights


def test_a_small_photo_is_whole_and_its_surroundings_are_marked(ramp: Path) -> None:
    """A short side of 0.5 x 32 = 16 and a long one of 24 within 32 x 32."""
    crops = PhotoCrops(ramp, CropRecipe(side=32, scales=(0.5, 0.5))).draw(6, random_of(0, 0))
    for photo, shown in zip(crops.photos, crops.shown, strict=True):
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        assert shown.sum() == 16 * 24 == len(rows) * len(columns)
        assert not photo[~shown].any()
        inside = photo[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside[..., 0].max() > 210  # of 236
        assert inside[..., 0].min() < 20


def test_the_same_seed_gives_the_same_crops(tmp_path: Path) -> None:
    recipe = CropRecipe(side=24, scales=(0.4, 2), jitter=0.5, blur=0.5)
    photos = PhotoCrops(draw_photos(tmp_path), recipe)
    first, again, other = (photos.draw(5, random_of(0, step)) for step in (3, 3, 4))
    assert np.array_equal(first.photos, again.photos)
    assert np.array_equal(first.shown, again.shown)
    assert not np.array_equal(first.photos, other.photos)


def test_images_are_what_networks_take(ramp: Path) -> None:
    crops = PhotoCrops(ramp, CropRecipe(side=16)).draw(2, random_of(0, 0))
    images = crops.images()
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images[1, 0, 5, 7] == crops.photos[1, 5, 7, 0] / 255


def test_jitter_changes_colours_within_its_range(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (100, 100, 100)).save(tmp_path / "grey.png")
    crops = PhotoCrops(tmp_path, CropRecipe(side=8, jitter=0.2)).draw(50, random_of(0, 0))
    levels = crops.photos[:, 0, 0, 0]
    assert levels.min() >= 79
    assert levels.max() <= 121
    assert levels.std() > 5


def test_damaged_photos_are_passed_over(tmp_path: Path) -> None:
    draw_photos(tmp_path, count=2)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    photos = PhotoCrops(tmp_path, CropRecipe(side=8))
    assert len(photos) == 3
    assert photos.draw(12, random_of(0, 0)).photos.any(axis=(1, 2, 3)).all()


def test_a_folder_of_damaged_photos_only_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    with pytest.raises(ConfigError, match="20 of them cannot be read"):
        PhotoCrops(tmp_path, CropRecipe(side=8)).draw(1, random_of(0, 0))


def test_takes_some_photos_evenly(tmp_path: Path) -> None:
    draw_photos(tmp_path, count=6)
    assert len(PhotoCrops(tmp_path, CropRecipe(side=8), photos=3)) == 3
    assert len(PhotoCrops(tmp_path, CropRecipe(side=8), photos=30)) == 6
