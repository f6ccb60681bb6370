"""Phrase banks: the nearest phrase, however large the bank, and only with the weights it was made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import tiny_language as tiny
from torch import Tensor, nn

from annotator.errors import WeightsError
from annotator.models.captions import make_captioner
from annotator.models.clip import DenseClip
from annotator.models.networks import Networks
from annotator.models.packs import read_pack
from annotator.models.phrases import PhraseBank, Retrieval, embed_phrases, load_phrases, save_phrases
from annotator.models.weights import read_state
from annotator.models.zerocap import ZeroCap

WORDS = [f"thing {number}" for number in range(200)]


def drawn(rows: int, width: int = 16, seed: int = 0) -> Tensor:
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(values, dim=1)


@pytest.mark.parametrize("rows_at_once", [1, 7, 200, 65_536])
def test_nearest_is_that_of_a_plain_search(rows_at_once: int) -> None:
    bank, queries = PhraseBank(WORDS, drawn(200).half()), drawn(30, seed=1)
    rows, cosines = bank.nearest(queries, rows_at_once)
    every = queries.double().numpy() @ bank.embeddings.double().numpy().T
    assert rows.tolist() == every.argmax(axis=1).tolist()
    np.testing.assert_allclose(cosines, every.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 5])
def test_of_equals_the_first_wins(rows_at_once: int) -> None:
    """In one chunk or in several."""
    eye = torch.eye(3)[[1, 0, 0, 2, 0]]
    bank = PhraseBank(WORDS[:5], eye.half())
    assert bank.nearest(torch.eye(3), rows_at_once)[0].tolist() == [1, 0, 3]


def test_a_file_holds_phrases_in_any_script(tmp_path: Path) -> None:
    phrases = ["chien", "große Katze", "犬", "man's hat"]
    save_phrases(PhraseBank(phrases, drawn(4).half()), tmp_path / "bank.safetensors", {"made": "here"})
    bank = load_phrases(read_state(tmp_path / "bank.safetensors", "plain"))
    assert bank.phrases == tuple(phrases)
    assert bank.embeddings.dtype == torch.float16
    torch.testing.assert_close(bank.embeddings, drawn(4).half(), rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["bank.safetensors"]


@pytest.mark.parametrize(
    "state",
    [
        {"embeddings": drawn(2)},
        {"embeddings": drawn(2), "text": torch.zeros(3)},
        {"embeddings": drawn(2)[0], "text": torch.zeros(3, dtype=torch.uint8)},
    ],
)
def test_other_tensors_are_no_bank(state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"phrases: expected `embeddings` \(N x d\) and `text`"):
        load_phrases(state)


def test_as_many_texts_as_rows() -> None:
    text = torch.frombuffer(bytearray(b"one\ntwo\nthree"), dtype=torch.uint8)
    with pytest.raises(WeightsError, match="as many texts as embeddings, but found 3 and 2"):
        load_phrases({"embeddings": drawn(2).half(), "text": text})


def test_retrieval_names_segments_that_are_phrases() -> None:
    clip = tiny.clip().float()
    bank = PhraseBank(WORDS, embed_phrases(clip, WORDS).half())
    retrieval = Retrieval(bank, clip)
    assert retrieval.caption(embed_phrases(clip, ["thing 7", "thing 150"])) == ["thing 7", "thing 150"]
    assert retrieval.caption(torch.zeros(0, 16)) == []


def test_the_bank_of_other_weights_is_refused() -> None:
    clip, other = tiny.clip().float(), tiny.clip(seed=9).float()
    bank = PhraseBank(WORDS, embed_phrases(clip, WORDS).half())
    with pytest.raises(WeightsError, match=r"expected a bank made with this pack's CLIP text weights.*annotate train"):
        Retrieval(bank, other)
    with pytest.raises(WeightsError, match=r"cosine 0\.00"):
        Retrieval(PhraseBank(WORDS, drawn(200, width=8).half()), clip)


@dataclass
class Retrieve:
    captioner: str | None = "retrieval"
    caption_steps, beam, max_tokens, block_capitalised = 5, 5, 15, False
    start_token, normalise_over, end_factor, first_token = None, None, None, None


def test_only_the_embedded_pack_retrieves_by_itself() -> None:
    clip = tiny.clip().float()
    networks = Networks.of(clip=clip, lm=tiny.gpt2(), phrases=PhraseBank(WORDS, embed_phrases(clip, WORDS).half()))
    assert isinstance(make_captioner(networks, Retrieve(None)), ZeroCap)
    networks.pack = "embedded"
    assert isinstance(make_captioner(networks, Retrieve(None)), Retrieval)


def test_a_pack_brings_its_bank(tmp_path: Path) -> None:
    """From the pack's YAML to captions."""

    clip = tiny.clip().float()
    bank = PhraseBank(WORDS, embed_phrases(clip, WORDS).half())
    save_phrases(bank, tmp_path / "bank.safetensors", {})
    pack = "roles: {phrases: {weights: {path: bank.safetensors, format: plain}}}"
    (tmp_path / "mine.yaml").write_text(pack, encoding="utf-8")
    networks = read_pack(str(tmp_path / "mine.yaml")).networks("zeroguide")
    networks._loaded["clip"] = clip
    captioner = make_captioner(networks, Retrieve())
    assert captioner is not None
    assert captioner.caption(embed_phrases(clip, ["thing 42"])) == ["thing 42"]
    assert networks.used()["phrases"]["file"] == "bank.safetensors"


def test_clip_text_is_embedded_in_the_sentence_that_segments_are_compared_with() -> None:
    class Echo(nn.Module):
        asked: list[str]

        def forward(self, prompts: list[str]) -> Tensor:
            self.asked = prompts
            return torch.tensor([[3.0, 4.0]])

    echo = Echo()
    found = embed_phrases(DenseClip(tiny.clip().visual, echo, (0, 0, 0), (1, 1, 1)), ["red hat"])
    assert echo.asked == ["Image of a red hat."]
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8]]))


def test_a_bank_that_cannot_take_its_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "phrases.safetensors").mkdir()
    with pytest.raises(OSError, match="phrases"):
        save_phrases(PhraseBank(("a cat",), torch.ones(1, 4)), tmp_path / "phrases.safetensors", {})
    assert [each.name for each in tmp_path.iterdir()] == ["phrases.safetensors"]
