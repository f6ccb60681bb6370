"""Any content of what the tool wrote itself: a right result, or an error of one line, and nothing else ever.

With `test_fuzz_inputs` these are 20,000; `python tests/tools/fuzz.py --minutes 60` goes on where they stop.
"""

from __future__ import annotations

from pathlib import Path

import helpers_fuzz_inputs
import pytest
from helpers_fuzz import try_many
from helpers_fuzz_runs import READERS

CACHES = ("ledger_bytes", "text_cache_bytes")
"""Damage of them costs time, and nothing is refused."""


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_any_content(name: str, tmp_path: Path) -> None:
    assert try_many(*READERS[name], tmp_path) == ({True} if name in CACHES else {True, False})


def test_there_are_enough() -> None:
    assert sum(cases for _, cases in [*READERS.values(), *helpers_fuzz_inputs.READERS.values()]) >= 20_000
