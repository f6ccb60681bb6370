"""How well a language model predicts lines of token ids, beside two models that only count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
AT_ONCE = 256
Lines = Sequence[Sequence[int]]


def padded(lines: Lines) -> Tensor:
    """-> B x L, IGNORED after each line's end."""
    rows = [torch.tensor(line) for line in lines]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def loss_of(model: Any, batch: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of every token but a line's first, given those before it. batch: B x L of `padded`."""
    with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=model.training):
        logits = model(input_ids=batch.clamp(min=0)).logits  # B x L x V; padding only ever follows what is scored
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten(), reduction=reduction)


@torch.inference_mode()
def of_model(model: Any, lines: Lines) -> float:
    """model: in eval mode. Perplexity per token, as below."""
    device = next(model.parameters()).device
    batches = (padded(lines[start : start + AT_ONCE]).to(device) for start in range(0, len(lines), AT_ONCE))
    return _perplexity(sum(float(loss_of(model, batch, "sum")) for batch in batches), lines)


def of_unigrams(train: Lines, lines: Lines, vocabulary: int) -> float:
    """Of tokens drawn by their frequency in `train`."""
    logs = _frequencies(train, vocabulary).log()
    return _perplexity(-sum(float(logs[list(line[1:])].sum()) for line in lines), lines)


def of_bigrams(train: Lines, lines: Lines, vocabulary: int) -> float:
    """Of tokens drawn by the token before them: as often as in `train`, mixed with their own frequency, which counts
    for as many as that token has different successors (Witten and Bell's interpolation)."""
    frequencies = _frequencies(train, vocabulary).tolist()
    pairs: dict[int, dict[int, int]] = {}
    for line in train:
        for before, after in pairwise(line):
            successors = pairs.setdefault(before, {})
            successors[after] = successors.get(after, 0) + 1
    total = 0.0
    for line in lines:
        for before, after in pairwise(line):
            successors = pairs.get(before, {})
            kinds = max(1, len(successors))
            mixed = successors.get(after, 0) + kinds * frequencies[after]
            total -= math.log(mixed / (sum(successors.values()) + kinds))
    return _perplexity(total, lines)


def _frequencies(train: Lines, vocabulary: int) -> Tensor:
    """Each token counted once more than it occurs; a line's first is not predicted and does not count."""
    counts = torch.bincount(torch.tensor([i for line in train for i in line[1:]]), minlength=vocabulary).double() + 1
    return counts / counts.sum()


def _perplexity(loss: float, lines: Lines) -> float:
    return math.exp(loss / sum(len(line) - 1 for line in lines))
