"""How far a step is that may take minutes: told by code that knows of no terminal, heard by whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Hear = Callable[[str, int, int], None]
"""Takes what is done, how many are done, and how many there are."""
_hear: ContextVar[Hear] = ContextVar("_hear", default=lambda step, done, of: None)


def tell(step: str, done: int, of: int) -> None:
    """Cheap, so that it may be called for every one of many."""
    _hear.get()(step, done, of)


@contextmanager
def heard_by(hear: Hear) -> Iterator[None]:
    """Within the block, and in its thread."""
    before = _hear.set(hear)
    try:
        yield
    finally:
        _hear.reset(before)
