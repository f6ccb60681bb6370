"""Dense CLIP against a float64 reference, and against open_clip itself where weights come from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import networks, vit
from safetensors.torch import save_file
from torch import Tensor, nn

from annotator.errors import WeightsError
from annotator.models.clip import DenseClip, load_open_clip
from annotator.models.weights import read_state

CLOSE = {"rtol": 0, "atol": 1e-4}


class NoText(nn.Module):
    """For tests of the vision side."""


class TwoWords(nn.Module):
    """Prompts -> length, and number of vowels."""

    def forward(self, prompts: list[str]) -> Tensor:
        return torch.tensor([[len(prompt), sum(letter in "aeiou" for letter in prompt)] for prompt in prompts])


def dense_clip(patch: int, quick: bool = False, text: nn.Module | None = None) -> DenseClip:
    visual = networks.open_clip_vit(patch, quick).float()
    return DenseClip(visual, text or NoText(), vit.CLIP_MEAN, vit.CLIP_STD)


def as_rows(features: Tensor) -> np.ndarray:
    """1 x C x h x w -> N x C."""
    return features[0].flatten(1).T.numpy()


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("size", [(37, 53), (61, 9), (32, 32)])  # odd, one patch wide, the trained size
def test_dense_and_embed_equal_the_reference(patch: int, quick: bool, size: tuple[int, int]) -> None:
    reference = networks.clip_of(networks.open_clip_vit(patch, quick), quick_gelu=quick)
    clip = dense_clip(patch, quick)
    pixels = networks.photo(*size) / 255
    states = vit.clip_states(pixels, reference)
    image = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
    found = clip.dense(image)

    assert found.maskclip.shape[-2:] == states.grid == (-(-size[0] // patch), -(-size[1] // patch))
    np.testing.assert_allclose(as_rows(found.maskclip), vit.maskclip_features(states, reference), **CLOSE)
    np.testing.assert_allclose(as_rows(found.intermediate), vit.intermediate_features(states, reference), **CLOSE)
    np.testing.assert_allclose(as_rows(found.keys), vit.clip_keys(states, reference), **CLOSE)
    np.testing.assert_allclose(clip.embed(image)[0], vit.clip_embedding(pixels, reference), **CLOSE)


def test_a_batch_is_its_images() -> None:
    clip = dense_clip(16)
    images = torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    together = clip.dense(images)
    for index in range(3):
        alone = clip.dense(images[index : index + 1])
        for name in ("maskclip", "intermediate", "keys"):
            torch.testing.assert_close(getattr(together, name)[index], getattr(alone, name)[0], rtol=0, atol=1e-5)


def test_other_sizes_leave_the_network_as_it_was() -> None:
    clip = dense_clip(8)
    before = {name: value.clone() for name, value in clip.visual.state_dict().items()}
    parameter = clip.visual.positional_embedding
    for size in ((37, 53), (8, 80), (32, 32)):
        clip.dense(torch.rand(1, 3, *size))
        clip.embed(torch.rand(1, 3, *size))
    assert clip.visual.positional_embedding is parameter
    after = clip.visual.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_text_embeddings_are_means_over_templates() -> None:
    """ "cat" in "{}": (3, 1); "cat" in "a {}!": (6, 2). Mean of the unit vectors, made a unit vector again."""
    clip = dense_clip(8, text=TwoWords())
    found = clip.text_embeddings(["cat", "{x}"], ["{}", "a {}!"])
    first, second = np.array([3, 1]) / 10**0.5, np.array([6, 2]) / 40**0.5
    mean = (first + second) / 2
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), **CLOSE)
    first, second = np.array([3, 0]) / 3, np.array([6, 1]) / 37**0.5  # braces in a name stay as they are
    mean = (first + second) / 2
    np.testing.assert_allclose(found[1], mean / np.linalg.norm(mean), **CLOSE)
    assert found.shape == (2, 2)


TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 4, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture
def architecture(tmp_path: Path) -> Iterator[str]:
    """The tiny one, known to open_clip for the time of a test."""
    import open_clip
    from open_clip import factory

    known = factory._MODEL_CONFIG_PATHS.copy(), factory._MODEL_CONFIGS.copy()
    (tmp_path / "tiny-test.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    yield "tiny-test"
    factory._MODEL_CONFIG_PATHS[:] = known[0]
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(known[1])


def test_weights_from_a_file_give_what_open_clip_gives(architecture: str, tmp_path: Path) -> None:
    import open_clip

    model = open_clip.CLIP(**TINY).eval()
    networks.randomise(model, seed=1).float()
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    state = read_state(tmp_path / "clip.safetensors", "open_clip")
    clip = load_open_clip(architecture, state, vit.CLIP_MEAN, vit.CLIP_STD)

    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prompts = ["a photo of a cat", "Image of an owl."]
    mean, std = (torch.tensor(values)[:, None, None] for values in (vit.CLIP_MEAN, vit.CLIP_STD))
    with torch.inference_mode():
        torch.testing.assert_close(clip.embed(images), model.encode_image((images - mean) / std), rtol=1e-4, atol=1e-4)
        theirs = model.encode_text(open_clip.tokenize(prompts))
        torch.testing.assert_close(clip.text(prompts), theirs, rtol=1e-4, atol=1e-4)
        assert len(clip.text(["x"] * 300)) == 300  # more than one batch of prompts


def test_weights_of_another_architecture_are_refused(architecture: str) -> None:
    import open_clip

    state = open_clip.CLIP(**{**TINY, "embed_dim": 8}).state_dict()
    with pytest.raises(
        WeightsError, match="expected tensor 'text_projection' to be 16 x 16 in tiny-test, but found 16"
    ):
        load_open_clip(architecture, state, vit.CLIP_MEAN, vit.CLIP_STD)
