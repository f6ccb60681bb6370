"""ZeroCap with all that makes it fast against the plain one: text encodings, seconds, and that both say the same.

python tests/bench/bench_zerocap.py

A random GPT-2 and a random CLIP. The segments are those of one photo: several lie on one thing and are close to one
another, which is why their texts begin alike; `things` = `segments` is the worst case.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import tiny_language as tiny
from reference.zerocap import PlainZeroCap, Settings

from annotator.models.clip import DenseClip
from annotator.models.compat import prepare_torchvision
from annotator.models.zerocap import ZeroCap, ZeroCapOptions

SETTINGS = {"max_tokens": 5, "candidates": 32}


class Counting(nn.Module):
    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text, self.count = text, 0

    def forward(self, prompts: list[str]) -> Tensor:
        self.count += len(prompts)
        return self.text(prompts)


def photo(segments: int, things: int) -> Tensor:
    """S x 16: each segment is one of the things, and a little of its own (cosine about 0.98)."""
    own, shared = tiny.segments(segments, seed=1), tiny.segments(things, seed=2)
    return nn.functional.normalize(shared[torch.arange(segments) % things] + 0.2 * own, dim=1)


def compare(beam: int, segments: int, things: int) -> None:
    language, clip, goals = tiny.gpt2(seed=2), tiny.clip(), photo(segments, things)
    fast_text, plain_text = Counting(clip.text), Counting(clip.text)
    counted = DenseClip(clip.visual, fast_text, (0, 0, 0), (1, 1, 1))
    begun = time.process_time()
    fast = ZeroCap(language, counted, ZeroCapOptions(beam=beam, **SETTINGS))
    found = fast.complete(goals)
    between = time.process_time()
    rules = fast._rules
    sets = [set(mask.nonzero()[:, 0].tolist()) for mask in (rules.blocked, rules.ends, rules.wordless)]
    plain = PlainZeroCap(language.model, language.tokenizer, plain_text, *sets, Settings(beam=beam, **SETTINGS))
    expected = [(tuple(tokens), words) for tokens, words in map(plain.caption, goals)]
    seconds = time.process_time() - between, between - begun
    print(
        f"beam {beam}, {segments} segments on {things} things: {plain_text.count} text encodings plain, "
        f"{fast_text.count} fast, {plain_text.count / fast_text.count:.1f} x fewer; {seconds[0]:.1f} s of CPU plain, "
        f"{seconds[1]:.2f} s fast, {seconds[0] / seconds[1]:.1f} x faster; same tokens: {found == expected}",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    prepare_torchvision()
    for beam in (1, 5):
        compare(beam, segments=20, things=5)
        compare(beam, segments=4, things=4)
