"""The rule for a photo's path, wherever it was read: it leads to a place inside the photos' folder."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

LEADS_OUT = r"\A/|(\A|/)\.\.(/|\z)|\A(\./|/)*\.?\z|\x00"
"""An absolute path, one with `..`, the folder itself, or one that no file can have. In RE2's syntax, as Arrow takes
it."""
_SAME_IN_PYTHON = re.compile(LEADS_OUT.replace(r"\z", r"\Z"))


def leads_out(path: str) -> bool:
    return _SAME_IN_PYTHON.search(path) is not None


def each_leads_out(paths: pa.StringArray) -> pa.BooleanArray:
    """The same, path by path; unknown where there is none."""
    return pc.match_substring_regex(paths, LEADS_OUT)
