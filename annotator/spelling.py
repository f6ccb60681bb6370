"""How the caller spells an option, for messages: `--min-count 5` on the command line, `min_count=5` in Python.

Options are checked far below the command line, and a message should name them as they were typed. Python's spelling
holds unless whoever took the options from elsewhere says how they are spelled there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol


class Spell(Protocol):
    """(name of an option as Python has it, a value for it or None) -> the option as the caller would write it."""

    def __call__(self, name: str, value: Any = None, /) -> str: ...


def in_python(name: str, value: Any = None, /) -> str:
    """`min_count`, or with a value `min_count=5`."""
    return name if value is None else f"{name}={value!r}"


_spell: ContextVar[Spell] = ContextVar("spell", default=in_python)


def option(name: str, value: Any = None, /) -> str:
    """The option, with a value where one is given, as the caller would write it."""
    return _spell.get()(name, value)


def current_spelling() -> Spell:
    """What `option` goes by at the moment."""
    return _spell.get()


@contextmanager
def spelled(spell: Spell) -> Iterator[None]:
    """`option` goes by `spell` until the block ends."""
    token = _spell.set(spell)
    try:
        yield
    finally:
        _spell.reset(token)
