"""Characters that cannot be seen, refused in names.

A terminal obeys them, editors hide them, and programs that read line by line break at some of them.
"""

from __future__ import annotations

from annotator.errors import ConfigError
from annotator.visible import CONTROL, INVISIBLE, JOINERS, is_any_of, visible


def refuse_invisible(name: str, where: str, error: type[ConfigError] = ConfigError) -> None:
    """For names and templates, which must be what they look like."""
    if name.isascii() and name.isprintable():
        return
    for place, character in enumerate(name):
        if is_any_of(character, INVISIBLE) and not _joins(name, place):
            raise error(_complaint(character, name, where))


def refuse_control(text: str, where: str) -> None:
    """For values that may name a file, and so hold what a file's name holds."""
    for character in text:
        if is_any_of(character, CONTROL):
            raise ConfigError(_complaint(character, text, where))


def _complaint(character: str, text: str, where: str) -> str:
    code, around = character.encode("unicode_escape").decode(), visible(text)[:80]
    return f"{where}: expected text that can be seen, but found the character {code} in '{around}'; remove it"


def _joins(text: str, place: int) -> bool:
    """Whether a joiner stands between two characters of scripts that have them."""
    around = text[max(place - 1, 0) : place] + text[place + 1 : place + 2]
    return (
        text[place] in JOINERS and len(around) == 2 and not any(c.isascii() or is_any_of(c, INVISIBLE) for c in around)
    )
