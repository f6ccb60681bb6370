"""20,000 contents of everything that is read: a right result, or an error of one line, and nothing else ever.

`python tests/tools/fuzz.py --minutes 60` goes on where this stops.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers_fuzz import READERS, try_once
from hypothesis import given, seed, settings

ALWAYS_READ = ("ledger_bytes", "text_cache_bytes")
"""They are caches: damage costs time."""


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_any_content(name: str, tmp_path: Path) -> None:
    make, cases = READERS[name]
    reader = make(tmp_path)
    taken = []

    @seed(0)
    @settings(max_examples=cases, database=None)
    @given(reader.contents)
    def attack(content: Any) -> None:
        taken.append(try_once(reader, content))

    attack()
    assert len(taken) >= cases
    assert set(taken) >= {True}, "else it is another thing that is tried"
    assert False in taken or name in ALWAYS_READ


def test_there_are_enough() -> None:
    assert sum(cases for _, cases in READERS.values()) >= 20_000
