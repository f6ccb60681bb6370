"""Maps per patch on whole photos: what lies where, whatever the photo's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from annotator.models.objectness import photo_objectness


def test_patches_of_one_pixel_give_the_photo_back() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    soft = photo_objectness(photo, 1, lambda image: image[:, 0], short_side=5)
    np.testing.assert_allclose(soft, photo[..., 0] / 255, atol=1e-6)


def test_the_border_beyond_the_photo_is_cut_off() -> None:
    """10 x 14 pixels are 3 x 4 patches of 4: an edge between the second and third column of patches is at pixel 8."""

    def maps(image: Tensor) -> Tensor:
        assert image.shape == (1, 3, 10, 14)
        return torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 3, 4)

    soft = photo_objectness(np.zeros((10, 14, 3), np.uint8), 4, maps, short_side=10)
    assert soft.shape == (10, 14)
    assert soft.dtype == np.float64
    assert (soft[:, 7] < 0.5).all()
    assert (soft[:, 8] > 0.5).all()
    assert soft[:, :6].max() == 0
    assert soft[:, 10:].min() == 1


def test_an_upright_photo_keeps_its_rows() -> None:
    """14 x 10 pixels are 4 x 3 patches of 4; the lowest two rows of patches are the object's."""
    patches = torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None].expand(1, 4, 3)
    soft = photo_objectness(np.zeros((14, 10, 3), np.uint8), 4, lambda image: patches, short_side=10)
    assert soft.shape == (14, 10)
    assert (soft[7] < 0.5).all()
    assert (soft[8] > 0.5).all()
    assert soft[:6].max() == 0
    assert soft[10:].min() == 1


@pytest.mark.parametrize(("height", "width", "seen"), [(100, 50, (32, 16)), (9, 27, (16, 48))])
def test_the_network_sees_the_photo_at_the_short_side(height: int, width: int, seen: tuple[int, int]) -> None:
    sizes = []

    def maps(image: Tensor) -> Tensor:
        sizes.append(tuple(image.shape[2:]))
        return torch.full((1, seen[0] // 8, seen[1] // 8), 0.25)

    soft = photo_objectness(np.full((height, width, 3), 80, np.uint8), 8, maps, short_side=16)
    assert sizes == [seen]
    assert soft.shape == (height, width)
    assert np.allclose(soft, 0.25)
