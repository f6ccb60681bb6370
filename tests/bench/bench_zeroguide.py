"""Where zeroguide's seconds go, per photo, with each captioner and each row of the paper's ablation.

python tests/bench/bench_zeroguide.py IMAGES [--limit 20] [--set overlap=1 ...]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import annotator
from annotator.config import parse_setting
from annotator.decode import decode
from annotator.images import open_source
from annotator.models.devices import keep_freed_memory
from labelers import zeroguide

VARIANTS: dict[str, dict[str, Any]] = {
    "retrieval": {"captioner": "retrieval"},
    "zerocap": {"captioner": "zerocap"},
    "no captions": {"captioner": "none"},
    "retrieval, crop and mask": {"captioner": "retrieval", "baseline": "crop-and-mask"},
    "retrieval, no merge": {"captioner": "retrieval", "merge": False},
}
STAGES = ("over-segments", "embeddings", "captions", "captions embedded", "rest")


def timed(seconds: Counter[str], stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        result = function(*arguments, **named)
        seconds[stage] += time.perf_counter() - begun
        return result

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--pack", default="embedded")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    arguments = parser.parse_args()
    settings = dict(parse_setting(pair) for pair in arguments.set)
    files = [ref.file for ref, _ in zip(open_source(arguments.images), range(arguments.limit), strict=False)]

    keep_freed_memory()
    seconds: Counter[str] = Counter()
    zeroguide.oversegment = timed(seconds, "over-segments", zeroguide.oversegment)
    embedder = zeroguide.SegmentEmbedder
    embedder.__init__ = timed(seconds, "embeddings", embedder.__init__)  # type: ignore[method-assign]
    embedder.embed = timed(seconds, "embeddings", embedder.embed)  # type: ignore[method-assign]
    print(f"seconds per photo, {len(files)} photos", " ".join(f"{stage:>18}" for stage in STAGES), "   whole", sep="  ")
    for name in arguments.variants:
        labeler: Any = annotator.load_labeler("zeroguide", arguments.pack, **settings, **VARIANTS[name])
        labeler.prepare(None)
        photos = [decode(file, working_side=labeler.working_side).pixels for file in files]
        labeler.label(photos[:1])  # what is loaded on first use
        seconds.clear()
        if labeler._captioner is not None:
            labeler._captioner.caption = timed(seconds, "captions", labeler._captioner.caption)
        labeler._text_of = timed(seconds, "captions embedded", labeler._text_of)
        begun, segments = time.perf_counter(), 0
        for photo in photos:
            segments += len(labeler.label([photo])[0].labels)
        whole = time.perf_counter() - begun
        seconds["rest"] = whole - sum(seconds.values())
        parts = " ".join(f"{seconds[stage] / len(photos):18.3f}" for stage in STAGES)
        print(f"{name:>28}  {parts}  {whole / len(photos):6.3f}   {segments / len(photos):.1f} segments", flush=True)


if __name__ == "__main__":
    main()
