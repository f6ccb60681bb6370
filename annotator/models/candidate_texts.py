"""What ZeroCap needs to know of texts: which tokens may follow, and how close each continuation is to a segment."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Tokens = tuple[int, ...]
KEPT_BYTES = 512 << 20
JOINERS = "'’-"


class TokenRules:
    """Rules by what a token says, so that they hold for every tokenizer.

    ends:     it is the full stop.
    wordless: it has no letter.
    blocked:  it has anything but letters, with "'" and "-" between them: digits, markup, punctuation, special tokens,
              half characters. Never the full stop; with `capitalised` words with capitals, too.
    """

    def __init__(self, tokenizer: Any, prefix: Tokens, size: int, capitalised: bool) -> None:
        """size: of the model's vocabulary, which may be larger than the tokenizer's."""
        texts = [text.strip(" ") for text in _continuations(tokenizer, prefix, size)]
        self.ends = torch.tensor([text == "." for text in texts])
        self.wordless = torch.tensor([not any(map(str.isalpha, text)) for text in texts])
        strange = torch.tensor([not all(letter.isalpha() or letter in JOINERS for letter in text) for text in texts])
        capitals = torch.tensor([capitalised and any(map(str.isupper, text)) for text in texts])
        self.blocked = (self.wordless | strange | capitals) & ~self.ends

    def to(self, device: torch.device) -> TokenRules:
        self.ends, self.wordless, self.blocked = (m.to(device) for m in (self.ends, self.wordless, self.blocked))
        return self


def _continuations(tokenizer: Any, prefix: Tokens, size: int) -> list[str]:
    """What each token adds to the prefix's text; decoded behind it, because first words lose their space."""
    before = len(decode(tokenizer, [prefix])[0])
    return [text[before:] for text in decode(tokenizer, [(*prefix, token) for token in range(size)])]


def decode(tokenizer: Any, sequences: Sequence[Tokens]) -> list[str]:
    """The text of each; an empty batch is not for transformers, which takes it for one empty text."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return tokenizer.batch_decode([list(tokens) for tokens in sequences], **options) if sequences else []


class _Table:
    """Embeddings of a prefix's continuations. position: V, the row of each token, -1 where it has none."""

    def __init__(self, tokens: Tensor, embeddings: Tensor, size: int) -> None:
        self.position = torch.full((size,), -1, device=tokens.device)
        self.embeddings = embeddings[:0]
        self.add(tokens, embeddings)

    def add(self, tokens: Tensor, embeddings: Tensor) -> None:
        self.position[tokens] = torch.arange(len(tokens), device=tokens.device) + len(self.embeddings)
        self.embeddings = torch.cat([self.embeddings, embeddings])


class CandidateTexts:
    """Cosines of segments with "prefix + token", each text embedded once.

    Tokens that the language model itself finds likely after a prefix are embedded together and kept from call to
    call, up to `kept_bytes`; further ones live until `forget_rare`. What is kept thus depends on its prefix alone and
    captions do not depend, not even by rounding, on what was captioned before.

    text:   N texts -> N x d embeddings, not normalised.
    likely: prefix -> tokens to embed together.
    size:   of the vocabulary.
    """

    def __init__(
        self,
        tokenizer: Any,
        text: Callable[[list[str]], Tensor],
        likely: Callable[[Tokens], Tensor],
        size: int,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._tokenizer, self._text, self._likely, self._size = tokenizer, text, likely, size
        self._kept_bytes, self._bytes = kept_bytes, 0
        self._kept: OrderedDict[Tokens, tuple[Tensor, Tensor]] = OrderedDict()  # the last used comes last
        self._tables: dict[Tokens, _Table] = {}

    def forget_rare(self) -> None:
        self._tables.clear()

    def similarities(self, prefixes: Sequence[Tokens], candidates: Tensor, segments: Tensor) -> Tensor:
        """prefixes: B; candidates: B x K tokens; segments: B x d normalised -> B x K cosines."""
        rows_of: dict[Tokens, list[int]] = {}
        for row, prefix in enumerate(prefixes):
            rows_of.setdefault(prefix, []).append(row)
        self._complete({prefix: candidates[rows] for prefix, rows in rows_of.items()})
        cosines = segments.new_empty(candidates.shape)
        for prefix, rows in rows_of.items():
            table = self._tables[prefix]
            every = segments[rows] @ table.embeddings.to(segments).T
            cosines[rows] = every.gather(1, table.position[candidates[rows]])
        return cosines

    def _complete(self, wanted: dict[Tokens, Tensor]) -> None:
        """Embeds what is missing, all prefixes together."""
        missing = {}
        for prefix, tokens in wanted.items():
            if prefix not in self._tables:
                self._tables[prefix] = _Table(*self._likely_of(prefix), self._size)
            unique = tokens.unique()
            missing[prefix] = unique[self._tables[prefix].position[unique] < 0]
        texts = [text for prefix, tokens in missing.items() for text in self._texts(prefix, tokens)]
        if texts:
            parts = self._embed(texts).split([len(tokens) for tokens in missing.values()])
            for (prefix, tokens), part in zip(missing.items(), parts, strict=True):
                self._tables[prefix].add(tokens, part)

    def _likely_of(self, prefix: Tokens) -> tuple[Tensor, Tensor]:
        if prefix not in self._kept:
            tokens = self._likely(prefix)
            self._kept[prefix] = tokens, self._embed(self._texts(prefix, tokens))
            self._bytes += self._kept[prefix][1].nbytes
        self._kept.move_to_end(prefix)
        found = self._kept[prefix]
        while self._bytes > self._kept_bytes:
            self._bytes -= self._kept.popitem(last=False)[1][1].nbytes
        return found

    def _texts(self, prefix: Tokens, tokens: Tensor) -> list[str]:
        return decode(self._tokenizer, [(*prefix, token) for token in tokens.tolist()])

    def _embed(self, texts: list[str]) -> Tensor:
        """Equal ones (special tokens, say, add nothing) once."""
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        return F.normalize(self._text(list(row_of)), dim=-1)[[row_of[text] for text in texts]]
