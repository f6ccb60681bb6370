"""The reference's methods against torch and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from reference import image_ops, methods, vit
from reference.networks import clip_of, dino_of, open_clip_vit, photo, random_decoder, random_heads, timm_vit

CLOSE = {"rtol": 0, "atol": 1e-9}
WINDOWS = {"window": 64, "stride": 32, "short_side": 64, "max_long": 160}
TEXT = methods.unit(np.random.default_rng(7).normal(size=(5, 16)))
NAMES = [0, 1, 1, 2, 3]


def test_convolution_is_torchs_with_replicated_border() -> None:
    heads, features = random_heads(), np.random.default_rng(1).normal(size=(12, 32))
    weight, bias = heads["obj_proj.weight"], heads["obj_proj.bias"]
    image = functional.pad(torch.from_numpy(features.T.reshape(1, 32, 3, 4)), (1, 1, 1, 1), mode="replicate")
    theirs = functional.conv2d(image, torch.from_numpy(weight), torch.from_numpy(bias))[0].flatten(1).T
    np.testing.assert_allclose(methods.convolve3x3(features, (3, 4), weight, bias), theirs, **CLOSE)


def test_affinity_and_guided_pooling_by_hand() -> None:
    # The first has cosines 0.6, 0 and 0.1 with the others, the second 0.8 with the third; the fourth's rest is negative
    affinity = methods.affinities(np.array([[2.0, 0.0], [0.6, 0.8], [0.0, 3.0], [0.1, -np.sqrt(0.99)]]), gamma=0.2)
    expected = [[1, 0.6, 0, 0], [0.6, 1, 0.8, 0], [0, 0.8, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(affinity, expected, **CLOSE)
    pooled = methods.guided_pooling(np.array([[1.0], [2.0], [4.0], [8.0]]), affinity)
    np.testing.assert_allclose(pooled[:, 0], [2.2 / 1.6, 5.8 / 2.4, 5.6 / 1.8, 8.0], rtol=0, atol=1e-5)


def test_synonyms_compete_and_the_class_takes_the_best() -> None:
    text = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    odds = np.exp([2.0, 0.0, 1.2])  # twice the cosines with (3, 0)
    expected = [odds[0] / odds.sum(), odds[2] / odds.sum()]
    ours = methods.class_probabilities(np.array([[3.0, 0.0]]), text, [0, 1, 1], scale=2.0)
    np.testing.assert_allclose(ours, [expected], **CLOSE)


def test_head_objectness_by_hand() -> None:
    heads = {"bkg_decoder.weight": np.array([2.0, 1.0]).reshape(1, 2, 1, 1), "bkg_decoder.bias": np.array([-2.0])}
    # (3, 4) has direction (0.6, 0.8): 1.2 + 0.8 - 2 = 0
    ours = methods.head_objectness(np.array([[3.0, 4.0], [0.0, 5.0]]), heads)
    np.testing.assert_allclose(ours, [0.5, 1 / (1 + np.e)], **CLOSE)


def to_pixels(per_patch: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """N x C on the grid -> size x C."""
    image = per_patch.T.reshape(1, -1, *grid)
    return functional.interpolate(image, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


def name_chances(features: torch.Tensor) -> torch.Tensor:
    """Softmax over five names; the second class has two of them."""
    chances = torch.softmax(10 * functional.normalize(features) @ torch.from_numpy(TEXT.T), dim=1)
    return torch.stack([chances[:, 0], chances[:, 1:3].amax(dim=1), chances[:, 3], chances[:, 4]], dim=1)


def test_maskclip_of_one_window_is_its_patches_upsampled() -> None:
    clip, image = clip_of(open_clip_vit(16)), photo(64, 64)
    dense = torch.from_numpy(vit.maskclip_features(vit.clip_states(image / 255.0, clip), clip))
    theirs = to_pixels(name_chances(dense), (4, 4), (64, 64))
    probabilities, classes = methods.maskclip(image, clip, TEXT, NAMES, scale=10, **WINDOWS)
    np.testing.assert_allclose(probabilities, theirs, **CLOSE)
    assert (classes == theirs.argmax(dim=2).numpy()).all()


def test_overlapping_windows_are_averaged_with_equal_weight() -> None:
    def brightness(pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        return np.full((1, 1), pixels[0, 0, 0]), (1, 1)  # a window says the value of its first pixel

    image = np.repeat(np.arange(0, 150, 15, dtype=np.uint8), 12).reshape(1, 10, 4, 3)[:, :, 0].repeat(4, axis=0)
    full, _ = methods.slide(image, brightness, 4, 4, 2, 4, 100, None)
    # Windows at 0, 2, 4, 6 say 0, 30, 60, 90; two of them lie over each inner pixel
    np.testing.assert_allclose(full[1, :, 0] * 255, [0, 0, 15, 15, 45, 45, 75, 75, 90, 90], **CLOSE)


def test_padding_of_a_window_is_cut_off() -> None:
    def two_by_two(pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        return np.array([[0.0], [1.0], [0.0], [1.0]]), (2, 2)

    # A window of 6 x 6 is seen as 8 x 8 with patches of 4: the ramp is drawn over 8 columns, of which 6 stay
    full, _ = methods.slide(photo(6, 6), two_by_two, 4, 6, 3, 6, 100, None)
    np.testing.assert_allclose(full[:, :, 0], [[0, 0, 0.125, 0.375, 0.625, 0.875]] * 6, **CLOSE)


def test_windows_of_a_panorama_are_as_high_as_it_is() -> None:
    seen = []

    def note(pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        seen.append(pixels.shape[:2])
        return np.zeros((1, 2)), (1, 1)

    full, _ = methods.slide(photo(4, 20), note, 4, 4, 2, 4, 10, None)  # 4 x 20 becomes 2 x 10
    assert seen == [(2, 4)] * 4
    assert full.shape == (4, 20, 2)


def resized(per_patch: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    return to_pixels(per_patch, old, new).flatten(0, 1)


def torch_dinoiser(pixels: np.ndarray, affinity: str, objectness: str, background: int | None) -> torch.Tensor:
    """One window of 64 x 64, patches 16: probabilities per patch, in matrix form."""
    clip, heads = clip_of(open_clip_vit(16)), random_heads()
    states = vit.clip_states(pixels, clip)
    teacher, saliency = (vit.dino_features(pixels, dino_of(timm_vit(seed=seed))) for seed in (2, 4))
    tensors = {name: torch.from_numpy(value) for name, value in {**heads, **random_decoder()}.items()}
    inner, dense, keys, value, dino_keys = (
        torch.from_numpy(features)
        for features in (
            vit.intermediate_features(states, clip),
            vit.maskclip_features(states, clip),
            vit.clip_keys(states, clip),
            teacher.value,
            saliency.key,
        )
    )
    if affinity == "clip":
        bordered = functional.pad(inner.T.reshape(1, -1, 4, 4), (1, 1, 1, 1), mode="replicate")
        guide = functional.conv2d(bordered, tensors["obj_proj.weight"], tensors["obj_proj.bias"])[0].flatten(1).T
    elif affinity == "dino":
        guide = resized(functional.normalize(value), (8, 8), (4, 4))
    else:
        guide = keys
    guide = functional.normalize(guide)
    similarity = guide @ guide.T
    similarity[similarity < 0.2] = 0
    chances = name_chances(similarity @ dense / (similarity.sum(dim=1, keepdim=True) + 1e-6))
    if background is None or objectness == "none":
        return chances
    if objectness == "head":
        logits = functional.normalize(inner) @ tensors["bkg_decoder.weight"].flatten() + tensors["bkg_decoder.bias"]
        theta = torch.sigmoid(logits)
    else:
        soft = torch.sigmoid(dino_keys @ tensors["weight"].flatten() + tensors["bias"])
        theta = resized(soft[:, None], (8, 8), (4, 4))[:, 0]
    chances[(chances.amax(dim=1) < 0.6) & (theta <= 0.5), background] = 1.0
    return chances


@pytest.mark.slow
@pytest.mark.parametrize("affinity", ["clip", "dino", "clip-keys"])
@pytest.mark.parametrize("objectness", ["head", "found", "none"])
@pytest.mark.parametrize("background", [None, 2])
def test_dinoiser_of_one_window_is_its_matrix_form(affinity: str, objectness: str, background: int | None) -> None:
    image, teacher, saliency = photo(64, 64), dino_of(timm_vit(seed=2)), dino_of(timm_vit(seed=4))
    dinos = {"affinity_dino": teacher, "found_dino": saliency}
    networks = {**dinos, "heads": random_heads(), "decoder": random_decoder()}
    options = {"affinity": affinity, "objectness": objectness, "background": background, "delta": 0.6, "scale": 10.0}
    ours, _ = methods.dinoiser(image, clip_of(open_clip_vit(16)), TEXT, NAMES, **networks, **options, **WINDOWS)
    theirs = torch_dinoiser(image / 255.0, affinity, objectness, background)
    np.testing.assert_allclose(ours, to_pixels(theirs, (4, 4), (64, 64)), **CLOSE)
    if background is not None and objectness != "none":
        filtered = (theirs[:, background] == 1).sum()
        assert 0 < filtered < 16  # the case is worth testing


def test_found_bkg_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two heads, mean attention 0.199: half the patches of head 0 exceed it, one of four in head 1
    attention = np.array([[0.3, 0.3, 0.1, 0.04], [0.5, 0.1, 0.1, 0.15]])
    # so beta = log(0.75 / 0.5), log(0.75 / 0.25); patch 3 has the least attention, but patch 2 the least weighted
    key = np.array([[1.0, 0.0], [-1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    # Cosines with the seed (1, 0): 1, below 0, 1, and 0.405 / sqrt(0.405^2 + 1.099^2) = 0.346
    seen = vit.DinoFeatures(key, key, key, attention, key, (2, 2))
    monkeypatch.setattr(methods, "dino_features", lambda *_: seen)
    dino = vit.Dino({}, heads=2)
    np.testing.assert_array_equal(methods.found_bkg(np.zeros((1, 1, 3)), dino), [[0, 1], [0, 0]])
    np.testing.assert_array_equal(methods.found_bkg(np.zeros((1, 1, 3)), dino, tau=0.35), [[0, 1], [0, 1]])


def test_found_bkg_when_no_patch_of_a_head_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # Q = (2/4, 0 -> 1/4): beta is finite and as above
    attention = np.array([[0.9, 0.9, 0.1, 0.2], [0.1, 0.1, 0.1, 0.1]])
    key = np.array([[1.0, 0.0], [-1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    monkeypatch.setattr(methods, "dino_features", lambda *_: vit.DinoFeatures(key, key, key, attention, key, (2, 2)))
    np.testing.assert_array_equal(methods.found_bkg(np.zeros((1, 1, 3)), vit.Dino({}, heads=2)), [[0, 1], [0, 0]])


def test_diy_crops_overlap_by_half() -> None:
    clip = clip_of(open_clip_vit(16))
    canvas = (photo(48, 48) > 127).astype(float)  # hard edges, which bicubic overshoots
    rho = methods.diy_cosines(canvas, 24, clip, TEXT, [0, 1, 2, 3, 4])
    assert rho.shape == (3, 3, 5)
    cut = torch.from_numpy(canvas[12:36, 24:48]).permute(2, 0, 1)[None]
    crop = functional.interpolate(cut, size=(32, 32), mode="bicubic", antialias=True)
    assert crop.max() > 1.01
    embedding = torch.from_numpy(vit.clip_embedding(crop.clamp(0, 1)[0].permute(1, 2, 0).numpy(), clip))
    theirs = torch.from_numpy(TEXT) @ functional.normalize(embedding, dim=0)
    np.testing.assert_allclose(rho[1, 2], theirs, **CLOSE)


@pytest.mark.parametrize("objectness", ["found", "found-bkg", "none"])
def test_diy_weighs_background_against_the_rest(objectness: str) -> None:
    clip, image = clip_of(open_clip_vit(16)), photo(39, 57)
    dino, decoder = dino_of(timm_vit()), random_decoder()
    canvas = {"canvas": 64, "scales": (64, 32), "objectness_side": 33}
    options = {"found_dino": dino, "decoder": decoder, "objectness": objectness, **canvas}
    probabilities, _ = methods.diy(image, clip, TEXT, NAMES, size=(64, 64), **options)
    # The canvas is as large as the result, so the weighing can be undone there
    square = image_ops.resize(image / 255.0, (64, 64))
    maps = [image_ops.resize(methods.diy_cosines(square, side, clip, TEXT, NAMES), (64, 64)) for side in (64, 32)]
    theta = np.ones((64, 64))
    weight = np.ones((64, 64, 4))
    if objectness != "none":
        theta = methods.diy_objectness(image / 255.0, objectness, dino, decoder, 33, None, 64)
        weight = np.stack([1 - theta, theta, theta, theta], axis=2)
        assert theta.std() > 0.01
    expected = torch.softmax(torch.from_numpy(100 * weight * (maps[0] + maps[1]) / 2), dim=2)
    np.testing.assert_allclose(probabilities, expected, **CLOSE)


@pytest.mark.parametrize("side", [33, None])
def test_objectness_map_loses_its_padding(side: int | None) -> None:
    """At the photo's own size, which 33 is here too; logits are upsampled, not probabilities."""
    dino, decoder = dino_of(timm_vit()), random_decoder()
    pixels = photo(33, 50) / 255.0
    ours = methods.diy_objectness(pixels, "found", dino, decoder, side, None, 64)
    soft = torch.from_numpy(methods.found(pixels, dino, decoder))  # 33 x 50 is seen as 40 x 56
    padded = functional.interpolate(soft.logit()[None, None], size=(40, 56), mode="bilinear", align_corners=False)
    whole = padded[:, :, :33, :50].sigmoid()
    theirs = functional.interpolate(whole, size=(64, 64), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(ours, theirs[0, 0], **CLOSE)


def test_padding_of_dino_has_the_mean_colour() -> None:
    """A photo of that colour looks the same whether it is padded or has the whole size."""
    dino = dino_of(timm_vit())
    mean = np.array(vit.IMAGENET_MEAN)
    padded, whole = (vit.dino_features(np.broadcast_to(mean, (*size, 3)), dino) for size in ((33, 50), (40, 56)))
    np.testing.assert_allclose(padded.key, whole.key, **CLOSE)
