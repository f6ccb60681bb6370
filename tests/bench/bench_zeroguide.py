"""Where zeroguide's seconds go, per photo, with each captioner and each row of the paper's ablation; before that a
photo's segments together against one after the other.

python tests/bench/bench_zeroguide.py [IMAGES] [--limit 3] [--set overlap=1 ...] [--variants ...]

Without IMAGES it takes the demo's photos. One after the other, every segment goes through all layers of CLIP by itself,
is captioned by itself, and every caption is embedded anew.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from timing import interleaved, parser, say_ratio
from torch import Tensor

import annotator
from annotator.config import parse_setting
from annotator.decode import decode
from annotator.demo import write_photos
from annotator.images import open_source
from annotator.models.devices import keep_freed_memory
from annotator.models.masked_clip import SegmentOptions, embed_segments
from annotator.prediction import Prediction
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


class OneByOne:
    """In place of `SegmentEmbedder`."""

    def __init__(self, clip: Any, image: Tensor, options: SegmentOptions) -> None:
        self._given = clip, image, options

    def embed(self, masks: Tensor) -> Tensor:
        clip, image, options = self._given
        return torch.cat([embed_segments(clip, image, mask[None], options) for mask in masks])


class OneCaption:
    """In place of a captioner."""

    def __init__(self, captioner: Any) -> None:
        self._captioner = captioner

    def caption(self, segments: Tensor) -> list[str]:
        return [self._captioner.caption(segment[None])[0] for segment in segments]


def compare(files: Sequence[Path], pack: str, settings: dict[str, Any], rounds: int) -> None:
    """All of zeroguide with the captioner `retrieval`."""
    chosen = {**settings, "captioner": "retrieval"}
    together: Any = annotator.load_labeler("zeroguide", pack, **chosen)
    one_by_one: Any = annotator.load_labeler("zeroguide", pack, **chosen)
    for labeler in (together, one_by_one):
        labeler.prepare(None)
    one_by_one._captioner = OneCaption(one_by_one._captioner)
    one_by_one._text_of = one_by_one._embed_caption
    photos = [decode(file, working_side=together.working_side).pixels for file in files]
    found: dict[str, list[Prediction]] = {}

    def ours() -> None:
        together._text_of.cache_clear()
        found["ours"] = [together.label([photo])[0] for photo in photos]

    def plainly() -> None:
        embedder, zeroguide.SegmentEmbedder = zeroguide.SegmentEmbedder, OneByOne  # type: ignore[assignment, misc]
        try:
            found["plain"] = [one_by_one.label([photo])[0] for photo in photos]
        finally:
            zeroguide.SegmentEmbedder = embedder  # type: ignore[misc]

    together.label(photos[:1])  # what is loaded on first use
    plain, seconds = interleaved(plainly, ours, rounds).medians
    pairs = list(zip(found["ours"], found["plain"], strict=True))
    same = sum(one.labels == other.labels and bool((one.label_map == other.label_map).all()) for one, other in pairs)
    figures = f"{seconds / len(photos):.2f} s a photo, one segment after the other {plain / len(photos):.2f} s"
    say_ratio(plain, seconds, None, f"zeroguide, {len(photos)} photos: {figures}; the same labels on {same} photos")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("images", nargs="?")
    options.add_argument("--pack", default="embedded")
    options.add_argument("--limit", type=int, default=3)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    options.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    arguments = options.parse_args()
    settings = dict(parse_setting(pair) for pair in arguments.set)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.images:
            source = open_source(arguments.images)
        else:
            write_photos(Path(folder))
            source = open_source(folder)
        files = [ref.file for ref in islice(source, arguments.limit)]
        compare(files, arguments.pack, settings, arguments.rounds)
        if arguments.variants:
            print_stages(files, arguments.pack, settings, arguments.variants)


def print_stages(files: Sequence[Path], pack: str, settings: dict[str, Any], variants: Sequence[str]) -> None:
    seconds: Counter[str] = Counter()
    zeroguide.oversegment = timed(seconds, "over-segments", zeroguide.oversegment)
    embedder = zeroguide.SegmentEmbedder
    embedder.__init__ = timed(seconds, "embeddings", embedder.__init__)  # type: ignore[method-assign]
    embedder.embed = timed(seconds, "embeddings", embedder.embed)  # type: ignore[method-assign]
    print(f"seconds per photo, {len(files)} photos", " ".join(f"{stage:>18}" for stage in STAGES), "   whole", sep="  ")
    for name in variants:
        labeler: Any = annotator.load_labeler("zeroguide", pack, **settings, **VARIANTS[name])
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
