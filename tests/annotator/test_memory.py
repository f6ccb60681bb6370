"""Memory does not grow with the number of photos, and the pipeline itself computes little."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from helpers_runs import VOCAB, environment, python, write_photos


def measure(folder: Path, photos: list[bytes], count: int) -> dict[str, float]:
    """Labels so many photos in a process of its own."""
    images = folder / f"{count} photos"
    images.mkdir()
    for number in range(count):
        (images / f"{number:06d}.jpg").write_bytes(photos[number % len(photos)])
    command = python(Path(__file__).with_name("helpers_memory.py"), images, folder / f"run {count}", VOCAB)
    found = json.loads(subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE).stdout)
    print(
        f"{count} photos: peak {found['peak']:.1f} MB ({found['before']:.1f} MB before the first photo), "
        f"{count / found['seconds']:.0f} photos/s, {1000 * found['computed'] / count:.2f} ms of the processor a photo"
    )
    return found


@pytest.mark.stress
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_ten_thousand_photos_need_no_more_memory_than_five_hundred(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(50)]
    write_photos(tmp_path, names)
    photos = [(tmp_path / name).read_bytes() for name in names]
    few, many = measure(tmp_path, photos, 500), measure(tmp_path, photos, 10_000)
    assert (few["photos"], many["photos"]) == (500, 10_000)
    assert many["peak"] < 1.05 * few["peak"]
    assert many["peak"] - many["before"] < 1.1 * (few["peak"] - few["before"]) + 8  # the imports hide nothing
    assert many["computed"] / many["photos"] < 0.005  # labelling by brightness takes next to nothing of it
