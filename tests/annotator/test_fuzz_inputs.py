"""Any content of what users give: a right result, or an error of one line, and nothing else ever.

`python tests/tools/fuzz.py --minutes 60` goes on where this stops.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_fuzz import try_many
from helpers_fuzz_inputs import READERS


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_any_content(name: str, tmp_path: Path) -> None:
    assert try_many(*READERS[name], tmp_path) == {True, False}
