"""ZeroCap with all that makes it fast against the plain one: text encodings, seconds, and that both say the same.

python tests/bench/bench_zerocap.py [--segments 16]

A random GPT-2 and a random CLIP. The segments are those of one photo: several lie on one thing and are close to one
another, which is why their texts begin alike; `things` = `segments` is the worst case.
Last, the embedded pack's networks at the paper's settings, on segments of one photo: how often a text is asked for,
which the plain one embeds each time, and how many texts are embedded.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import tiny_language as tiny
from reference.zerocap import PlainZeroCap, Settings
from timing import parser, say_ratio

from annotator.decode import decode
from annotator.demo import write_photos
from annotator.models.candidate_texts import CandidateTexts
from annotator.models.clip import DenseClip
from annotator.models.compat import prepare_torchvision
from annotator.models.packs import open_networks
from annotator.models.zerocap import ZeroCap, ZeroCapOptions
from labelers.base import build, find

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
    plain_seconds, seconds = time.process_time() - between, between - begun
    what = f"beam {beam}, {segments} segments on {things} things"
    say_ratio(plain_seconds, seconds, 10, f"{what}: {plain_seconds:.1f} s of CPU plain, {seconds:.2f} s by the tool")
    counts = f"{plain_text.count:,} text encodings plain, {fast_text.count:,} by the tool"
    say_ratio(plain_text.count, fast_text.count, 20, f"{what}: {counts}; the same tokens: {found == expected}")


def count_on_a_photo(segments: int) -> None:
    """The embedded pack, 5 beams, 5 gradient steps, 512 candidates, 15 tokens."""
    networks: Any = open_networks("embedded", find("zeroguide").spec)
    labeler: Any = build("zeroguide", networks, {"captioner": "none", "merge": False})
    labeler.prepare(None)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder))
        prediction = labeler.label([decode(Path(folder) / "coffee.jpg").pixels])[0]
    goals = torch.from_numpy(prediction.embeddings[:segments].astype("float32"))
    text = Counting(networks.clip.text)
    captioner = ZeroCap(networks.lm, DenseClip(networks.clip.visual, text, (0, 0, 0), (1, 1, 1)), ZeroCapOptions())
    asked, similarities = 0, CandidateTexts.similarities

    def counted(self: CandidateTexts, prefixes: Any, candidates: Tensor, against: Tensor) -> Tensor:
        nonlocal asked
        asked += candidates.numel()
        return similarities(self, prefixes, candidates, against)

    begun = time.perf_counter()
    CandidateTexts.similarities = counted  # type: ignore[method-assign]
    try:
        captioner.complete(goals)
    finally:
        CandidateTexts.similarities = similarities  # type: ignore[method-assign]
    seconds = time.perf_counter() - begun
    what = f"embedded pack, beam 5, {len(goals)} segments of a photo ({seconds:.0f} s)"
    counts = f"{asked:,} text encodings asked for, {text.count:,} made"
    say_ratio(asked, text.count, 20, f"{what}: {counts}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--segments", type=int, default=16, help="of the photo")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    prepare_torchvision()
    for beam in (1, 5):
        compare(beam, segments=20, things=5)
        compare(beam, segments=4, things=4)
    count_on_a_photo(arguments.segments)


if __name__ == "__main__":
    main()
