"""Segment embeddings against a float64 loop reference, and where they must be CLIP's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import networks, vit, zeroguide
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.errors import ConfigError
from annotator.models.clip import DenseClip
from annotator.models.masked_clip import SegmentEmbedder, SegmentOptions, area_average, embed_segments, to_square

SIDE, PATCH = 32, 8  # 4 x 4 patches, 4 layers
CLOSE = {"rtol": 0, "atol": 1e-5}


class NoText(nn.Module):
    """For tests of the vision side."""


@pytest.fixture(scope="module")
def clip() -> DenseClip:
    return DenseClip(networks.open_clip_vit(PATCH).float(), NoText(), vit.CLIP_MEAN, vit.CLIP_STD)


def photo(side: int = SIDE) -> np.ndarray:
    return networks.photo(side, side) / 255


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).float().permute(2, 0, 1)


def masks(side: int) -> np.ndarray:
    """All, none, whole cells only, cells of every share, one pixel, soft edges; S x side x side."""
    full, empty = np.ones((side, side)), np.zeros((side, side))
    cells, ragged, pixel = empty.copy(), empty.copy(), empty.copy()
    cells[: side // 2, side // 4 :] = 1
    ragged[side // 5 : side - 3, side // 3 : side - side // 5 + 1] = 1
    pixel[side // 3, side // 2] = 1
    soft = np.linspace(0, 1, side)[:, None] * np.linspace(1, 0.2, side)[None]
    return np.stack([full, empty, cells, ragged, pixel, soft])


@pytest.mark.parametrize("saliency", ["output", "attention", None])
@pytest.mark.parametrize(("first", "given"), [(4, None), (3, 3), (1, 1)])  # None: the last sixth of 4 layers is one
@pytest.mark.parametrize("mask_side", [SIDE, 45])  # 45 px on 4 cells: their borders cut pixels
def test_equals_the_reference(
    clip: DenseClip, saliency: str | None, first: int, given: int | None, mask_side: int
) -> None:
    options = SegmentOptions(
        baseline="full" if saliency else "no-subtraction",
        saliency="attention" if saliency == "attention" else "output",
        first_masked=given,
        sigma=1.2,
    )
    found = embed_segments(clip, as_tensor(photo()), torch.from_numpy(masks(mask_side)), options)
    reference = networks.clip_of(networks.open_clip_vit(PATCH))
    expected = [
        zeroguide.segment_embedding(
            photo(), mask, reference, first, subtract=saliency is not None, saliency=saliency or "output", sigma=1.2
        )
        for mask in masks(mask_side)
    ]
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert np.ptp(np.stack(expected), axis=0).max() > 0.1, "the masks make no difference: the test tells nothing"


def test_defaults_are_the_papers() -> None:
    assert SegmentOptions() == SegmentOptions("full", "output", None, 2.5**0.5)


@pytest.mark.parametrize(("depth", "first"), [(24, 21), (12, 11), (6, 6), (4, 4), (1, 1)])
def test_without_a_choice_the_last_sixth_sees_the_mask(depth: int, first: int) -> None:
    """21...24 of 24, as in the paper: the layers before `first` are shared by all masks."""
    from open_clip.transformer import VisionTransformer

    shape = {"image_size": 16, "patch_size": 8, "width": 16, "heads": 2, "mlp_ratio": 1.0, "output_dim": 4}
    tower = networks.randomise(VisionTransformer(layers=depth, **shape), seed=depth).float()
    deep = DenseClip(tower, NoText(), vit.CLIP_MEAN, vit.CLIP_STD)
    image, mask = torch.rand(3, 16, 16), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    chosen = embed_segments(deep, image, mask, SegmentOptions(first_masked=first))
    torch.testing.assert_close(embed_segments(deep, image, mask), chosen, rtol=0, atol=0)
    if depth > 1:
        other = SegmentOptions(first_masked=first - 1)
        assert not torch.allclose(embed_segments(deep, image, mask, other), chosen, atol=1e-4)


@pytest.mark.parametrize("saliency", ["output", "attention"])
@pytest.mark.parametrize("first", [1, 3, None])
def test_a_full_mask_without_subtraction_is_clips_own_embedding(
    clip: DenseClip, saliency: str, first: int | None
) -> None:
    image = as_tensor(photo())
    own = F.normalize(clip.embed(image[None]), dim=1)
    for options in (
        SegmentOptions(baseline="no-subtraction", first_masked=first),
        SegmentOptions(saliency="attention" if saliency == "attention" else "output", sigma=1e-3, first_masked=first),
    ):  # w = exp(-(1 + 1)^2 / 2e-6) = 0
        found = embed_segments(clip, image, torch.ones(2, 21, 33), options)
        torch.testing.assert_close(found, own.expand(2, -1), rtol=0, atol=1e-6)


def test_the_batch_does_not_matter(clip: DenseClip) -> None:
    image, every = as_tensor(photo()), torch.from_numpy(masks(SIDE))
    for baseline in ("full", "no-subtraction", "crop-and-mask"):
        options = SegmentOptions(baseline=baseline)
        together = embed_segments(clip, image, every, options)
        for at_once in (1, 4):
            apart = embed_segments(clip, image, every, options, at_once)
            torch.testing.assert_close(apart, together, rtol=0, atol=1e-6)
        reverse = embed_segments(clip, image, every.flip(0), options).flip(0)
        torch.testing.assert_close(reverse, together, rtol=0, atol=1e-6)


def test_layers_before_the_mask_run_once(clip: DenseClip) -> None:
    calls: list[int] = []
    blocks = clip.visual.transformer.resblocks
    handles = [
        block.register_forward_hook(lambda *_, index=index: calls.append(index)) for index, block in enumerate(blocks)
    ]
    try:
        embedder = SegmentEmbedder(clip, as_tensor(photo()), SegmentOptions(first_masked=3), at_once=2)
        first = embedder.embed(torch.from_numpy(masks(SIDE)))
        again = embedder.embed(torch.from_numpy(masks(SIDE)))
    finally:
        for handle in handles:
            handle.remove()
    assert calls == [0, 1]
    assert torch.equal(first, again)


def test_a_segment_that_is_cut_out(clip: DenseClip) -> None:
    """By hand: rows 8 to 15 and columns 4 to 19 of the photo, the rest of that box in CLIP's mean colour."""
    pixels = photo(24)
    mask = np.zeros((24, 24))
    mask[8:16, 4:12], mask[10:14, 12:20] = 1, 1
    cut = np.where(mask[..., None] == 1, pixels, np.array(vit.CLIP_MEAN))[8:16, 4:20]
    square = to_square(as_tensor(cut)[None], SIDE)[0]
    expected = F.normalize(clip.embed(square[None]), dim=1)
    options = SegmentOptions(baseline="crop-and-mask")
    found = embed_segments(clip, as_tensor(pixels), torch.from_numpy(mask)[None], options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # an empty segment is the mean colour alone, not an error
    nothing = F.normalize(clip.embed(clip.mean.expand(1, 3, SIDE, SIDE)), dim=1)
    found = embed_segments(clip, as_tensor(pixels), torch.zeros(1, 24, 24), options)
    torch.testing.assert_close(found, nothing, rtol=0, atol=1e-5)


def test_photos_of_other_sizes_become_clips_square(clip: DenseClip) -> None:
    image = torch.rand(3, 50, 90, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 50, 90)
    mask[:, 10:, 30:] = 1
    expected = embed_segments(clip, to_square(image[None], SIDE)[0], mask)
    torch.testing.assert_close(embed_segments(clip, image, mask), expected, rtol=0, atol=0)
    assert embed_segments(clip, torch.rand(3, 1, 1), torch.ones(1, 1, 1)).isfinite().all()


@pytest.mark.parametrize("saliency", ["output", "attention"])
def test_reduced_precision_stays_inside_the_network(saliency: str) -> None:
    rough = DenseClip(networks.open_clip_vit(PATCH).float(), NoText(), vit.CLIP_MEAN, vit.CLIP_STD)
    options = SegmentOptions(saliency="attention" if saliency == "attention" else "output")
    image, every = as_tensor(photo()), torch.from_numpy(masks(SIDE))
    exact = embed_segments(rough, image, every, options)
    rough.precision = "bf16"
    found = embed_segments(rough, image, every, options)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    assert F.cosine_similarity(found, exact, dim=1).min() > 0.99


def test_no_segments(clip: DenseClip) -> None:
    assert embed_segments(clip, as_tensor(photo()), torch.zeros(0, 8, 8)).shape == (0, 16)


def test_area_averages_by_hand() -> None:
    """3 pixels on 2 cells: a cell holds one and a half pixels each way."""
    mask = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]])
    expected = torch.tensor([[[1 / 2.25, 0.0], [0.5 / 2.25, 1.5 / 2.25]]])
    torch.testing.assert_close(area_average(mask, (2, 2)), expected, rtol=0, atol=1e-7)
    for size, grid in (((224, 333), (24, 24)), ((7, 5), (14, 14)), ((1, 1), (3, 2))):
        assert torch.equal(area_average(torch.ones(1, *size), grid), torch.ones(1, *grid))


def test_a_bell_needs_a_width() -> None:
    with pytest.raises(ConfigError, match=r"sigma: expected at least 0\.001, but got 0"):
        SegmentOptions(sigma=0.0)


@pytest.mark.parametrize("layer", [0, 5])
def test_a_layer_that_is_none_is_refused(clip: DenseClip, layer: int) -> None:
    with pytest.raises(ConfigError, match=f"one of CLIP's 4 layers, counted from 1, but got {layer}"):
        embed_segments(clip, torch.rand(3, 8, 8), torch.ones(1, 8, 8), SegmentOptions(first_masked=layer))
