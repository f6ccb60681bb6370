"""Free-text labels as classes: spellings of one thing brought together, and counted.

A labeler that names things itself says "a dog", "Dogs" and "the dog." of three photos. `normalise` makes one class
of them by rules and short tables: lower case, no articles, the head noun in the singular.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from annotator import plurals
from annotator.parts import part_files, read_columns
from annotator.plurals import singular

ARTICLES = frozenset({"a", "an", "the"})
AFTER_THE_HEAD = frozenset(
    {"of", "in", "on", "at", "with", "without", "from", "for", "by", "near", "to", "under", "over", "and", "or"}
)
"""The head noun of a phrase stands before the first of these: "slices of pizza", "dogs on the grass"."""


@dataclass(frozen=True)
class LabelCount:
    """One class of a free-text run. photos: that have any of its spellings; area: in pixels."""

    name: str
    photos: int
    area: int


@lru_cache(maxsize=65536)
def normalise(label: str) -> str:
    """The class that a free text names; applied twice it changes nothing more.

    A text of which nothing would be left ("the", "...") stays as it is, in lower case.
    """
    name = _normalised_once(label)
    while (again := _normalised_once(name)) != name:  # "dog's" needs two turns
        name = again
    return name


@cache
def rules() -> str:
    """Identifies the rules of `normalise`, which are in this file and in `annotator.plurals`: counts that were kept are
    good for as long as the rules that they were made by."""
    return hashlib.sha256(Path(__file__).read_bytes() + Path(plurals.__file__).read_bytes()).hexdigest()[:16]


def count_labels(directory: Path) -> list[LabelCount]:
    """Every class of a run's labels, in order of name, from the columns of labels and areas alone."""
    columns = ["segments.list.element.label", "segments.list.element.area"]
    rows = (row for part in part_files(directory) for row in read_columns(part, columns)["segments"].to_pylist())
    return count_classes([(segment["label"], segment["area"]) for segment in row or ()] for row in rows)


def count_classes(photos: Iterable[Iterable[tuple[str, int]]]) -> list[LabelCount]:
    """Every class of free-text labels, in order of name: in how many photos, and its pixels.

    photos: (label, area) of each segment, photo by photo.
    """
    found: Counter[str] = Counter()
    areas: Counter[str] = Counter()
    for segments in photos:
        named = [(normalise(label), area) for label, area in segments]
        found.update({name for name, _ in named})
        for name, area in named:
            areas[name] += area
    return [LabelCount(name, found[name], areas[name]) for name in sorted(found)]


def choose(counts: Iterable[LabelCount], min_count: int = 1, top: int | None = None) -> tuple[str, ...]:
    """Names of the classes to keep, sorted.

    min_count: classes in fewer photos are left out.
    top:       of the rest only so many, those in most photos; then by area, then by name.
    """
    kept = [count for count in counts if count.photos >= min_count]
    kept.sort(key=lambda count: (-count.photos, -count.area, count.name))
    return tuple(sorted(count.name for count in kept[:top]))


def _normalised_once(label: str) -> str:
    lowered = " ".join(label.lower().split())
    words = [stripped for word in lowered.split() if (stripped := _without_punctuation(word))]
    while words and words[0] in ARTICLES:
        words = words[1:]
    if not words:
        return lowered
    head = next((place for place, word in enumerate(words) if place and word in AFTER_THE_HEAD), len(words)) - 1
    words[head] = singular(words[head])
    return " ".join(words)


def _without_punctuation(word: str) -> str:
    """Without what is neither letter nor digit at its ends: quotes, commas, the full stop."""
    inner = [place for place, character in enumerate(word) if character.isalnum()]
    return word[inner[0] : inner[-1] + 1] if inner else ""
