"""What in the ground truth belongs to what in a run: classes by name, photos by path."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from annotator.errors import AnnotatorError
from annotator.vocabulary import Vocabulary, names_background

IGNORE = 65535
"""Class index of pixels that are not scored."""


class TruthError(AnnotatorError):
    """Ground truth cannot be read, or does not fit the run."""


Size = tuple[int, int]
"""(height, width)."""
TruthMask = NDArray[np.uint16]
"""H x W class indices; IGNORE (65535) where nothing is scored."""
Key = Callable[[str], str]


@dataclass(frozen=True)
class ClassMatch:
    """targets: per truth class its index in `names`, or IGNORE.

    names:   the run's classes, then `missing`: truth classes that the run lacks.
    ignored: truth classes whose pixels are not scored.
    untold:  the run's classes that the truth never names.
    """

    targets: tuple[int, ...]
    names: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]
    untold: tuple[str, ...]

    @property
    def numbered(self) -> tuple[int, ...]:
        """`targets`, with a number of its own after those of `names` for each of `ignored`, in their order."""
        numbers = count(len(self.names))
        return tuple(next(numbers) if target == IGNORE else target for target in self.targets)


def match_classes(truth: Sequence[Sequence[str]], vocabulary: Vocabulary) -> ClassMatch:
    """Finds each truth class (its name, then synonyms) among the run's.

    Exact names come first, then any case, then the run's synonyms. A class that the run merges counts as
    the one it is merged into; one that the run ignores is not scored. Truth named "background" is the run's
    background whatever its name, and is not scored where the run has none, as the benchmarks without
    background do. Any other class that the run lacks stays a class of its own, which nothing can hit.
    """
    known = _known_names(vocabulary)
    missing: dict[str, int] = {}
    targets = []
    for names in truth:
        target = next((known[key] for name in names for key in (name, name.casefold()) if key in known), None)
        if target is None and names_background(names[0]):
            target = _class_of_background(vocabulary)
        if target is None:
            target = missing.setdefault(names[0], len(vocabulary.names) + len(missing))
        targets.append(target)
    return ClassMatch(
        targets=tuple(targets),
        names=(*vocabulary.names, *missing),
        missing=tuple(missing),
        ignored=tuple(names[0] for names, target in zip(truth, targets, strict=True) if target == IGNORE),
        untold=tuple(name for index, name in enumerate(vocabulary.names) if index not in targets),
    )


def pair_photos(
    photos: Sequence[str], candidates: Sequence[str], keys: Iterable[tuple[Key, Key]]
) -> tuple[dict[str, str], list[str]]:
    """(photo -> the candidate with the same key, photos whose candidate is ambiguous).

    candidates: mask files or COCO file names, like photos relative and POSIX.
    keys:       pairs of functions (of a photo, of a candidate), the strictest first. A pair is made only where
                one photo and one candidate share a key: a guess would score a photo against another's truth.
    """
    pairs: dict[str, str] = {}
    taken: set[str] = set()
    ambiguous: set[str] = set()
    for photo_key, candidate_key in keys:
        candidates_of = _group(candidates, candidate_key)
        for key, alike in _group(photos, photo_key).items():
            found = candidates_of.get(key, [])
            if len(alike) == len(found) == 1:
                if alike[0] not in pairs and found[0] not in taken:
                    pairs[alike[0]] = found[0]
                    taken.add(found[0])
            elif found:
                ambiguous.update(alike)
    return pairs, sorted(ambiguous - pairs.keys())


def refuse_other_size(source: str, found: Size, photo: Size) -> None:
    """Truth is never resized: its pixels would no longer be what somebody drew."""
    if found != photo:
        expected, got = (f"{width} x {height}" for height, width in (photo, found))
        turned = "; the truth ignores the photo's EXIF rotation" if found == photo[::-1] else ""
        raise TruthError(f"{source}: expected the size of its photo, {expected}, but found {got}{turned}")


def stem(path: str) -> str:
    """The path without its last extension."""
    return posixpath.splitext(path)[0]


def same(path: str) -> str:
    return path


MASK_KEYS: tuple[tuple[Key, Key], ...] = (
    (same, stem),  # a/b.jpg <-> a/b.jpg.png
    (stem, stem),  # a/b.jpg <-> a/b.png
    (posixpath.basename, lambda mask: posixpath.basename(stem(mask))),
    (lambda photo: posixpath.basename(stem(photo)), lambda mask: posixpath.basename(stem(mask))),
)
COCO_KEYS: tuple[tuple[Key, Key], ...] = ((same, same), (posixpath.basename, posixpath.basename))


def _known_names(vocabulary: Vocabulary) -> dict[str, int]:
    """Every way to write a class -> its index; where two classes share one, the stricter reading holds."""
    entries = list(enumerate(vocabulary.entries))
    spellings = [
        *((entry.name, index) for index, entry in entries),
        *((entry.name.casefold(), index) for index, entry in entries),
        *((prompt.casefold(), index) for index, entry in entries for prompt in entry.prompts),
    ]
    known: dict[str, int] = {}
    for name, index in spellings:
        known.setdefault(name, _class_of_entry(vocabulary, index))
    return known


def _class_of_background(vocabulary: Vocabulary) -> int:
    """Like any entry: the class that the background is merged into, where it is; IGNORE where there is none."""
    entry = vocabulary.background_entry
    return IGNORE if entry is None else _class_of_entry(vocabulary, entry)


def _class_of_entry(vocabulary: Vocabulary, entry: int) -> int:
    index = int(vocabulary.class_of_entry[entry])
    return index if index >= 0 else IGNORE


def _group(paths: Iterable[str], key: Key) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups
