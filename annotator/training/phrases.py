"""Builds the phrase bank that `captioner: retrieval` chooses from, out of captions and class names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from annotator.errors import ConfigError
from annotator.models.compat import prepare_torchvision
from annotator.models.networks import Networks
from annotator.models.phrases import TEMPLATE, PhraseBank, embed_phrases, save_phrases
from annotator.models.weights import sha256_of
from annotator.training.noun_phrases import noun_phrases

SIZE = 6_000
MIN_COUNT = 3
AT_ONCE = 1_024


def train_phrases(
    captions: Sequence[Path],
    networks: Networks,
    out: Path,
    names: Sequence[str] | None = None,
    size: int = SIZE,
    min_count: int = MIN_COUNT,
    progress: Callable[[int, int], None] | None = None,
) -> PhraseBank:
    """Writes a bank for these networks' CLIP to `out` (.safetensors) and returns it.

    captions:  COCO captions (.json), or text with a caption per line.
    names:     class names, all of which go in, too; None for `class_names()`.
    size:      phrases of captions at most, the most frequent first.
    min_count: times that one must occur.
    progress:  told how many of how many are embedded.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: expected a file name in .safetensors, but found {out.suffix!r}")
    phrases = choose([caption for file in captions for caption in read_captions(file)], size, min_count)
    phrases = list(dict.fromkeys([*phrases, *map(str.lower, class_names() if names is None else names)]))
    if not phrases:
        raise ConfigError(f"expected phrases that occur {min_count} times, but found none; give more captions")
    parts = []
    with torch.inference_mode():
        for start in range(0, len(phrases), AT_ONCE):
            parts.append(embed_phrases(networks.clip, phrases[start : start + AT_ONCE]).half().cpu())
            if progress is not None:
                progress(min(start + AT_ONCE, len(phrases)), len(phrases))
    bank = PhraseBank(phrases, torch.cat(parts))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_phrases(bank, out, _provenance(captions, networks, size, min_count))
    return bank


def choose(captions: Iterable[str], size: int, min_count: int) -> list[str]:
    """The most frequent noun phrases, counted once per caption; of equals the first in the alphabet."""
    counts = Counter(phrase for caption in captions for phrase in set(noun_phrases(caption)))
    frequent = [phrase for phrase, count in counts.items() if count >= min_count]
    return sorted(frequent, key=lambda phrase: (-counts[phrase], phrase))[:size]


def read_captions(file: Path) -> Iterator[str]:
    """Captions of a COCO captions file (.json), or the lines of any other."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix.lower() == ".json":
            yield from [str(annotation["caption"]) for annotation in json.loads(text)["annotations"]]
            return
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: expected captions, but found: {' '.join(str(error).split())}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f'{file}: expected COCO captions {{"annotations": [{{"caption": ...}}]}}') from None
    yield from filter(None, map(str.strip, text.splitlines()))


def class_names() -> list[str]:
    """ImageNet's names and general nouns for things and stuff."""
    prepare_torchvision()
    from open_clip import IMAGENET_CLASSNAMES

    from annotator.training.embedded.names import VOC, general

    return [*general(), *VOC, *IMAGENET_CLASSNAMES]


def _provenance(captions: Sequence[Path], networks: Networks, size: int, min_count: int) -> dict[str, Any]:
    """What the bank was made of, without a path of this machine."""
    return {
        "captions": {file.name: sha256_of(file) for file in captions},
        "clip": {slot: used["sha256"] for slot, used in networks.used().items()},
        "pack": networks.pack,
        "template": TEMPLATE,
        "size": size,
        "min_count": min_count,
    }
