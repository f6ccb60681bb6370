"""Class names into CLIP's space: forward passes of the text tower, a prompt at a time, and as the tool does it.

python tests/bench/bench_text.py --names 20

Every name in ImageNet's 80 templates; the second start of the tool finds all of them on the disk.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import plain
import torch
from timing import class_names, parser, say_ratio
from torch import Tensor, nn

from annotator.models.classifier import NameClassifier, imagenet_templates
from annotator.models.packs import open_networks
from annotator.vocabulary import Vocabulary
from labelers.base import find

TOWERS = ("BertModel", "Transformer")
"""Of the embedded pack, and of open_clip."""


@contextmanager
def passes() -> Iterator[list[str]]:
    """An entry per forward pass of a text tower."""
    seen: list[str] = []

    def note(module: nn.Module, given: Any) -> None:
        if type(module).__name__ in TOWERS:
            seen.append(type(module).__name__)

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def measure(embed: Callable[[], Tensor]) -> tuple[int, float, Tensor]:
    """Passes, seconds, what they are for."""
    begun = time.perf_counter()
    with passes() as seen, torch.inference_mode():
        found = embed()
    return len(seen), time.perf_counter() - begun, found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--names", type=int, default=20)
    options.add_argument("--pack", default="embedded")
    arguments = options.parse_args()
    names, templates = class_names(arguments.names, background=False), imagenet_templates()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ANNOTATE_CACHE"] = folder
        clip = open_networks(arguments.pack, find("maskclip").spec).clip
        clip.text(["warm"])

        def tool() -> Tensor:
            return NameClassifier(clip, Vocabulary.of(names), lambda _: templates).names

        theirs, their_seconds, expected = measure(lambda: plain.embed_names(clip.text, names, templates))
        first, first_seconds, found = measure(tool)
        second, second_seconds, again = measure(tool)
    assert theirs >= len(names) * len(templates)
    assert second == 0
    assert torch.equal(found, again)
    same = float((found * expected).sum(dim=1).min())
    say_ratio(
        theirs,
        first,
        20,
        f"{len(names)} names in {len(templates)} templates: {theirs:,} passes of the text tower plain "
        f"({their_seconds:.1f} s), {first:,} by the tool ({first_seconds:.1f} s), {second} at its second start "
        f"({second_seconds:.2f} s); least cosine between both {same:.6f}",
    )


if __name__ == "__main__":
    main()
