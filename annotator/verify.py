"""Checks the parts of a run against what was written, and sets damaged ones aside: then their photos are open again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from annotator import storage
from annotator.errors import AnnotatorError
from annotator.locks import acquire
from annotator.parts import damage, part_files, set_aside


class Damaged(NamedTuple):
    """reason: in a line, which names the part. aside: where it is now; None where it had to stay."""

    part: Path
    reason: str
    aside: Path | None


def verify(directory: Path, report: Callable[[int, int], None] = lambda done, of: None) -> list[Damaged]:
    """Reads the whole run. While another process writes the run, or where nobody may, damaged parts are only named."""
    parts = part_files(directory)
    found = []
    for done, (part, reason) in enumerate(_examined(parts), 1):
        if reason:
            found.append((part, reason))
        report(done, len(parts))
    if not found:
        return []
    try:
        lock = acquire(directory)
    except (AnnotatorError, OSError):
        return [Damaged(part, reason, None) for part, reason in found]
    try:
        return [Damaged(part, reason, set_aside(part)) for part, reason in found]
    finally:
        lock.release()


def set_damaged_aside(parts: Sequence[Path]) -> list[Damaged]:
    """Of these parts, for who holds the run's lock."""
    return [Damaged(part, reason, set_aside(part)) for part, reason in _examined(parts) if reason]


def undamaged(parts: Sequence[Path]) -> list[Path]:
    return [part for part, reason in _examined(parts) if not reason]


def _examined(parts: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    return zip(parts, storage.each(damage, parts), strict=True)
