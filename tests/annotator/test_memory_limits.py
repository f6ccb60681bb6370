"""What a whole run needs at most, its decoder included: by the pixel of a photo, and by the class."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from helpers_runs import ROOT, environment, python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc"),
]

BYTES_PER_PIXEL = 17.5
"""14 are measured: the label map and its confidences take 8, a PNG 4 in the decoder. One more array of doubles would
take 8."""


def measure(*arguments: str) -> dict[str, float]:
    """MB of each run."""
    command = python(ROOT / "tests" / "bench" / "bench_memory.py", *arguments, "--json")
    output = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE, text=True).stdout
    print(*arguments, output)
    found: dict[str, float] = json.loads(output)
    return found


def test_a_pixel_needs_few_bytes() -> None:
    found = measure("photo", "--classes", "4", "--format", "png", "--size", "1000x1000", "3000x3000")
    more = found["3000x3000 png"] - found["1000x1000 png"]
    assert 4 < more / (3**2 - 1) < BYTES_PER_PIXEL


@pytest.mark.parametrize("labeler", ["maskclip", "diy"])
def test_a_hundred_times_the_classes_need_little_more(labeler: str) -> None:
    found = measure("classes", "--labeler", labeler, "--photos", "1", "--counts", "10", "1000")
    assert found["1,000 classes"] < 1.1 * found["10 classes"]
