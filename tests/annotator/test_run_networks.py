"""Masks that zeroguide did not make, embedded and captioned as it would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import networks, vit
from reference.open_runs import write_run
from torch import Tensor, nn

from annotator.commands.evaluate import evaluate
from annotator.errors import ConfigError
from annotator.models.clip import DenseClip
from annotator.models.masked_clip import SegmentOptions, embed_segments
from annotator.models.networks import Networks
from annotator.models.phrases import PhraseBank
from annotator.run_networks import describer, networks_of
from annotator.vocabulary import Vocabulary

HEIGHT, WIDTH = 24, 40
PHRASES = ("the left", "the right", "all of it")


class Prompts(nn.Module):
    """Texts -> the directions of the phrases in them."""

    def __init__(self) -> None:
        super().__init__()
        self.directions: dict[str, Tensor] = {}

    def forward(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([self.directions[prompt] for prompt in prompts])


def masks() -> np.ndarray:
    left = np.zeros((HEIGHT, WIDTH), np.bool_)
    left[:, : WIDTH // 2] = True
    return np.stack([left, ~left, np.ones_like(left)])


def test_masks_are_embedded_and_captioned(tmp_path: Path) -> None:
    """The bank's phrases lie where CLIP sees the three masks, so each mask must get its own."""
    clip = DenseClip(networks.open_clip_vit(8).float(), Prompts(), vit.CLIP_MEAN, vit.CLIP_STD)
    photo = networks.photo(HEIGHT, WIDTH)
    options = SegmentOptions(baseline="no-subtraction", first_masked=2)
    canvas = torch.from_numpy(photo).float().permute(2, 0, 1) / 255
    expected = embed_segments(clip, canvas, torch.from_numpy(masks()).float(), options)
    assert (expected @ expected.T - torch.eye(3)).triu(1).max() < 0.999  # three directions
    clip.text.directions = {f"Image of a {phrase}.": row for phrase, row in zip(PHRASES, expected, strict=True)}
    given = Networks.of(clip=clip, phrases=PhraseBank(PHRASES, expected.half()))

    settings = {"captioner": "retrieval", "baseline": "no-subtraction", "first_masked": 2}
    embed, caption = describer(write_run(tmp_path, {}), given, settings)
    found = embed(photo, masks())
    torch.testing.assert_close(found, expected)
    assert list(caption(found)) == list(PHRASES)
    assert list(caption(embed(photo, masks()[1:2]))) == ["the right"]

    plain, _ = describer(write_run(tmp_path, {}), given, {"captioner": "retrieval"})
    assert not torch.allclose(plain(photo, masks()), expected, atol=1e-3)  # the setting decides


def test_the_settings_of_the_run_hold(tmp_path: Path) -> None:
    run = write_run(tmp_path, {}, labeler="zeroguide")
    run.manifest.config["settings"] = {"captioner": "none"}
    with pytest.raises(ConfigError, match="tgq needs captions, but captioner is 'none'"):
        describer(run, Networks.of(), {})
    with pytest.raises(ConfigError, match="no setting 'captionr'"):
        describer(run, Networks.of(), {"captionr": "none"})


def test_networks_are_the_run_s(tmp_path: Path) -> None:
    run = write_run(tmp_path / "open", {}, labeler="zeroguide", pack={"name": "embedded"})
    assert networks_of(run, device="cpu").pack == "embedded"
    assert networks_of(run, "paper", "cpu").pack == "paper"
    named = write_run(tmp_path / "named", {}, Vocabulary.of(["cat"]), labeler="maskclip", pack={"name": "embedded"})
    assert networks_of(named, device="cpu").pack == "embedded"
    with pytest.raises(ConfigError, match="no labeler 'gone'"):
        networks_of(write_run(tmp_path / "gone", {}, labeler="gone"))
    with pytest.raises(ConfigError, match="--weights clap=FILE"):
        networks_of(run, device="cpu", weights={"clap": "x.pt"})


def test_annotate_eval_scores_in_fp32_unless_asked_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this CPU's bf16 were a GPU's, which `auto` would take."""
    monkeypatch.setattr("annotator.models.packs.resolve_device", lambda name: "cpu")
    monkeypatch.setattr("annotator.models.devices.has_bf16", lambda device: True)
    monkeypatch.setattr("annotator.models.devices.kind_of", lambda device: "cuda")
    run = write_run(tmp_path / "run", {}, labeler="zeroguide")
    found = []

    class Seen(Exception):
        pass

    def score(*arguments: object, **_: object) -> None:
        found.append(arguments[3])
        raise Seen

    monkeypatch.setattr("evaluation.open_evaluation.evaluate_open", score)
    monkeypatch.setattr("evaluation.truth.open_truth", lambda *_, **__: None)
    for given in ({}, {"precision": "auto"}):
        with pytest.raises(Seen):
            evaluate(run.directory, tmp_path, "st", pack="embedded", **given)
    assert [networks.precision for networks in found] == ["fp32", "bf16"]
