"""ZeroCap, with all that makes it fast, against the plain one; and the rules by which tokens are judged."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from reference import tiny_language as tiny
from reference.zerocap import PlainZeroCap, Settings
from torch import Tensor, nn

from annotator.errors import AnnotatorError, ConfigError, WeightsError
from annotator.models.candidate_texts import TokenRules
from annotator.models.clip import DenseClip
from annotator.models.networks import Networks
from annotator.models.zerocap import ZeroCap, ZeroCapOptions

QUICK = {"max_tokens": 4, "gradient_steps": 2, "candidates": 8}


class Counting(nn.Module):
    """A text side that notes what it is asked."""

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.text = text
        self.asked: list[str] = []

    def forward(self, prompts: list[str]) -> Tensor:
        self.asked += prompts
        return self.text(prompts)


class Meaning(nn.Module):
    """Texts -> 3 numbers: whether they say "dog", whether "cat", and 1."""

    def forward(self, prompts: list[str]) -> Tensor:
        return torch.tensor([["dog" in text, "cat" in text, 1.0] for text in prompts], dtype=torch.float64)


def with_text(clip: DenseClip, text: nn.Module) -> DenseClip:
    return DenseClip(clip.visual, text, (0, 0, 0), (1, 1, 1))


def plain(language: Any, text: Any, **settings: int) -> PlainZeroCap:
    """The rules once more, as regular expressions."""
    size, tokenizer = language.model.config.vocab_size, language.tokenizer
    said = [tokenizer.decode([t], skip_special_tokens=True).strip() if t < len(tokenizer) else "" for t in range(size)]
    ends = {token for token, text in enumerate(said) if text == "."}
    wordless = {token for token, text in enumerate(said) if not re.search(r"[^\W\d_]", text)}
    blocked = {token for token, text in enumerate(said) if not re.fullmatch(r"(?:[^\W\d_]|['’-])*", text)}
    return PlainZeroCap(
        language.model, tokenizer, text, (blocked | wordless) - ends, ends, wordless, Settings(**settings)
    )


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama])
def test_every_token_is_that_of_the_plain_implementation(make: Any, beam: int) -> None:
    language, clip, segments = make(seed=1), tiny.clip(), tiny.segments(3)
    count, plain_count = Counting(clip.text), Counting(clip.text)
    found = ZeroCap(language, with_text(clip, count), ZeroCapOptions(beam=beam, **QUICK)).complete(segments)
    slow = plain(language, plain_count, beam=beam, **QUICK)
    assert found == [(tuple(tokens), words) for tokens, words in (slow.caption(segment) for segment in segments)]
    assert len(set(found)) > 1, "all segments got the same caption"
    assert len(count.asked) * 2 < len(plain_count.asked)
    if beam == 1:
        assert len(plain_count.asked) == plain_encodings(found, **QUICK)


def plain_encodings(found: list[Any], max_tokens: int, gradient_steps: int, candidates: int) -> int:
    """Of a single beam: every candidate at every step of every token, and the caption."""
    return sum(len(tokens) * gradient_steps * candidates + 1 for tokens, _ in found)


def test_a_photo_needs_ten_times_fewer_text_encodings() -> None:
    """20 segments of 5 things, at the paper's 5 steps."""
    settings = {"max_tokens": 4, "gradient_steps": 5, "candidates": 64}
    things, own = tiny.segments(5, seed=2).repeat(4, 1), tiny.segments(20, seed=1)
    segments = nn.functional.normalize(things + 0.2 * own, dim=1)
    clip = tiny.clip()
    count = Counting(clip.text)
    found = ZeroCap(tiny.gpt2(seed=2), with_text(clip, count), ZeroCapOptions(beam=1, **settings)).complete(segments)
    assert plain_encodings(found, **settings) >= 10 * len(count.asked)


def test_completions_of_every_kind_were_compared() -> None:
    """The test above would be weaker if no completion ended early, or if all did."""
    options = ZeroCapOptions(beam=5, **QUICK)
    found = [tokens for tokens, _ in ZeroCap(tiny.llama(seed=1), tiny.clip(), options).complete(tiny.segments(3))]
    end = tiny.llama().tokenizer.encode(".")[-1]
    assert {tokens[-1] == end for tokens in found} == {True, False}
    assert all(len(tokens) == 4 or tokens[-1] == end for tokens in found)


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama])
def test_a_segment_does_not_notice_its_batch_mates(make: Any) -> None:
    zerocap = ZeroCap(make(), tiny.clip(), ZeroCapOptions(beam=3, **QUICK))
    segments = tiny.segments(5)
    together = zerocap.complete(segments)
    assert together == [zerocap.complete(segment[None])[0] for segment in segments]
    assert together[::-1] == zerocap.complete(segments.flip(0))
    assert zerocap.complete(segments[:0]) == []


def test_captions_depend_on_nothing_captioned_before() -> None:
    """In float32, to the last bit: what is kept of texts is the same whatever asked for it first."""
    language, clip = tiny.gpt2(), tiny.clip().float()
    language.model.float()
    options = ZeroCapOptions(beam=3, **QUICK)
    photo, other = tiny.segments(4).float(), tiny.segments(4, seed=8).float()

    def scores(zerocap: ZeroCap) -> list[Any]:
        return zerocap._search(photo)

    fresh, used = ZeroCap(language, clip, options), ZeroCap(language, clip, options)
    used.complete(other)
    with torch.no_grad():
        assert scores(used) == scores(fresh)


def test_each_likely_text_is_embedded_once_and_the_kept_ones_are_bounded() -> None:
    language, clip, segments = tiny.gpt2(), tiny.clip(), tiny.segments(3)
    count = Counting(clip.text)
    zerocap = ZeroCap(language, with_text(clip, count), ZeroCapOptions(beam=2, **QUICK))
    first = zerocap.complete(segments)
    once = len(count.asked)
    texts = zerocap._texts
    likely = [set(texts._texts(prefix, tokens)) for prefix, (tokens, _) in texts._kept.items()]
    assert zerocap.complete(segments) == first
    assert len(count.asked) - once == once - sum(map(len, likely))  # all is asked again but the likely ones
    assert sum(map(len, likely)) > once / 2
    texts._kept_bytes = 2 * 8 * 16 * 8  # two prefixes of 8 texts, d = 16, float64
    assert zerocap.complete(segments) == first
    assert len(texts._kept) == 2


def test_gradient_steps_lead_to_what_clip_sees() -> None:
    """Unsteered, the model says the same of all; steered, it names what the segment is."""
    words = [" cat", " dog", " sofa", " man"]
    tokenizer = tiny.tokenizer_of(tuple(f"Image of a{word}." for word in words) * 5, size=300)
    language = tiny.gpt2(tokenizer=tokenizer)
    clip = with_text(tiny.clip(), Meaning())
    dog, cat = torch.eye(3, dtype=torch.float64)[:2]
    options = {"beam": 1, "max_tokens": 1, "candidates": 400}
    steered = ZeroCap(language, clip, ZeroCapOptions(gradient_steps=40, **options))
    assert steered.caption(torch.stack([dog, cat])) == ["dog", "cat"]
    unsteered = ZeroCap(language, clip, ZeroCapOptions(gradient_steps=0, **options))
    assert len(set(unsteered.caption(torch.stack([dog, cat])))) == 1
    fluent = ZeroCap(language, clip, ZeroCapOptions(gradient_steps=40, clip_scale=0, **options))
    assert fluent.caption(torch.stack([dog, cat])) == unsteered.caption(torch.stack([dog, cat]))


def test_it_works_inside_inference_mode_and_leaves_no_gradients() -> None:
    language, clip = tiny.gpt2(), tiny.clip()
    options = ZeroCapOptions(beam=2, **QUICK)
    outside = ZeroCap(language, clip, options).caption(tiny.segments(2))
    with torch.inference_mode():
        assert ZeroCap(language, clip, options).caption(tiny.segments(2)) == outside
    assert all(parameter.grad is None for parameter in language.model.parameters())


RULES = {
    " dog": "word", "dog": "word", "'s": "word", "-": "blocked", " Paris": "capital", "2": "blocked", " a1": "blocked",
    "<b>": "blocked", ",": "blocked", ".": "end", " .": "end", "...": "blocked", "\n": "blocked", "\ufffd": "blocked",
    " é": "word", "t-shirt": "word", "": "blocked", " ": "blocked", "_": "blocked", "don’t": "word", "end.": "blocked",
}  # fmt: skip


class Said:
    """A tokenizer whose token number n says the n-th text, after a prefix numbered -1."""

    def batch_decode(self, sequences: list[list[int]], **options: bool) -> list[str]:
        assert options == {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        texts = list(RULES)
        return ["".join("Image of a" if token == -1 else texts[token] for token in tokens) for tokens in sequences]


@pytest.mark.parametrize("capitalised", [True, False])
def test_tokens_are_judged_by_what_they_say(capitalised: bool) -> None:
    rules = TokenRules(Said(), (-1,), len(RULES), capitalised)
    kinds = list(RULES.values())
    assert rules.ends.tolist() == [kind == "end" for kind in kinds]
    blocked = ("blocked", "capital") if capitalised else ("blocked",)
    assert rules.blocked.tolist() == [kind in blocked for kind in kinds]
    for text, wordless in zip(RULES, rules.wordless.tolist(), strict=True):
        assert wordless == (text.strip() not in {"dog", "'s", "Paris", "a1", "<b>", "é", "t-shirt", "don’t", "end."})


def test_factors_lower_and_raise_logits_whatever_their_sign() -> None:
    """By hand: blocked / 20 and * 20, the full stop * 1.01 and / 1.01 from the second token."""
    zerocap = ZeroCap(tiny.gpt2(), tiny.clip(), ZeroCapOptions(**QUICK))
    rules = zerocap._rules
    end, blocked = int(rules.ends.nonzero()[0]), int(rules.blocked.nonzero()[5])
    free = int((~rules.blocked & ~rules.ends).nonzero()[0])
    logits = torch.zeros(2, len(rules.ends), dtype=torch.float64)
    logits[0, [end, blocked, free]] = 2.0
    logits[1, [end, blocked, free]] = -2.0
    later = zerocap._adjust(logits, position=1)[:, [end, blocked, free]]
    expected = torch.tensor([[2.02, 0.1, 2.0], [-2 / 1.01, -40.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(later, expected)
    first = zerocap._adjust(logits, position=0)
    assert first[:, end].tolist() == [-torch.inf, -torch.inf]
    assert first[:, free].tolist() == [2.0, -2.0]


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        (" brown dog.", "brown dog"),
        (" Brown Dog", "brown dog"),
        ("n apple.", "apple"),
        ("nother dog.", "another dog"),
        ("bird.", "abird"),
        (" a cat.", "a cat"),
        ("n.", "an"),
        ("n .", "an"),
        (" dog .", "dog"),
    ],
)
def test_captions_are_what_the_prefix_leaves(text: str, caption: str) -> None:
    zerocap = ZeroCap(tiny.gpt2(), tiny.clip(), ZeroCapOptions(**QUICK))
    tokens = (*zerocap._prefix, *zerocap._tokenizer.encode(text, add_special_tokens=False))
    assert [words.lower() for words in zerocap._words([tokens])] == [caption]


def test_capitals_are_blocked_on_request() -> None:
    tokenizer = tiny.tokenizer_of(("Image of a Paris.",) * 9, size=280)
    language = tiny.gpt2(seed=1, tokenizer=tokenizer)
    options = {"beam": 4, "max_tokens": 2, "gradient_steps": 1, "candidates": 50}
    for blocked in (False, True):
        zerocap = ZeroCap(language, tiny.clip(), ZeroCapOptions(block_capitalised=blocked, **options))
        texts = [tokenizer.decode(tokens) for tokens, _ in zerocap.complete(tiny.segments(6))]
        assert any(re.search("[A-Z]", text) for text in texts) != blocked


def test_a_model_may_name_the_step_that_suits_it() -> None:
    language, clip = tiny.gpt2(), tiny.clip()
    assert ZeroCap(language, clip).step_size == 0.3
    paper = ZeroCap(language, clip, ZeroCapOptions(**QUICK)).complete(tiny.segments(4))
    language.model.config.zerocap_step_size = 20
    assert ZeroCap(language, clip).step_size == 20
    assert ZeroCap(language, clip, ZeroCapOptions(**QUICK)).complete(tiny.segments(4)) != paper
    chosen = ZeroCap(language, clip, ZeroCapOptions(step_size=0.3, **QUICK))
    assert chosen.complete(tiny.segments(4)) == paper


@pytest.mark.parametrize("wrong", [{"beam": 0}, {"max_tokens": 0}, {"candidates": 0}, {"gradient_steps": -1}])
def test_settings_out_of_range_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: expected at least"):
        ZeroCapOptions(**wrong)


def test_a_prefix_without_a_past_is_an_error() -> None:
    with pytest.raises(WeightsError, match="two tokens or more of 'I'"):
        ZeroCap(tiny.gpt2(), tiny.clip(), ZeroCapOptions(prefix="I"))
    ZeroCap(tiny.llama(), tiny.clip(), ZeroCapOptions(prefix="I"))  # its tokenizer puts a start token before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_the_gpu_says_the_same() -> None:
    options = ZeroCapOptions(beam=3, **QUICK)
    language, clip = tiny.gpt2(), tiny.clip()
    here = ZeroCap(language, clip, options).complete(tiny.segments(3))
    assert ZeroCap(language.to("cuda"), clip.to("cuda"), options).complete(tiny.segments(3)) == here


class Parameters:
    captioner, caption_steps, beam, max_tokens, block_capitalised, seed = "zerocap", 2, 2, 3, True, 0


def test_a_captioner_by_name() -> None:
    from annotator.models.captions import make_captioner

    networks, parameters = Networks.of(lm=tiny.gpt2(), clip=tiny.clip()), Parameters()
    zerocap = make_captioner(networks, parameters)
    assert isinstance(zerocap, ZeroCap)
    assert zerocap.options == ZeroCapOptions(gradient_steps=2, beam=2, max_tokens=3, block_capitalised=True)
    parameters.captioner = "none"
    assert make_captioner(networks, parameters) is None
    parameters.captioner = "telepathy"
    with pytest.raises(AnnotatorError, match="expected one of zerocap, retrieval, none, but found 'telepathy'"):
        make_captioner(networks, parameters)
