"""Text Generation Quality: every segment of the truth is embedded and captioned, and the caption held against its name.

The segmentation has no part in it. Networks come as functions, so that this room needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotator.decode import decode
from annotator.errors import ImageError
from annotator.photo_changes import Changed, unchanged
from annotator.run import RunReader
from annotator.vocabulary import Vocabulary
from evaluation.matching import IGNORE
from evaluation.reassign import Encode
from evaluation.truth import Truth

THRESHOLD = 0.5
"""Cosine above which a caption counts as right."""

Embed = Callable[[NDArray[np.uint8], NDArray[np.bool_]], Any]
"""H x W x 3 RGB, S x H x W masks -> S embeddings, in whatever form `Caption` takes them."""
Caption = Callable[[Any], Sequence[str]]
"""S embeddings -> S texts."""


@dataclass(frozen=True)
class Captioned:
    """One segment of the truth; similarity: cosine of caption and name (the nearest, where a class has several)."""

    path: str
    name: str
    caption: str
    similarity: float

    @property
    def right(self) -> bool:
        return self.similarity > THRESHOLD


@dataclass(frozen=True)
class TextQuality:
    """photos: that were captioned; unreadable: photos with truth that are gone or no longer as the run found them."""

    captions: tuple[Captioned, ...]
    photos: int
    unreadable: int

    @property
    def share(self) -> float:
        """Of the segments whose caption is right; NaN without any."""
        if not self.captions:
            return float("nan")
        return sum(caption.right for caption in self.captions) / len(self.captions)


def text_quality(run: RunReader, truth: Truth, embed: Embed, caption: Caption, encode: Encode) -> TextQuality:
    """Over the run's photos that have truth, one in memory at a time.

    truth:  opened by its own classes; a segment is all pixels of one class but the background.
    encode: the sentence encoder.
    """
    names = _NamesOfClasses(truth.vocabulary, encode)
    background = truth.vocabulary.background_class
    captions: list[Captioned] = []
    photos = unreadable = 0
    for record in unchanged(run, Changed(), run.records(segments=False)):
        mask = truth.mask(record.path, record.size) if record.status == "ok" else None
        if mask is None:
            continue
        present = [label for label in np.unique(mask).tolist() if label not in (IGNORE, background)]
        if not present:
            continue
        try:
            pixels = decode(run.image_root / record.path, max_pixels=record.width * record.height).pixels
        except ImageError:
            pixels = None
        if pixels is None or pixels.shape[:2] != record.size:
            unreadable += 1
            continue
        photos += 1
        texts = caption(embed(pixels, mask == np.array(present, dtype=mask.dtype)[:, None, None]))
        similarities = names.similarities(texts, present)
        captions += [
            Captioned(record.path, truth.names[label], text, similarity)
            for label, text, similarity in zip(present, texts, similarities, strict=True)
        ]
    return TextQuality(tuple(captions), photos, unreadable)


class _NamesOfClasses:
    """Class -> the sentence embeddings of its names."""

    def __init__(self, vocabulary: Vocabulary, encode: Encode) -> None:
        prompts = [prompt for entry in vocabulary.entries for prompt in entry.prompts]
        owners = [owner for owner, entry in zip(vocabulary.class_of_entry, vocabulary.entries, strict=True)
                  for _ in entry.prompts]  # fmt: skip
        self._embeddings = np.asarray(encode(prompts), dtype=np.float64)
        self._owners = np.array(owners)
        self._encode = encode

    def similarities(self, texts: Sequence[str], classes: Sequence[int]) -> list[float]:
        """Of each text with its own class."""
        found = np.asarray(self._encode(list(texts)), dtype=np.float64)
        return [
            float((self._embeddings[self._owners == label] @ text).max())
            for text, label in zip(found, classes, strict=True)
        ]
