"""The phrase bank, from captions to the file: which phrases go in, and that they come back out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from reference import tiny_language as tiny
from safetensors import safe_open
from torch import Tensor, nn

from annotator.errors import ConfigError
from annotator.models.clip import DenseClip
from annotator.models.networks import Networks
from annotator.models.phrases import Retrieval, load_phrases
from annotator.models.weights import read_state
from annotator.training.noun_phrases import noun_phrases
from annotator.training.phrases import choose, class_names, train_phrases

CAPTIONS = [
    ("A brown teddy bear is sitting on the chair.", {"brown teddy bear", "teddy bear", "bear", "chair"}),
    ("Two women waiting at a bench next to a street", {"women", "bench", "street"}),
    ("A slice of pizza, and a bowl of the soup!", {"slice", "pizza", "slice of pizza", "bowl", "soup", "bowl of soup"}),
    ("There is a large group of people in a parking lot.", {"people", "parking lot"}),
    ("The man's red hat looks very dirty", {"man's red hat", "red hat", "hat"}),
    ("a plate filled with food", {"plate", "food"}),
    ("A cat lying in bed", {"cat", "bed"}),
    ("People skiing; 3 dogs running quickly", {"people", "dogs"}),
    ("A picture of a traffic light", {"traffic light", "light"}),
    ("", set()),
    ("Standing.", set()),
]  # fmt: skip


@pytest.mark.parametrize(("caption", "phrases"), CAPTIONS)
def test_captions_are_cut_into_noun_phrases(caption: str, phrases: set[str]) -> None:
    assert set(noun_phrases(caption)) == phrases


def test_the_most_frequent_phrases_are_chosen() -> None:
    captions = ["a cat and a cat", "a cat", "a dog on a mat", "a dog on a sofa", "a bird"]
    assert choose(captions, size=9, min_count=1) == ["cat", "dog", "bird", "mat", "sofa"]
    assert choose(captions, size=9, min_count=2) == ["cat", "dog"]
    assert choose(captions, size=3, min_count=1) == ["cat", "dog", "bird"]


def test_class_names_are_many_and_plain() -> None:
    names = class_names()
    assert {"dog", "sky", "tench"} <= set(names)
    assert len(names) > 1000


def clip_of(text: nn.Module) -> DenseClip:
    return DenseClip(tiny.clip().visual, text, (0, 0, 0), (1, 1, 1))


class Letters(nn.Module):
    """How often each letter occurs."""

    def forward(self, prompts: list[str]) -> Tensor:
        return torch.tensor([[float(text.count(chr(97 + n))) for n in range(26)] for text in prompts])


@pytest.fixture
def captions(tmp_path: Path) -> list[Path]:
    coco, plain = tmp_path / "captions.json", tmp_path / "more.txt"
    coco.write_text(json.dumps({"annotations": [{"caption": "A zebra by a tree."}, {"caption": "a tree"}]}))
    plain.write_text("a tree\n\na house near a tree\n", encoding="utf-8")
    return [coco, plain]


def test_a_bank_is_built_written_and_read(tmp_path: Path, captions: list[Path]) -> None:
    networks, out, told = Networks.of(clip=clip_of(Letters())), tmp_path / "new" / "bank.safetensors", []
    built = train_phrases(
        captions, networks, out, names=["Polar Bear", "tree"], min_count=1, progress=lambda *n: told.append(n)
    )
    assert built.phrases == ("tree", "house", "zebra", "polar bear")
    assert told == [(4, 4)]

    bank = load_phrases(read_state(out, "plain"))
    assert bank.phrases == built.phrases
    rows = torch.nn.functional.normalize(Letters()([f"Image of a {phrase}." for phrase in bank.phrases]), dim=1)
    torch.testing.assert_close(bank.embeddings, rows.half())
    assert Retrieval(bank, networks.clip).caption(rows[[2, 0]]) == ["zebra", "tree"]

    with safe_open(out, "pt") as file:
        made_of = json.loads(file.metadata()["provenance"])
    assert set(made_of["captions"]) == {"captions.json", "more.txt"}
    assert made_of["template"] == "Image of a {}."
    assert str(tmp_path) not in str(made_of)
    again = tmp_path / "again.safetensors"
    train_phrases(captions, networks, again, names=["Polar Bear", "tree"], min_count=1)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"images": []}', 'expected COCO captions {"annotations"'),
        ("a.json", "{", "expected COCO captions"),
        ("a.txt", b"\xff\xfe\xfa", "expected captions, but found"),
        ("a.txt", "a cat", "expected phrases that occur 3 times, but found none"),
    ],
)
def test_captions_that_cannot_be_used_are_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        train_phrases([file], Networks.of(clip=clip_of(Letters())), tmp_path / "bank.safetensors", names=[])


def test_a_missing_file_and_another_kind_of_output_are_errors(tmp_path: Path) -> None:
    networks = Networks.of(clip=clip_of(Letters()))
    with pytest.raises(ConfigError, match=r"none\.txt: expected captions, but found"):
        train_phrases([tmp_path / "none.txt"], networks, tmp_path / "bank.safetensors")
    with pytest.raises(ConfigError, match=r"expected a file name in \.safetensors"):
        train_phrases([], networks, tmp_path / "bank.pt")
