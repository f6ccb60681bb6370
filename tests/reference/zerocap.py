"""ZeroCap as METHODS.md states it, the plain way: one segment, one beam, one text, one token after the other.

Nothing is kept: the language model reads the whole text again for every token, and every text is embedded whenever
it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Settings:
    """all_beams: probabilities sum to one over all lines, else for each line. letters_first: the first token has a
    letter, else the full stop is lowered there."""

    prefix: str = "Image of a"
    max_tokens: int = 15
    beam: int = 5
    gradient_steps: int = 5
    candidates: int = 512
    start_token: bool = True
    all_beams: bool = True
    end_factor: float = 1.1
    letters_first: bool = False


@dataclass
class Line:
    tokens: list[int]
    log_probabilities: list[float]
    over: bool = False

    def mean(self) -> float:
        return sum(self.log_probabilities) / len(self.log_probabilities)


class PlainZeroCap:
    """model, tokenizer: of transformers. text: list of prompts -> N x d. blocked, ends, wordless: sets of tokens."""

    def __init__(
        self, model: Any, tokenizer: Any, text: Any, blocked: set[int], ends: set[int], wordless: set[int],
        settings: Settings,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.text = model, tokenizer, text
        self.blocked, self.ends, self.wordless, self.settings = blocked, ends, wordless, settings
        start = [tokenizer.bos_token_id] if settings.start_token else []
        self.prefix = start + tokenizer.encode(settings.prefix, add_special_tokens=False)

    def caption(self, segment: Tensor) -> tuple[list[int], str]:
        """d -> the tokens of the chosen completion, and the caption. If none has a token with a letter, others are
        sought, whose first has one."""
        lines = self.search(segment)
        lines.sort(key=lambda line: not line.over)  # ended ones first, as the fast one lists them; only for ties
        said = [line for line in lines if not self.wordless.issuperset(line.tokens[len(self.prefix) :])]
        if not said:
            return self.with_letters_first().caption(segment)
        closeness = [float(self.embedding(f"Image of a {self.words(line)}.") @ segment) for line in said]
        best = said[closeness.index(max(closeness))]
        return best.tokens[len(self.prefix) :], self.words(best).lower()

    def with_letters_first(self) -> PlainZeroCap:
        assert not self.settings.letters_first
        settings = replace(self.settings, letters_first=True)
        return PlainZeroCap(
            self.model, self.tokenizer, self.text, self.blocked, self.ends, self.wordless, settings
        )  # fmt: skip

    def search(self, segment: Tensor) -> list[Line]:
        lines = [Line(list(self.prefix), [])]
        for position in range(self.settings.max_tokens):
            if all(line.over for line in lines):
                break
            longer = [line for line in lines if line.over]
            open_lines = [line for line in lines if not line.over]
            following = [self.next_token(line.tokens, segment, position) for line in open_lines]
            of_all = len(longer) + sum(float(weights.sum()) for weights in following)  # an ended line counts as one
            for line, weights in zip(open_lines, following, strict=True):
                whole = of_all if self.settings.all_beams else float(weights.sum())
                for token, weight in enumerate(weights):
                    values = [*line.log_probabilities, float((weight / whole).log())]
                    longer.append(Line([*line.tokens, token], values, over=token in self.ends))
            longer.sort(key=Line.mean, reverse=True)
            lines = longer[: self.settings.beam]
        return lines

    def words(self, line: Line) -> str:
        text = self.string(line.tokens)[len("Image of") :].strip()
        for article in ("a ", "an "):
            if text.startswith(article) and text[len(article) :].strip()[:1].isalnum():
                text = text[len(article) :]
                break
        return (text[:-1] if text.endswith(".") else text).strip()

    def string(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def embedding(self, text: str) -> Tensor:
        vector = self.text([text])[0]
        return vector / vector.norm()

    def next_token(self, tokens: list[int], segment: Tensor, position: int) -> Tensor:
        """Every token after `tokens`: p^0.99 p0^0.01, whose sum is not 1."""
        own = self.model(torch.tensor([tokens])).logits[0, -1].detach().softmax(0)  # p0
        past = [part.detach() for layer in self.past(tokens[:-1]) for part in layer]
        shifts = [torch.zeros_like(part) for part in past]
        for _ in range(self.settings.gradient_steps):
            for shift in shifts:
                shift.requires_grad_(True)
            p = self.after(tokens[-1], past, shifts).softmax(0)
            loss = self.clip_loss(p, tokens, segment) + 0.2 * (p * (p / own).log()).sum()
            loss.backward()
            with torch.no_grad():
                shifts = [shift - 0.3 * shift.grad / shift.grad.norm() ** 0.9 for shift in shifts]
        with torch.no_grad():
            logits = self.after(tokens[-1], past, shifts)
            for token in range(len(logits)):
                if position == 0 and self.settings.letters_first and token in self.wordless:
                    logits[token] = -torch.inf
                elif token in self.blocked:
                    logits[token] = logits[token] / 20 if logits[token] > 0 else logits[token] * 20
                elif token in self.ends:
                    factor = 1 / 1.6 if position == 0 else self.settings.end_factor
                    logits[token] = logits[token] * factor if logits[token] > 0 else logits[token] / factor
            return logits.softmax(0) ** 0.99 * own**0.01

    def clip_loss(self, p: Tensor, tokens: list[int], segment: Tensor) -> Tensor:
        order = p.detach().argsort(descending=True)[: self.settings.candidates].tolist()
        with torch.no_grad():
            cosines = torch.stack([self.embedding(self.string([*tokens, token])) @ segment for token in order])
            target = (cosines / 0.01).softmax(0)
        loss = torch.zeros((), dtype=p.dtype)
        for weight, token in zip(target, order, strict=True):
            loss = loss - weight * p[token].log()
        return loss

    def past(self, tokens: list[int]) -> list[tuple[Tensor, Tensor]]:
        return [(layer.keys, layer.values) for layer in self.model(torch.tensor([tokens])).past_key_values.layers]

    def after(self, token: int, past: list[Tensor], shifts: list[Tensor]) -> Tensor:
        from transformers import DynamicCache

        moved = [part + shift for part, shift in zip(past, shifts, strict=True)]
        cache = DynamicCache([(moved[i], moved[i + 1]) for i in range(0, len(moved), 2)])
        return self.model(torch.tensor([[token]]), past_key_values=cache).logits[0, -1]
