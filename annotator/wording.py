"""Numbers and values in sentences, for whoever talks to people."""

from __future__ import annotations

import reprlib
from typing import Any


def count(number: int, noun: str) -> str:
    """`1 photo`, `2,000 photos`, `3 classes`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def are(number: int, noun: str) -> str:
    """`1 photo is`, `2,000 photos are`."""
    return f"{count(number, noun)} {'is' if number == 1 else 'are'}"


def have(number: int, noun: str) -> str:
    """`1 photo has`, `2,000 photos have`."""
    return f"{count(number, noun)} {'has' if number == 1 else 'have'}"


def one_line(error: BaseException) -> str:
    """What an error says, or its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


BITS_SHOWN = 128
LONGEST = 200


class _Shown(reprlib.Repr):
    """Like `repr`, but short whatever the value is: YAML can nest a thing a billion times in a few lines."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxlong = self.maxother = 120
        self.maxlist = self.maxtuple = self.maxdict = 10

    def repr_int(self, number: int, level: int) -> str:
        return f"a number of {number.bit_length()} bits" if number.bit_length() > BITS_SHOWN else str(number)


_SHOWN = _Shown()


def shown(value: Any) -> str:
    """A user's value as a message repeats it."""
    text = _SHOWN.repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
