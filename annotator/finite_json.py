"""JSON that every reader takes: NaN and infinity, which Python writes and reads but JSON does not have, are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from annotator.errors import AnnotatorError


def json_text(content: Any, **layout: Any) -> str:
    """`json.dumps` with its arguments for the layout; a number that is not finite is an error that says where it is."""
    try:
        return json.dumps(content, allow_nan=False, **layout)
    except ValueError:
        for place, value in _numbers(content):
            if not math.isfinite(value):
                raise AnnotatorError(f"expected finite numbers for JSON, but found {value} at {place}") from None
        raise


def report_text(content: Any) -> str:
    """As reports are written: indented, in UTF-8, with a line break at the end."""
    return json_text(content, indent=2, ensure_ascii=False) + "\n"


def _numbers(content: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every float with the way to it, such as annotations[3].score."""
    if isinstance(content, float):
        yield place or "the top", content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield from _numbers(value, f"{place}.{name}" if place else str(name))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _numbers(value, f"{place}[{number}]")
