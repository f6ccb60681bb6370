"""Free-text labels brought to the classes of a vocabulary: text to text (TT) and segment to text (ST).

TT compares the label with every class name by a sentence encoder, ST the segment's CLIP embedding with CLIP's text
embeddings of the names. The nearest name's class is taken, and holds where its cosine is high enough. A class with
several names takes its best one; among equals the vocabulary's first name wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from annotator.errors import ConfigError, RunError
from annotator.prediction import NOTHING
from annotator.run import ImageRecord, RunReader
from annotator.vocabulary import Vocabulary, names_background
from evaluation.matching import IGNORE, match_classes

By = Literal["st", "tt"]
THRESHOLDS: dict[str, float] = {"st": 0.1, "tt": 0.5}
"""Cosine from which on a class holds, as in the paper."""
TEMPLATE = "Image of a {}."

Embeddings = NDArray[np.floating]
"""N x d, normalised."""
Encode = Callable[[Sequence[str]], Embeddings]


class TextNetworks(Protocol):
    """What is needed of `annotator.models.networks.Networks`."""

    pack: str

    @property
    def clip(self) -> Any: ...
    @property
    def sentence(self) -> Any: ...
    def inference(self) -> AbstractContextManager[None]: ...
    def used(self) -> dict[str, dict[str, str]]: ...


@dataclass(frozen=True)
class Assigned:
    """One photo's segments as classes.

    classes:      index in the vocabulary's classes per segment; -1 where the nearest name is one to ignore.
    similarities: cosine with the nearest name per segment.
    """

    classes: NDArray[np.int32]
    similarities: NDArray[np.float64]

    def verified(self, threshold: float) -> NDArray[np.int32]:
        """The classes, -1 where the cosine is below the threshold."""
        return np.where(self.similarities >= threshold, self.classes, np.int32(NOTHING))

    def without(self, unwanted: int) -> Assigned:
        """The same with -1 in place of one class."""
        return replace(self, classes=np.where(self.classes == unwanted, np.int32(NOTHING), self.classes))


Assign = Callable[[ImageRecord], Assigned]


class Names:
    """A vocabulary's names, embedded. The bare word "background" looks like nothing and does not compete."""

    def __init__(self, vocabulary: Vocabulary, encode: Encode) -> None:
        competing = [
            (prompt, int(vocabulary.class_of_entry[index]))
            for index, entry in enumerate(vocabulary.entries)
            for prompt in entry.prompts
            if not (entry.background and names_background(prompt))
        ]
        if not competing:
            raise ConfigError(f"{vocabulary.source}: expected a class besides the background, but found none; add one")
        self._owners = np.array([owner for _, owner in competing], dtype=np.int32)
        self._embeddings = _normalised(encode([prompt for prompt, _ in competing]))

    @property
    def width(self) -> int:
        """d."""
        return self._embeddings.shape[1]

    def nearest(self, embeddings: Embeddings) -> Assigned:
        """N x d embeddings, normalised or not."""
        if not len(embeddings):
            return Assigned(np.empty(0, np.int32), np.empty(0))
        cosines = _normalised(embeddings) @ self._embeddings.T  # N x names
        best = cosines.argmax(axis=1)
        return Assigned(self._owners[best], cosines[np.arange(len(best)), best])


def assigner(by: By, run: RunReader, vocabulary: Vocabulary, networks: TextNetworks) -> Assign:
    """For the run's records."""
    if by == "st":
        return segment_to_text(run, vocabulary, networks)
    return text_to_text(vocabulary, sentence_encoder(networks))


def text_to_text(vocabulary: Vocabulary, encode: Encode) -> Assign:
    """By the labels' own text; every different one is embedded once."""
    names = Names(vocabulary, encode)
    known: dict[str, tuple[np.int32, np.float64]] = {}

    def assign(record: ImageRecord) -> Assigned:
        labels = [segment.label for segment in record.segments]
        new = [label for label in dict.fromkeys(labels) if label not in known]
        if new:
            found = names.nearest(encode(new))
            known.update(zip(new, zip(found.classes, found.similarities, strict=True), strict=True))
        return Assigned(
            np.array([known[label][0] for label in labels], dtype=np.int32),
            np.array([known[label][1] for label in labels], dtype=np.float64),
        )

    return assign


def segment_to_text(run: RunReader, vocabulary: Vocabulary, networks: TextNetworks) -> Assign:
    """By the segments' embeddings, which the run holds; the CLIP that made them must be the one given."""
    names = Names(vocabulary, clip_encoder(networks))
    _refuse_other_clip(run, networks)

    def assign(record: ImageRecord) -> Assigned:
        embeddings = [segment.embedding for segment in record.segments if segment.embedding is not None]
        if len(embeddings) < len(record.segments):
            raise RunError(
                f"{run.directory}: expected an embedding with every segment, but {run.manifest.labeler} stored none "
                f"for {record.path!r}; st is for runs of labelers that name their own classes, such as zeroguide"
            )
        if embeddings and embeddings[0].size != names.width:
            raise RunError(
                f"{run.directory}: expected segment embeddings of {names.width} numbers, but found "
                f"{embeddings[0].size}; choose the --pack that made the run"
            )
        return names.nearest(np.array(embeddings))

    return assign


def by_name(run: RunReader, vocabulary: Vocabulary) -> Assign:
    """For a run with a vocabulary: its classes where they are named there too, all similarities 1."""
    assert run.vocabulary is not None
    known = len(vocabulary.names)
    targets = [target if target < known else NOTHING for target in _targets(run.vocabulary, vocabulary)]
    lookup = np.array([*targets, NOTHING], dtype=np.int32)  # the last one for a segment without a class

    def assign(record: ImageRecord) -> Assigned:
        classes = lookup[np.array([segment.class_id for segment in record.segments], dtype=np.int64)]
        return Assigned(classes, np.ones(len(classes)))

    return assign


def unknown_names(vocabulary: Vocabulary, other: Vocabulary) -> list[str]:
    """Classes of the one that the other does not have; no background counts as such."""
    targets = _targets(vocabulary, other)
    names = zip(vocabulary.names, targets, strict=True)
    return [name for name, target in names if len(other.names) <= target != IGNORE]


def sentence_encoder(networks: TextNetworks) -> Encode:
    def encode(texts: Sequence[str]) -> Embeddings:
        with networks.inference():
            embeddings: Embeddings = networks.sentence.embed(list(texts)).numpy()
        return embeddings

    return encode


def clip_encoder(networks: TextNetworks) -> Encode:
    def encode(texts: Sequence[str]) -> Embeddings:
        with networks.inference():
            embeddings: Embeddings = networks.clip.text_embeddings(list(texts), (TEMPLATE,)).cpu().numpy()
        return embeddings

    return encode


def _targets(vocabulary: Vocabulary, other: Vocabulary) -> tuple[int, ...]:
    """Per class of the one its index in the other; IGNORE for one not scored, beyond its end where it has none."""
    return match_classes([(entry.name, *entry.prompts) for entry in vocabulary.classes], other).targets


def _refuse_other_clip(run: RunReader, networks: TextNetworks) -> None:
    """Embeddings of two models have nothing in common, even where their length is the same."""
    stored = run.manifest.pack.get("roles", {}).get("clip", {}).get("sha256")
    loaded = networks.used().get("clip", {}).get("sha256")
    if stored and loaded and stored != loaded:
        raise RunError(
            f"{run.directory}: expected the CLIP that made its embeddings (SHA-256 {stored[:12]}...), but the pack has "
            f"another ({loaded[:12]}...); choose the --pack {run.manifest.pack.get('name', '')} of the run, unchanged"
        )


def _normalised(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Stored as float16, a vector's length is not quite 1."""
    wide = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
