"""HTML that names cannot break out of: what goes into a template is escaped unless it is markup already."""

from __future__ import annotations

import html
import string
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from annotator.visible import visible
from exporters.files import json_line


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """Safe as text and inside quoted attributes; what is markup already stays."""
    return value if isinstance(value, Markup) else Markup(html.escape(visible(str(value))))


def fill(template: str, **values: object) -> Markup:
    """A template of this package with every `$name` in it replaced by the escaped value."""
    return Markup(_template(template).substitute({name: escaped(value) for name, value in values.items()}))


def joined(parts: Iterable[object]) -> Markup:
    return Markup("".join(escaped(part) for part in parts))


def script_json(content: Any) -> Markup:
    """For `<script type="application/json">`, which no text in it can end."""
    text = json_line(content)  # ASCII, so no line separators either
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def package_text(name: str) -> str:
    """A file that comes with this package."""
    return files("annotator.gallery").joinpath(name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> string.Template:
    return string.Template(package_text(f"templates/{name}.html").rstrip("\n"))
