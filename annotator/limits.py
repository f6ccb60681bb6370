"""What a number that a user sets may be, declared with its type: `delta: Share`, `beam: Annotated[int, Limits(1, 9)]`.

`annotator.config` checks settings, options and the keys of YAML files by these declarations, `annotator.commands.typed`
flags, and `check_fields` whatever Python code builds. NaN and infinity are never a setting. Upper limits are far above
what anybody wants: they catch slips of the pen before hours or gigabytes are spent.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Annotated, Any, get_args, get_origin

from annotator.errors import ConfigError
from annotator.spelling import option
from annotator.wording import shown


@dataclasses.dataclass(frozen=True)
class Limits:
    """least, most: both allowed, unless `above` says that the number must be more than `least`."""

    least: float
    most: float
    above: bool = False

    def check(self, value: float, where: str) -> None:
        """where: names the setting, for the message."""
        if expected := self._missed_by(value):
            raise ConfigError(f"{where}: expected {expected}, but got {_plain(value)}")

    def _missed_by(self, value: float) -> str:
        """What the value should be; "" where it is."""
        if isinstance(value, float) and not math.isfinite(value):
            return "a finite number"
        if value < self.least or value > self.most or (self.above and value == self.least):
            if self is SHARE:
                return "0 to 1"
            if value > self.most:
                return f"at most {_plain(self.most)}"
            return f"{'more than' if self.above else 'at least'} {_plain(self.least)}"
        return ""


def _plain(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else shown(number)


FINITE = Limits(-math.inf, math.inf)
"""Of fractions without limits of their own."""
WHOLE = Limits(-(2**63), 2**63 - 1)
"""Of whole numbers without limits of their own: what 64 bits hold."""

SHARE = Limits(0, 1)
Share = Annotated[float, SHARE]
COUNT = Limits(1, 10**9)
"""Of photos, labels and the like; one at least."""
Count = Annotated[int, COUNT]
Side = Annotated[int, Limits(1, 16_384)]
"""Pixels along a picture or window that networks see."""


def check_fields(settings: Any) -> None:
    """Checks every number in a dataclass; for the `__post_init__` of one that is built in Python code, too."""
    for name, kind in typing.get_type_hints(type(settings), include_extras=True).items():
        if hasattr(settings, name):
            check_numbers(getattr(settings, name), kind, option(name))


def check_numbers(value: Any, kind: Any, where: str, limits: Limits | None = None) -> None:
    """Checks the numbers in `value`, which is of the type `kind`. limits: of a declaration around that type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        own = next((each for each in kind.__metadata__ if isinstance(each, Limits)), limits)
        check_numbers(value, arguments[0], where, own)
    elif origin in (types.UnionType, typing.Union) and value is not None:
        check_numbers(value, next(each for each in arguments if each is not types.NoneType), where, limits)
    elif origin in (tuple, list) and isinstance(value, tuple | list):
        for item in value:
            check_numbers(item, arguments[0], where, limits)
    elif origin is dict and isinstance(value, dict):
        for name, item in value.items():
            check_numbers(item, arguments[1], f"{where}.{name}", limits)
    elif kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        (limits or (FINITE if kind is float else WHOLE)).check(value, where)
