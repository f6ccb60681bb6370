"""Characters that cannot be seen: refused in names, and written as \\x1b and so on wherever something is printed.

A terminal obeys them, editors hide them, and programs that read line by line break at some of them.
"""

from __future__ import annotations

import unicodedata

from annotator.errors import ConfigError

JOINERS = frozenset("\u200c\u200d")
"""Invisible, but letters of some scripts and emoji need them between each other."""
CONTROL = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode's categories of control characters, halves of characters, and separators of lines."""
INVISIBLE = CONTROL | {"Cf"}


def visible(text: str, keep: str = "") -> str:
    """The text with every character that cannot be seen written out, but for joiners and those to `keep`."""
    if text.isascii() and text.isprintable():
        return text
    seen = {*JOINERS, *keep}
    return "".join(c.encode("unicode_escape").decode() if _is(c, INVISIBLE) and c not in seen else c for c in text)


def refuse_invisible(name: str, where: str, error: type[ConfigError] = ConfigError) -> None:
    """For names and templates, which must be what they look like."""
    if name.isascii() and name.isprintable():
        return
    for place, character in enumerate(name):
        if _is(character, INVISIBLE) and not _joins(name, place):
            raise error(_complaint(character, name, where))


def refuse_control(text: str, where: str) -> None:
    """For values that may name a file, and so hold what a file's name holds."""
    for character in text:
        if _is(character, CONTROL):
            raise ConfigError(_complaint(character, text, where))


def _complaint(character: str, text: str, where: str) -> str:
    code, around = character.encode("unicode_escape").decode(), visible(text)[:80]
    return f"{where}: expected text that can be seen, but found the character {code} in '{around}'; remove it"


def _is(character: str, categories: frozenset[str]) -> bool:
    return unicodedata.category(character) in categories


def _joins(text: str, place: int) -> bool:
    """Whether a joiner stands between two characters of scripts that have them."""
    around = text[max(place - 1, 0) : place] + text[place + 1 : place + 2]
    return text[place] in JOINERS and len(around) == 2 and not any(c.isascii() or _is(c, INVISIBLE) for c in around)
