"""Text that may hold anything -> text that can be printed: what cannot be seen is written as \\x1b and so on."""

from __future__ import annotations

import re
import unicodedata

JOINERS = frozenset("\u200c\u200d")
"""Invisible, but letters of some scripts and emoji need them between each other."""
CONTROL = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode's categories of control characters, halves of characters, and separators of lines."""
INVISIBLE = CONTROL | {"Cf"}
_LINE_BREAKS = re.compile(r"\s*[\r\n]+\s*")


def visible(text: str, keep: str = "") -> str:
    """The text with every character that cannot be seen written out, but for joiners and those to `keep`."""
    if text.isascii() and text.isprintable():
        return text
    seen = {*JOINERS, *keep}
    return "".join(
        c.encode("unicode_escape").decode() if is_any_of(c, INVISIBLE) and c not in seen else c for c in text
    )


def visible_line(text: str) -> str:
    """`visible`, with a space in the place of line breaks."""
    return visible(_LINE_BREAKS.sub(" ", text.strip()))


def is_any_of(character: str, categories: frozenset[str]) -> bool:
    return unicodedata.category(character) in categories
