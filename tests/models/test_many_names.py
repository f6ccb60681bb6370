"""Tens of thousands of names: what one costs does not grow with how many there are."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from annotator.models.classifier import NameClassifier
from annotator.models.upsample import CLASSES_AT_ONCE
from annotator.vocabulary import ClassEntry, Vocabulary

WIDTH = 32


class Embedder:
    """Stands where a CLIP's text side does: a vector of its own for each name."""

    def text_embeddings(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        rows = np.random.default_rng(len(names)).normal(size=(len(names), WIDTH))
        return torch.nn.functional.normalize(torch.from_numpy(rows).float())


def classifier(synonyms: Sequence[int]) -> NameClassifier:
    """A class for each number, of so many names."""
    entries = [
        ClassEntry(f"{index}", tuple(f"{index} {word}" for word in range(count)))
        for index, count in enumerate(synonyms)
    ]
    return NameClassifier(Embedder(), Vocabulary(tuple(entries)), lambda _: ("{}",))  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("classes", [1, 7, 300])
def test_the_names_of_some_classes(classes: int, most: int) -> None:
    """In any order, against a walk over all names."""
    rng = np.random.default_rng(classes)
    counts = rng.integers(1, most + 1, classes)
    found = classifier(counts.tolist())
    owners = [index for index, count in enumerate(counts) for _ in range(count)]
    for chosen in (rng.permutation(classes)[:16], np.arange(classes)[:1]):
        names, positions = found.names_of(torch.from_numpy(chosen))
        pairs = [
            (place, name) for place, index in enumerate(chosen) for name, owner in enumerate(owners) if owner == index
        ]
        assert positions.tolist() == [place for place, _ in pairs]
        torch.testing.assert_close(names, found.names[[name for _, name in pairs]], rtol=0, atol=0)


def seconds_per_class(classes: int) -> float:
    """Of the processor, to work out the maps of a window of 49 patches, class by class, as `winners` asks for them."""
    found = classifier([3] * classes)
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(1, WIDTH, 7, 7))).float()
    best = float("inf")
    for _ in range(3):
        begun = time.process_time()
        (maps,) = found.score(features).maps()
        for chosen in torch.arange(classes).split(CLASSES_AT_ONCE):
            maps.of(chosen)
        best = min(best, time.process_time() - begun)
    return best / classes


@pytest.mark.slow
@pytest.mark.stress
def test_a_class_with_synonyms_takes_as_long_among_many_as_among_few() -> None:
    few, many = seconds_per_class(2_000), seconds_per_class(32_000)
    print(f"a class: {few * 1e6:.0f} us among 2,000, {many * 1e6:.0f} us among 32,000")
    assert many < 2 * few
