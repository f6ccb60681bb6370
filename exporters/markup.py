"""Text in XML: names of files and classes hold what XML cannot, and what parsers would change."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write; they become U+FFFD."""

ENTITIES = {'"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}


def quoted(text: str) -> str:
    """For between tags and for between double quotes; reads back as it was, blanks and line breaks too."""
    return escape(ILLEGAL.sub("�", text), ENTITIES)
