"""The embedded language model's training: its lines, its figures against others', and that it learns and goes on."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from annotator.errors import ConfigError
from annotator.models.compat import prepare_torchvision
from annotator.models.language import LanguageModel, load_language_model
from annotator.models.packs import read_pack
from annotator.training import loop
from annotator.training.embedded import perplexity
from annotator.training.embedded.captions import article, phrase_lines, read_captions_by_photo, sentence, split
from annotator.training.embedded.language import (
    Corpus,
    Recipe,
    batches,
    completions,
    encode,
    rate,
    read_corpus,
    train_language,
    train_tokenizer,
)

prepare_torchvision()

ANIMALS = ["cat", "dog", "horse", "elephant", "cow"]
RECIPE = Recipe(
    vocabulary=300, width=32, layers=2, heads=2, batch=16, learning_rate=1e-2, warm_up=5, steps=160, held_out=0.2
)


@pytest.fixture
def captions_file(tmp_path: Path) -> Path:
    """40 photos with two captions each, in COCO's form; colours go with animals: there is something to learn."""
    draw = random.Random(0)
    annotations = []
    for photo in range(40):
        animal = draw.choice(ANIMALS)
        colour = "gray" if animal == "elephant" else "brown"
        texts = (f"A {colour} {animal} stands on the grass", f"a {animal} next to a {colour} fence . ")
        annotations += [{"image_id": photo, "id": len(annotations) + i, "caption": t} for i, t in enumerate(texts)]
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"annotations": annotations}))
    return file


@pytest.fixture
def corpus(captions_file: Path) -> Corpus:
    return read_corpus(captions_file, RECIPE)


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("brown dog", "a"), ("elephant", "an"), ("old man", "an"), ("one-way sign", "a"), ("hourglass", "an"),
        ("european city", "a"), ("unicycle", "a"), ("umbrella", "an"), ("utensil", "a"), ("dogs", ""),
        ("people", ""), ("glass of water", "a"), ("slices of bread", ""), ("bowl of oranges", "a"), ("bus", "a"),
        ("tennis", "a"), ("scissors", ""), ("of", "an"),
    ],
)  # fmt: skip
def test_articles(phrase: str, expected: str) -> None:
    assert article(phrase) == expected


def test_lines_by_hand() -> None:
    """Three cats make 2 lines (the root of 3 is 1.7), one of four "an" comes after "a" as well."""
    captions = ["A cat.", "the cat", "A cat and two dogs", "An owl near an orange"]
    assert phrase_lines(captions) == [
        "Image of a cat.",
        "Image of a cat.",
        "Image of dogs.",
        "Image of an orange.",
        "Image of an owl.",
        "Image of a orange.",
    ]
    assert phrase_lines(captions[::-1]) == phrase_lines(captions)
    assert (
        phrase_lines(captions, ["zebra"], repeats=2, min_count=2) == ["Image of a cat."] * 2 + ["Image of a zebra."] * 2
    )
    assert sentence(" a  dog runs . ") == "A dog runs."


def test_the_captions_of_a_photo_stay_together(captions_file: Path) -> None:
    by_photo = read_captions_by_photo(captions_file)
    trained, held = split(by_photo, 0.1, list(range(40))[::-1], always=[0])
    assert held == by_photo[0] + by_photo[36] + by_photo[37] + by_photo[38] + by_photo[39]
    assert Counter([*trained, *held]) == Counter(caption for texts in by_photo.values() for caption in texts)


def test_a_corpus_names_classes_and_leaves_photos_out(captions_file: Path) -> None:
    whole = read_corpus(captions_file, RECIPE)
    assert len(whole.held_captions) == 16
    assert {"Image of a golden retriever.", "Image of a kite.", "Image of a traffic light."} <= set(whole.phrases)
    assert whole.captions[0].endswith(" on the grass.")
    assert read_corpus(captions_file, RECIPE, held_out=range(40)).captions == []
    assert read_corpus(captions_file, RECIPE) == whole
    assert read_corpus(captions_file, replace(RECIPE, seed=1)) != whole


def test_a_line_ends_with_the_end_token_and_fits(corpus: Corpus) -> None:
    tokenizer = train_tokenizer(corpus.captions, RECIPE)
    short, long = encode(tokenizer, ["A dog.", "A dog stands on the grass. " * 9], 12)
    assert tokenizer.decode(short) == f"A dog.{tokenizer.eos_token}"
    assert len(long) == 12
    assert tokenizer(" Ünseen 7 words!")["input_ids"]
    assert tokenizer.decode(tokenizer(" Ünseen 7 words!")["input_ids"]) == " Ünseen 7 words!"


def test_baselines_by_hand() -> None:
    """Two training lines 0 1 2 and 0 1 1, vocabulary of 3: what is predicted is 1, 2, 1, 1, so with one more each the
    frequencies are 1/7, 4/7 and 2/7. After 0 came 1 twice (1 kind), after 1 came 2 and 1 (2 kinds of 2)."""
    train, lines = [[0, 1, 2], [0, 1, 1]], [[0, 1, 2], [2, 0]]
    assert perplexity.of_unigrams(train, lines, 3) == pytest.approx((4 / 7 * 2 / 7 * 1 / 7) ** (-1 / 3))
    first = (2 + 1 * 4 / 7) / (2 + 1)
    second = (1 + 2 * 2 / 7) / (2 + 2)
    unseen = 1 / 7  # nothing ever followed 2
    assert perplexity.of_bigrams(train, lines, 3) == pytest.approx((first * second * unseen) ** (-1 / 3))


class Fixed(nn.Module):
    """Predicts token 0, 1 and 2 with 1/2, 1/4 and 1/4 after everything."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.tensor([0.5, 0.25, 0.25]).log())

    def forward(self, input_ids: torch.Tensor) -> object:
        return type("Output", (), {"logits": self.logs.expand(*input_ids.shape, 3)})


def test_perplexity_of_a_model_by_hand() -> None:
    """Lines of different length: 0 1 2 scores 1 and 2, and 1 0 scores 0; the padding counts for nothing."""
    expected = (1 / 4 * 1 / 4 * 1 / 2) ** (-1 / 3)
    assert perplexity.of_model(Fixed().eval(), [[0, 1, 2], [1, 0]]) == pytest.approx(expected)


def test_batches_hold_every_line_once_and_little_padding() -> None:
    lines = [[i, *[0] * (i % 7 + 1)] for i in range(100)]
    batch_at = batches(lines, replace(RECIPE, batch=10))
    epoch = [batch_at(step) for step in range(10)]
    assert sorted(row[0].item() for batch in epoch for row in batch) == list(range(100))
    padding = sum((batch == perplexity.IGNORED).sum().item() for batch in epoch)
    assert padding < 60  # of 500 tokens; 300 were the lines not sorted by length
    again = batches(lines, replace(RECIPE, batch=10))
    torch.testing.assert_close(again(13), batch_at(13))  # from the second epoch, which has another order
    assert not any(torch.equal(batch_at(10), batch) for batch in epoch)
    with pytest.raises(ConfigError, match="at least 16 lines"):
        batches(lines[:3], RECIPE)


def test_the_learning_rate() -> None:
    recipe = replace(RECIPE, warm_up=10, steps=110)
    assert [rate(step, recipe) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert rate(60, recipe) == pytest.approx((1 + 0.05) / 2)
    assert rate(110, recipe) == pytest.approx(0.05)


def load(folder: Path) -> LanguageModel:
    beside = {name: folder / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json")}
    return load_language_model(folder / "model.safetensors", beside)


def test_training_learns_what_goes_with_what(corpus: Corpus, tmp_path: Path) -> None:
    losses: dict[int, float] = {}
    words = {"Image", "of", "a", "an", "brown", "gray", "grass", "fence", *ANIMALS}
    few = replace(corpus, phrases=[line for line in corpus.phrases if words.issuperset(line[:-1].split())])
    report = train_language(few, tmp_path, RECIPE, progress=losses.__setitem__)
    assert report is not None
    assert list(losses) == list(range(1, 161))
    first, last = ([losses[step] for step in steps] for steps in (range(1, 9), range(153, 161)))
    assert np.mean(last) < np.mean(first) / 3
    assert report.held_lines == {"phrases": len(corpus.held_phrases), "captions": 16}
    for figures in report.perplexity.values():
        assert figures["model"] < figures["bigram"] < figures["unigram"]

    language = load(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["transformer.wte.weight"].dtype == torch.float16
    assert sum(p.numel() for p in language.parameters()) == report.parameters
    assert completions(language.model, language.tokenizer, "Image of a", 1) == [report.greedy]
    assert language.model.config.zerocap_start_token is False  # no line of its training begins with one
    phrase = report.greedy.removesuffix(".").split()[-1]
    assert phrase in {*ANIMALS, "fence", "grass"}
    lines = encode(language.tokenizer, few.held_captions, RECIPE.context)
    assert perplexity.of_model(language.model, lines) == pytest.approx(report.perplexity["captions"]["model"], rel=1e-4)


class Killed(Exception):
    pass


def test_stopped_training_goes_on_to_the_same_end(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its third step, one behind the checkpoint, then stopped by the clock at once, then left alone."""
    monkeypatch.setattr(loop, "SAVED_EVERY", 2)
    recipe = replace(RECIPE, steps=6)
    assert train_language(corpus, tmp_path / "whole", recipe) is not None

    def kill(step: int, loss: float) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        train_language(corpus, tmp_path / "parts", recipe, progress=kill)
    assert train_language(corpus, tmp_path / "parts", recipe, minutes=0) is None
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    steps: list[int] = []
    assert (
        train_language(corpus, tmp_path / "parts", recipe, progress=lambda step, loss: steps.append(step)) is not None
    )
    assert steps == [3, 4, 5, 6]
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_of_other_lines_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=2)
    assert train_language(corpus, tmp_path, recipe, minutes=0) is None
    with pytest.raises(ConfigError, match="delete it"):
        train_language(replace(corpus, captions=corpus.captions[1:]), tmp_path, recipe)


@pytest.fixture(scope="module")
def embedded() -> LanguageModel:
    return read_pack("embedded").networks("zeroguide").lm


def test_the_embedded_model_completes_the_prompt_with_short_phrases(embedded: LanguageModel) -> None:
    drawn = completions(embedded.model, embedded.tokenizer, "Image of a", 40, seed=1)
    ended = [text for text in drawn if text.endswith(".")]
    assert len(ended) >= 38
    assert np.mean([len(text.split()) for text in ended]) < 4
    assert sum(text == text.lower() for text in drawn) >= 38
    assert len(set(drawn)) > 25
    assert all(len(embedded.tokenizer(text)["input_ids"]) <= 15 for text in ended)


def test_the_embedded_model_prefers_english(embedded: LanguageModel) -> None:
    """A text to the same words in another order, and the right article to the wrong one."""

    def loss(text: str) -> float:
        line = encode(embedded.tokenizer, [text], 32)
        return math.log(perplexity.of_model(embedded.model, line)) * (len(line[0]) - 1)

    assert loss("A man is riding a wave on a surfboard.") < loss("Wave a riding surfboard a is on a man.") - 5
    assert loss("Image of a brown dog.") < loss("Image of a dog brown.")
    assert loss("Image of an elephant.") < loss("Image of a elephant.")
    assert sum(p.numel() for p in embedded.parameters()) < 4e6
    assert asdict(Recipe())["context"] == embedded.model.config.n_positions
