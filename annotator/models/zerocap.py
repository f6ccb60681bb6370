"""ZeroCap (Tewel et al., CVPR 2022) as zero-guidance segmentation uses it: a language model, steered by CLIP.

For every token the cached keys and values of the text so far are shifted by a few gradient steps, until what the
model would say next is what CLIP finds close to the segment. Symbols: S segments, B unfinished beams of all segments
together, V tokens of the vocabulary, K candidates, d of CLIP's joint space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from annotator.errors import ConfigError, WeightsError
from annotator.limits import Count, Limits, check_fields
from annotator.models.candidate_texts import CandidateTexts, TokenRules, Tokens, decode
from annotator.models.fp32 import exact_fp32

if TYPE_CHECKING:
    from annotator.models.clip import DenseClip
    from annotator.models.language import LanguageModel

Past = list[tuple[Tensor, Tensor]]
"""Per layer the keys and the values of the text so far, B x heads x length x width each."""


STEP_SIZE = 0.3
NormaliseOver = Literal["all-beams", "each-beam"]
FirstToken = Literal["any", "letters"]


@dataclass(frozen=True)
class ZeroCapOptions:
    """The published values: the paper's, and those of the authors' code where the paper is silent or differs.

    prefix:            the text to be completed.
    start_token:       the prefix begins with the tokenizer's start token, `bos_token`. None: it does, unless the
                       tokenizer has none or the model's config says `zerocap_start_token: false`, because the model
                       was trained on texts without one.
    max_tokens:        the longest completion.
    beam:              completions kept per segment.
    gradient_steps, step_size, gradient_power: steps per token; each is step_size * g / |g| ** gradient_power, g the
                       gradient of one sequence with respect to one layer's keys, or values. None takes what the
                       model's config names as `zerocap_step_size`, else the paper's 0.3: few and narrow layers
                       need longer steps than GPT-2 medium's 24.
    clip_scale, fluency_scale: weights of the two losses.
    candidates:        the language model's most likely tokens, which CLIP judges.
    temperature:       of CLIP's softmax over them.
    mix:               share of the steered distribution in the geometric mean with the language model's own.
    normalise_over:    "all-beams": the next tokens' probabilities sum to 1 over all beams of a segment together,
                       which favours captions that end early; "each-beam": they do for each beam.
    end_factor:        the full stop's logit is raised by it from the second token on; 1.01 in the paper's text.
    first_token:       "any"; "letters": it must have one.
    first_stop_factor: the full stop's logit is lowered by it at the first token.
    block_factor:      logits of blocked tokens are lowered by it.
    block_capitalised: block capitals, hence most names, too.
    """

    prefix: str = "Image of a"
    start_token: bool | None = None
    max_tokens: Count = 15
    beam: Count = 5
    gradient_steps: Annotated[int, Limits(0, 10**9)] = 5
    step_size: float | None = None
    gradient_power: float = 0.9
    clip_scale: float = 1.0
    fluency_scale: float = 0.2
    candidates: Count = 512
    temperature: float = 0.01
    mix: float = 0.99
    normalise_over: NormaliseOver = "all-beams"
    end_factor: Annotated[float, Limits(0, 10**9, above=True)] = 1.1
    first_token: FirstToken = "any"
    first_stop_factor: float = 1.6
    block_factor: float = 20.0
    block_capitalised: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Beam:
    """tokens: the prefix's and those added. score: sum of the added ones' log-probabilities."""

    segment: int
    tokens: Tokens
    score: float = 0.0

    def mean(self, prefix: int) -> float:
        return self.score / (len(self.tokens) - prefix)


class ZeroCap:
    """No random numbers are drawn, and no token is repeated or avoided for having been said.

    Segments of one call are one batch, so how they are divided into calls may change a caption by rounding: one call
    per photo makes it a matter of the photo alone.
    """

    def __init__(self, language: LanguageModel, clip: DenseClip, options: ZeroCapOptions | None = None) -> None:
        self.options = options or ZeroCapOptions()
        self._model: Any = language.model
        self._tokenizer: Any = language.tokenizer
        self._clip = clip
        own_step = getattr(self._model.config, "zerocap_step_size", STEP_SIZE)
        self.step_size = float(own_step if self.options.step_size is None else self.options.step_size)
        self._device: torch.device = next(self._model.parameters()).device
        self._prefix = self._encode_prefix()
        self._refuse_long_captions()
        with exact_fp32(), torch.inference_mode(False), torch.no_grad():
            self._prefix_past: Past = []
            if len(self._prefix) > 1:
                self._prefix_past = self._forward(torch.tensor([self._prefix[:-1]], device=self._device), [])[1]
            size = self._forward(self._last_tokens([self._prefix]), self._prefix_past)[0].shape[-1]
        capitalised = self.options.block_capitalised
        self._rules = TokenRules(self._tokenizer, self._prefix, size, capitalised).to(self._device)
        self._wordless: list[bool] = self._rules.wordless.tolist()
        self._texts = CandidateTexts(self._tokenizer, clip.text, self._likely, size)

    def caption(self, segments: Tensor) -> list[str]:
        """S x d normalised embeddings -> S captions."""
        return [caption for _, caption in self.complete(segments)]

    def complete(self, segments: Tensor) -> list[tuple[Tokens, str]]:
        """S x d normalised embeddings -> per segment the tokens that follow the prefix, and the caption they make."""
        with exact_fp32(), torch.inference_mode(False), torch.no_grad():
            goals = segments.detach().to(self._device, self._prefix_past[0][0].dtype, copy=True)
            return self._say(goals, self.options.first_token) if len(goals) else []

    def _encode_prefix(self) -> Tokens:
        prefix = self.options.prefix
        found = (*self._start(), *self._tokenizer.encode(prefix, add_special_tokens=False))
        if len(found) < 2:
            raise WeightsError(
                f"expected a tokenizer that makes two tokens or more of {prefix!r}, but found {found}; "
                "use another language model"
            )
        return found

    def _refuse_long_captions(self) -> None:
        """A language model has as many positions as it was trained with."""
        most = getattr(self._model.config, "max_position_embeddings", self.options.max_tokens + len(self._prefix))
        if (room := most - len(self._prefix)) < self.options.max_tokens:
            raise ConfigError(
                f"max_tokens: expected at most {room} with this language model, but got {self.options.max_tokens}"
            )

    def _start(self) -> Tokens:
        """The start token, if the prefix begins with one. GPT-2's tokenizer has it, but never puts it there itself."""
        token, wanted = self._tokenizer.bos_token_id, self.options.start_token
        if wanted and token is None:
            raise ConfigError("start_token: expected a tokenizer with a start token, but found none; use false or null")
        if wanted is None:
            wanted = token is not None and getattr(self._model.config, "zerocap_start_token", True)
        return (token,) if wanted else ()

    def _say(self, goals: Tensor, first_token: FirstToken) -> list[tuple[Tokens, str]]:
        """Of each segment the best completion. A segment that got none with a word is completed again, so that the
        first token has a letter."""
        said = self._closest(self._search(goals, first_token), goals)
        silent = [segment for segment, (tokens, _) in enumerate(said) if not self._has_word(tokens)]
        if silent and first_token == "any":
            for segment, instead in zip(silent, self._say(goals[silent], "letters"), strict=True):
                said[segment] = instead
        return said

    # -- beam search ---------------------------------------------------------------------------------------------

    def _search(self, goals: Tensor, first_token: FirstToken) -> list[list[Beam]]:
        """Per segment its beams, by mean log-probability per token; those that ended compete with the others."""
        live = [Beam(segment, self._prefix) for segment in range(len(goals))]
        ended: list[list[Beam]] = [[] for _ in live]
        past = [
            (keys.expand(len(live), -1, -1, -1), values.expand(len(live), -1, -1, -1))
            for keys, values in self._prefix_past
        ]
        for position in range(self.options.max_tokens):
            sequences, own_goals = [beam.tokens for beam in live], goals[[beam.segment for beam in live]]
            mixed, past = self._next(sequences, own_goals, past, position, first_token)
            live, ended, parents = self._select(live, ended, self._normalise(mixed, live, ended))
            if not live:
                break
            past = [(keys[parents], values[parents]) for keys, values in past]
        return [[*ended[segment], *(beam for beam in live if beam.segment == segment)] for segment in range(len(goals))]

    def _normalise(self, mixed: Tensor, live: list[Beam], ended: list[list[Beam]]) -> Tensor:
        """B x V logarithms of what the next tokens weigh -> log-probabilities.

        Over all beams means all of the same segment; of those, one that has ended weighs 1, as what it says is
        settled.
        """
        if self.options.normalise_over == "each-beam":
            return mixed.log_softmax(dim=-1)
        rows_of: dict[int, list[int]] = {}
        for row, beam in enumerate(live):
            rows_of.setdefault(beam.segment, []).append(row)
        own = mixed.logsumexp(dim=-1)
        whole = torch.empty_like(own)
        for segment, rows in rows_of.items():
            whole[rows] = torch.cat([own[rows], own.new_zeros(len(ended[segment]))]).logsumexp(dim=0)
        return mixed - whole[:, None]

    def _select(
        self, live: list[Beam], ended: list[list[Beam]], log_probs: Tensor
    ) -> tuple[list[Beam], list[list[Beam]], list[int]]:
        """The best beams of each segment: unfinished and ended ones, and which unfinished one each comes from."""
        width = min(self.options.beam, log_probs.shape[-1])
        values, tokens = (found.tolist() for found in log_probs.topk(width, dim=-1))
        choices: list[list[tuple[Beam, int]]] = [[(beam, -1) for beam in beams] for beams in ended]
        for row, beam in enumerate(live):
            for value, token in zip(values[row], tokens[row], strict=True):
                if value > -torch.inf:
                    longer = Beam(beam.segment, (*beam.tokens, token), beam.score + value)
                    choices[beam.segment].append((longer, row))
        kept: list[tuple[Beam, int]] = []
        for several in choices:
            several.sort(key=lambda choice: choice[0].mean(len(self._prefix)), reverse=True)  # stable
            kept += several[: self.options.beam]
        ends = self._rules.ends.tolist()
        going_on = [(beam, row) for beam, row in kept if not ends[beam.tokens[-1]]]
        over: list[list[Beam]] = [[] for _ in ended]
        for beam, _ in kept:
            if ends[beam.tokens[-1]]:
                over[beam.segment].append(beam)
        return [beam for beam, _ in going_on], over, [row for _, row in going_on]

    def _closest(self, beams: list[list[Beam]], goals: Tensor) -> list[tuple[Tokens, str]]:
        """Of each segment's beams the one closest to it in CLIP; those without a word come last."""
        words = [self._words([beam.tokens for beam in several]) for several in beams]
        prompts = [f"{self.options.prefix} {text}." for several in words for text in several]
        embeddings = F.normalize(self._clip.text(prompts), dim=-1).to(goals)
        parts = embeddings.split([len(several) for several in words])
        cosines = [(part @ goal).tolist() for part, goal in zip(parts, goals, strict=True)]
        said = []
        for several, texts, closeness in zip(beams, words, cosines, strict=True):
            completions = [beam.tokens[len(self._prefix) :] for beam in several]
            best = max(range(len(texts)), key=lambda row: (self._has_word(completions[row]), closeness[row]))
            said.append((completions[best], texts[best].lower()))
        return said

    def _has_word(self, completion: Tokens) -> bool:
        return not all(self._wordless[token] for token in completion)

    def _words(self, sequences: Sequence[Tokens]) -> list[str]:
        """The completions, without the full stop. A token that goes on with the prefix's article ("a" + "n") makes
        a word of it, unless it is an article again."""
        prefix, *whole = decode(self._tokenizer, [self._prefix, *sequences])
        texts = [text.removeprefix(prefix.rpartition(" ")[0]).strip() for text in whole]
        return [re.sub(r"^an? +(?=\w)", "", text).removesuffix(".").strip() for text in texts]

    # -- one token -----------------------------------------------------------------------------------------------

    def _next(
        self, sequences: list[Tokens], goals: Tensor, past: Past, position: int, first_token: FirstToken
    ) -> tuple[Tensor, Past]:
        """B x V log p^mix p0^(1 - mix) of the next token, not normalised, and the past with the last token in it."""
        options = self.options
        last = self._last_tokens(sequences)
        logits, longer = self._forward(last, past)
        own = logits.log_softmax(dim=-1)  # p0
        shifted = self._shift(sequences, last, goals, past, own)
        steered = self._adjust(self._forward(last, shifted)[0], position, first_token).log_softmax(dim=-1)
        return options.mix * steered + (1 - options.mix) * own, longer

    def _shift(self, sequences: list[Tokens], last: Tensor, goals: Tensor, past: Past, own: Tensor) -> Past:
        """The past, shifted by gradient steps. Sums over sequences, so that none sees the others' gradients."""
        options = self.options
        self._texts.forget_rare()
        shifts = [torch.zeros_like(part, memory_format=torch.contiguous_format) for layer in past for part in layer]
        for _ in range(options.gradient_steps):
            with torch.enable_grad():
                moved = [shift.requires_grad_() for shift in shifts]
                log_probs = self._forward(last, _add(past, moved))[0].log_softmax(dim=-1)
                candidates = log_probs.detach().topk(min(options.candidates, log_probs.shape[-1]), dim=-1).indices
                cosines = self._texts.similarities(sequences, candidates, goals)
                target = (cosines / options.temperature).softmax(dim=-1)
                cross_entropy = -(target * log_probs.gather(1, candidates)).sum()
                divergence = (log_probs.exp() * (log_probs - own)).sum()
                loss = options.clip_scale * cross_entropy + options.fluency_scale * divergence
                gradients = torch.autograd.grad(loss, moved)
            shifts = [shift.detach() - self._step(gradient) for shift, gradient in zip(shifts, gradients, strict=True)]
        return _add(past, shifts)

    def _step(self, gradient: Tensor) -> Tensor:
        """B x ... gradient of one layer -> the step, its length normalised per sequence."""
        norms = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        return self.step_size * gradient / (norms**self.options.gradient_power)[:, None, None, None]

    def _adjust(self, logits: Tensor, position: int, first_token: FirstToken) -> Tensor:
        """Rules on the steered logits: blocked tokens are lowered; the full stop is lowered at first and raised later;
        a first token without a letter can be ruled out."""
        options, rules = self.options, self._rules
        logits = torch.where(rules.blocked, _scale(logits, 1 / options.block_factor), logits)
        if position == 0 and first_token == "letters":
            return logits.masked_fill(rules.wordless, -torch.inf)
        factor = 1 / options.first_stop_factor if position == 0 else options.end_factor
        return torch.where(rules.ends, _scale(logits, factor), logits)

    # -- the language model --------------------------------------------------------------------------------------

    def _likely(self, prefix: Tokens) -> Tensor:
        """The unshifted model's own most likely tokens, from the prefix alone, in order of their number."""
        logits = self._forward(torch.tensor([prefix], device=self._device), [])[0][0]
        return logits.topk(min(self.options.candidates, len(logits))).indices.sort().values

    def _last_tokens(self, sequences: Sequence[Tokens]) -> Tensor:
        return torch.tensor([tokens[-1:] for tokens in sequences], device=self._device)

    def _forward(self, tokens: Tensor, past: Past) -> tuple[Tensor, Past]:
        """B x T tokens after `past` -> B x V logits of what follows, and the past with them in it."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        for index, (keys, values) in enumerate(past):
            cache.update(keys, values, index)
        output = self._model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return output.logits[:, -1], [(layer.keys, layer.values) for layer in output.past_key_values.layers]


def _add(past: Past, shifts: Sequence[Tensor]) -> Past:
    """shifts: keys and values of each layer in turn."""
    return [(keys + shifts[2 * i], values + shifts[2 * i + 1]) for i, (keys, values) in enumerate(past)]


def _scale(logits: Tensor, factor: float) -> Tensor:
    """Raised by a factor above 1, lowered by one below, whatever their sign."""
    return torch.where(logits > 0, logits * factor, logits / factor)
