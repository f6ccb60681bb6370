"""ZeroCap, with all that makes it fast, against the plain one; and the rules by which tokens are judged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
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
from annotator.models.packs import read_pack
from annotator.models.zerocap import Beam, FirstToken, ZeroCap, ZeroCapOptions

QUICK = {"max_tokens": 4, "gradient_steps": 2, "candidates": 8}
EACH_BEAM = {"normalise_over": "each-beam", "end_factor": 1.01, "first_token": "letters"}
EACH_BEAM_PLAIN = {"all_beams": False, "end_factor": 1.01, "letters_first": True}
"""The same for the plain implementation."""


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


def plain(language: Any, text: Any, **settings: Any) -> PlainZeroCap:
    """The rules once more, as regular expressions."""
    size, tokenizer = language.model.config.vocab_size, language.tokenizer
    said = [tokenizer.decode([t], skip_special_tokens=True).strip() if t < len(tokenizer) else "" for t in range(size)]
    ends = {token for token, text in enumerate(said) if text == "."}
    wordless = {token for token, text in enumerate(said) if not re.search(r"[^\W\d_]", text)}
    blocked = {token for token, text in enumerate(said) if not re.fullmatch(r"(?:[^\W\d_]|['’-])*", text)}
    return PlainZeroCap(
        language.model, tokenizer, text, (blocked | wordless) - ends, ends, wordless, Settings(**settings)
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama])
@pytest.mark.parametrize(
    ("beam", "fast_settings", "plain_settings"),
    [
        (1, {}, {}),
        (5, {}, {}),
        (5, EACH_BEAM, EACH_BEAM_PLAIN),
        (1, {"start_token": False}, {"start_token": False}),
    ],
    ids=["published-1", "published-5", "each-beam-5", "no-start-1"],
)
def test_every_token_is_that_of_the_plain_implementation(
    make: Any, beam: int, fast_settings: dict[str, Any], plain_settings: dict[str, Any]
) -> None:
    language, clip, segments = make(seed=1), tiny.clip(), tiny.segments(3)
    count, plain_count = Counting(clip.text), Counting(clip.text)
    options = ZeroCapOptions(beam=beam, **fast_settings, **QUICK)
    found = ZeroCap(language, with_text(clip, count), options).complete(segments)
    slow = plain(language, plain_count, beam=beam, **plain_settings, **QUICK)
    assert found == [(tuple(tokens), words) for tokens, words in (slow.caption(segment) for segment in segments)]
    assert len(set(found)) > 1, "all segments got the same caption"
    assert len(count.asked) * 2 < len(plain_count.asked)
    if beam == 1:
        assert len(plain_count.asked) == plain_encodings(found, **QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("fast_settings", [{}, EACH_BEAM])
def test_scores_are_those_of_the_plain_implementation(fast_settings: dict[str, Any]) -> None:
    """Of every beam, not only of the one that CLIP chooses; some ended while others went on."""
    language, clip, segments = tiny.gpt2(seed=1), tiny.clip(), tiny.segments(2)
    zerocap = ZeroCap(language, clip, ZeroCapOptions(beam=5, **fast_settings, **QUICK))
    slow = plain(language, clip.text, beam=5, **(EACH_BEAM_PLAIN if fast_settings else {}), **QUICK)
    with torch.no_grad():
        searched = zerocap._search(segments, zerocap.options.first_token)
    for segment, beams in zip(segments, searched, strict=True):
        lines = {tuple(line.tokens): sum(line.log_probabilities) for line in slow.search(segment)}
        assert {beam.tokens: beam.score for beam in beams} == pytest.approx(lines, rel=1e-6)
        assert len({len(tokens) for tokens in lines}) > 1


def real_gpt2(folder: Path) -> tiny.Language:
    """A small GPT-2 with the tokenizer class of openai-community/gpt2-medium, from files."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer, GPT2Tokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(tiny.SENTENCES * 3, 330, special_tokens=["<|endoftext|>"], show_progress=False)
    bpe.save_model(str(folder))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    assert isinstance(tokenizer, GPT2Tokenizer)
    return tiny.gpt2(tokenizer=tokenizer)


def test_the_prompt_starts_with_gpt2s_start_token(tmp_path: Path) -> None:
    """Its tokenizer never puts it there; the published code does. No text that CLIP reads has it."""
    language, clip = real_gpt2(tmp_path), tiny.clip()
    tokenizer = language.tokenizer
    bare = tuple(tokenizer.encode("Image of a"))
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") not in bare
    reads: list[tuple[int, ...]] = []
    language.model.register_forward_pre_hook(
        lambda model, args, given: reads.append(tuple(given["input_ids"][0].tolist())), with_kwargs=True
    )
    count = Counting(clip.text)
    ZeroCap(language, with_text(clip, count), ZeroCapOptions(**QUICK)).complete(tiny.segments(1))
    start = (tokenizer.convert_tokens_to_ids("<|endoftext|>"), *bare)
    assert reads[0] == start[:-1]
    assert reads[1] == start[-1:]
    assert {text[: len("Image of a")] for text in count.asked} == {"Image of a"}


def test_the_start_token_is_there_once_or_not_at_all() -> None:
    """Whether the tokenizer puts it there or leaves it out, and unless the model was trained without one."""

    def prefix(language: tiny.Language, start_token: bool | None) -> tuple[int, ...]:
        return ZeroCap(language, tiny.clip(), ZeroCapOptions(start_token=start_token, **QUICK))._prefix

    for language in (tiny.gpt2(), tiny.llama()):
        bare = tuple(language.tokenizer.encode("Image of a", add_special_tokens=False))
        assert 0 not in bare  # the start token
        assert prefix(language, None) == prefix(language, True) == (0, *bare)
        assert prefix(language, False) == bare
        language.model.config.zerocap_start_token = False
        assert prefix(language, None) == bare
        assert prefix(language, True) == (0, *bare)


def test_a_tokenizer_without_a_start_token() -> None:
    language = tiny.gpt2()
    language.tokenizer.bos_token = None
    zerocap = ZeroCap(language, tiny.clip(), ZeroCapOptions(**QUICK))
    assert zerocap._prefix == tuple(language.tokenizer.encode("Image of a"))
    with pytest.raises(ConfigError, match="start_token: expected a tokenizer with a start token, but found none"):
        ZeroCap(language, tiny.clip(), ZeroCapOptions(start_token=True, **QUICK))


def test_the_embedded_model_was_trained_without_a_start_token() -> None:
    language = read_pack("embedded").networks("zeroguide").lm
    assert ZeroCap(language, tiny.clip(), ZeroCapOptions(**QUICK))._prefix == (268, 260, 257)  # Image, of, a


def test_beams_share_their_probabilities_by_hand() -> None:
    """Two segments; next tokens weigh 0.2 and 0.3 for one beam of the first and 0.1 and 0.3 for the other, and a third
    beam has ended: 0.5 + 0.4 + 1 = 1.9. The second segment's one beam has 0.6 and 0.2 to itself."""
    weights = torch.tensor([[0.2, 0.3], [0.6, 0.2], [0.1, 0.3]], dtype=torch.float64)
    live, ended = [Beam(0, (1,)), Beam(1, (1,)), Beam(0, (2,))], [[Beam(0, (3,))], []]

    def shares(**options: Any) -> Tensor:
        zerocap = ZeroCap(tiny.gpt2(), tiny.clip(), ZeroCapOptions(**options, **QUICK))
        return zerocap._normalise(weights.log(), live, ended).exp()

    whole = torch.tensor([[1.9], [0.8], [1.9]], dtype=torch.float64)
    torch.testing.assert_close(shares(), weights / whole)
    own = torch.tensor([[0.5], [0.8], [0.4]], dtype=torch.float64)
    torch.testing.assert_close(shares(normalise_over="each-beam"), weights / own)


def test_a_segment_without_a_word_gets_one() -> None:
    """A model that says nothing but the full stop: where it may begin with it, another first token is sought. Left
    as it is, the prefix's own article would be the caption."""
    language, clip = tiny.gpt2(), tiny.clip()
    end = language.tokenizer.encode(".")[0]
    with torch.no_grad():
        language.model.lm_head = nn.Linear(24, language.model.config.vocab_size).double()
        language.model.lm_head.weight.zero_()
        language.model.lm_head.bias.zero_()
        language.model.lm_head.bias[end] = 60
    segments = tiny.segments(2)
    options = {"beam": 1, "max_tokens": 2, "gradient_steps": 1, "candidates": 8}
    zerocap = ZeroCap(language, clip, ZeroCapOptions(**options))
    with torch.no_grad():
        (silent, _) = zerocap._search(segments, "any")
    assert [beam.tokens for beam in silent] == [(*zerocap._prefix, end)]
    words = zerocap.complete(segments)
    assert words == ZeroCap(language, clip, ZeroCapOptions(first_token="letters", **options)).complete(segments)
    assert all(any(map(str.isalpha, text)) and tokens[1:] == (end,) for tokens, text in words)


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
@pytest.mark.parametrize("settings", [{}, EACH_BEAM])
def test_a_segment_does_not_notice_its_batch_mates(make: Any, settings: dict[str, Any]) -> None:
    """Beams share their probabilities with beams of the same segment alone."""
    zerocap = ZeroCap(make(), tiny.clip(), ZeroCapOptions(beam=3, **settings, **QUICK))
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
        return zerocap._search(photo, "any")

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
    """By hand: blocked / 20 and * 20, the full stop * 1.1 and / 1.1 from the second token, / 1.6 and * 1.6 before."""
    zerocap = ZeroCap(tiny.gpt2(), tiny.clip(), ZeroCapOptions(**QUICK))
    rules = zerocap._rules
    end, blocked = int(rules.ends.nonzero()[0]), int(rules.blocked.nonzero()[5])
    free = int((~rules.blocked & ~rules.ends).nonzero()[0])
    logits = torch.zeros(2, len(rules.ends), dtype=torch.float64)
    logits[0, [end, blocked, free]] = 2.0
    logits[1, [end, blocked, free]] = -2.0

    def adjusted(position: int, first_token: FirstToken) -> Tensor:
        return zerocap._adjust(logits, position, first_token)[:, [end, blocked, free]]

    later = torch.tensor([[2.2, 0.1, 2.0], [-2 / 1.1, -40.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(adjusted(1, "any"), later)
    torch.testing.assert_close(adjusted(1, "letters"), later)
    first = torch.tensor([[1.25, 0.1, 2.0], [-3.2, -40.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(adjusted(0, "any"), first)
    first[:, 0] = -torch.inf
    torch.testing.assert_close(adjusted(0, "letters")[:, [0, 2]], first[:, [0, 2]])


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
    with pytest.raises(ConfigError, match="end_factor: expected more than 0, but got 0"):
        ZeroCapOptions(end_factor=0)


def test_a_prefix_without_a_past_is_an_error() -> None:
    with pytest.raises(WeightsError, match="two tokens or more of 'I'"):
        ZeroCap(tiny.gpt2(), tiny.clip(), ZeroCapOptions(prefix="I", start_token=False))
    ZeroCap(tiny.gpt2(), tiny.clip(), ZeroCapOptions(prefix="I"))  # the start token is before it


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_the_gpu_says_the_same() -> None:
    options = ZeroCapOptions(beam=3, **QUICK)
    language, clip = tiny.gpt2(), tiny.clip()
    here = ZeroCap(language, clip, options).complete(tiny.segments(3))
    assert ZeroCap(language.to("cuda"), clip.to("cuda"), options).complete(tiny.segments(3)) == here


class Parameters:
    captioner, caption_steps, beam, max_tokens, block_capitalised, seed = "zerocap", 2, 2, 3, True, 0
    start_token, normalise_over, end_factor, first_token = None, None, None, None


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


def options_with(pack: str, **given: Any) -> ZeroCapOptions:
    from annotator.models.captions import make_captioner

    networks, parameters = Networks.of(lm=tiny.gpt2(), clip=tiny.clip()), Parameters()
    networks.pack = pack
    for name, value in given.items():
        setattr(parameters, name, value)
    captioner = make_captioner(networks, parameters)
    assert isinstance(captioner, ZeroCap)
    return captioner.options


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pack", "expected"), [("paper", ("all-beams", 1.1, "any")), ("embedded", ("each-beam", 1.01, "letters"))]
)
def test_the_published_rules_go_with_the_paper_pack(pack: str, expected: tuple[str, float, str]) -> None:
    """All beams, 1.1, and 1.6 for a first full stop. Any of them can be chosen with either pack."""
    found = options_with(pack)
    assert (found.normalise_over, found.end_factor, found.first_token) == expected
    assert (found.first_stop_factor, found.start_token) == (1.6, None)
    for name, values in {
        "normalise_over": ("all-beams", "each-beam"), "first_token": ("any", "letters"),
        "end_factor": (1.01, 1.1), "start_token": (True, False),
    }.items():  # fmt: skip
        for value in values:
            assert options_with(pack, **{name: value}) == replace(found, **{name: value})


def test_captions_longer_than_the_model_can_write_are_refused() -> None:
    language = tiny.gpt2()
    room = language.model.config.n_positions - len(ZeroCap(language, tiny.clip(), ZeroCapOptions(max_tokens=1))._prefix)
    ZeroCap(language, tiny.clip(), ZeroCapOptions(max_tokens=room))
    with pytest.raises(ConfigError, match=f"max_tokens: expected at most {room} with this language model, but got"):
        ZeroCap(language, tiny.clip(), ZeroCapOptions(max_tokens=room + 1))
