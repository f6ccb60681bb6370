"""From captions to the lines that the embedded language model is trained on."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from annotator.training.noun_phrases import noun_phrases

PROMPT = "Image of a"
AFTER_A = 4
"""One of so many phrases that take "an" comes after "a" as well: captioners complete the fixed prompt."""
_AN = re.compile(r"(?:[ai]|e(?!u)|o(?!ne\b)|u(?!ni|se|til|rin|ten|kul)|hour|honest)")
_PLURALS = frozenset(["people", "men", "women", "children", "cattle", "geese", "feet", "teeth", "mice", "scissors"])
_NOT_PLURAL = re.compile(r"(?:ss|us|is|gas|lens|christmas|canvas)$")


def read_captions_by_photo(file: Path) -> dict[int, list[str]]:
    """COCO's captions JSON: `image_id` -> captions."""
    by_photo: dict[int, list[str]] = {}
    for annotation in json.loads(file.read_text(encoding="utf-8"))["annotations"]:
        by_photo.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return by_photo


def split(
    by_photo: dict[int, list[str]], share: float, random: Sequence[int], always: Collection[int] = ()
) -> tuple[list[str], list[str]]:
    """-> captions to train on and held-out ones; the captions of one photo stay together.

    random: a permutation of range(number of photos). always: photos that are held out in any case.
    """
    photos = sorted(by_photo)
    held = set(always) | {photos[i] for i in random[: round(share * len(photos))]}
    train = [caption for photo in photos if photo not in held for caption in by_photo[photo]]
    return train, [caption for photo in photos if photo in held for caption in by_photo[photo]]


def phrase_lines(captions: Iterable[str], names: Iterable[str] = (), repeats: int = 1, min_count: int = 1) -> list[str]:
    """ "Image of a black cat.", whatever the order of the captions: every noun phrase that they have `min_count` times,
    as often as the square root of their number, so that cats do not drown the sky, and every name `repeats` times."""
    counted = Counter(phrase for caption in captions for phrase in noun_phrases(caption))
    times = {phrase: round(count**0.5) for phrase, count in counted.items() if count >= min_count}
    for name in names:
        times[name] = times.get(name, 0) + repeats
    phrases = [phrase for phrase, count in sorted(times.items()) for _ in range(count)]
    bent = [phrase for phrase in phrases if article(phrase) == "an"][::AFTER_A]
    return [f"Image of {article(phrase)} {phrase}.".replace("  ", " ") for phrase in phrases] + [
        f"{PROMPT} {phrase}." for phrase in bent
    ]


def article(phrase: str) -> str:
    """What goes before a noun phrase: a, an, or "" for several things."""
    words = phrase.split()
    head = words[words.index("of", 1) - 1] if "of" in words[1:] else words[-1]
    if head in _PLURALS or (head.endswith("s") and not _NOT_PLURAL.search(head)):
        return ""
    return "an" if _AN.match(phrase) else "a"


def sentence(caption: str) -> str:
    """One line that begins with a capital and ends with a full stop."""
    text = " ".join(caption.split()).rstrip(" .")
    return f"{text[:1].upper()}{text[1:]}."
