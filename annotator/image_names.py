"""What is taken for a photo by its name: the suffixes that count, and globs, taken folder by folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

IMAGE_NAME = re.compile(
    r"\.(jpe?g|jpe|jfif|mpo|a?png|gif|webp|tiff?|bmp|dib|avif|hei[cf]|hif|jp[2xf]|j2[kc]|jpc|p[pgbn]m)\Z", re.IGNORECASE
)
"""Files with such names are taken unopened, so that a damaged photo is reported and not passed over."""

RAW_NAME = re.compile(r"\.(3fr|arw|cr2|dcr|dng|erf|fff|iiq|kdc|mos|nef|nrw|pef|rwl|sr[2fw])\Z", re.IGNORECASE)
"""Camera raw files begin like a TIFF, but what lies first in them is a thumbnail: passed over."""

Pattern = tuple[str, ...]
"""Parts of a glob; `**` is any number of folders."""
EVERYTHING: Pattern = ("**",)


def alternatives(pattern: Pattern) -> Iterator[Pattern]:
    """The pattern itself and, as `**` may stand for no folder, what follows its leading `**`."""
    yield pattern
    if pattern[0] == "**" and len(pattern) > 1:
        yield from alternatives(pattern[1:])


def below(patterns: frozenset[Pattern], folder: str) -> frozenset[Pattern]:
    """What must match inside this folder; empty where nothing can."""
    found: set[Pattern] = set()
    for pattern in patterns:
        if pattern[0] == "**":
            if not folder.startswith("."):
                found.update(alternatives(pattern))
        elif len(pattern) > 1 and _fits(folder, pattern[0]):
            found.update(alternatives(pattern[1:]))
    return frozenset(found)


def selects(patterns: frozenset[Pattern], file: str) -> bool:
    return any(len(pattern) == 1 and _fits(file, pattern[0]) for pattern in patterns)


def _fits(name: str, part: str) -> bool:
    """As the shell does it: hidden names only where the pattern itself begins with a dot."""
    return fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
