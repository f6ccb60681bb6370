"""A run of two dozen photos for tests of its writers."""

from __future__ import annotations

from pathlib import Path

from annotator.run import ImageRecord, open_run

PHOTOS = [f"{number:02d}.jpg" for number in range(24)]
TAKEN_OVER = "another one has taken the run over"


def photo(name: str, mark: int = 1, *, fails: bool = False) -> ImageRecord:
    """mark: is to be seen in the row."""
    if fails:
        return ImageRecord(name, "failed", width=2, height=mark, error="truncated")
    return ImageRecord(name, "ok", width=2, height=mark)


def paths(directory: Path) -> list[str]:
    return [each.path for each in open_run(directory)]
