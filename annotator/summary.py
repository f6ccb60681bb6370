"""What a run holds, counted from its parts without reading a single mask."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc

from annotator.run import part_files, read_columns

_COLUMNS = ["status", "error", "width", "height", "segments.list.element.label", "segments.list.element.area"]


@dataclass
class RunSummary:
    """Counts over a whole run. `classes`: pixels per label; `pixels`: of all photos that were labelled."""

    ok: int = 0
    failed: int = 0
    pixels: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    photos_with: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def photos(self) -> int:
        return self.ok + self.failed


def summarise(directory: Path) -> RunSummary:
    """One pass over the parts, a part in memory at a time."""
    summary = RunSummary()
    for part in part_files(directory):
        table = read_columns(part, _COLUMNS)
        ok = table.filter(pc.equal(table["status"], "ok"))
        summary.ok += ok.num_rows
        summary.failed += table.num_rows - ok.num_rows
        summary.failures.update(table.filter(pc.equal(table["status"], "failed"))["error"].to_pylist())
        summary.pixels += sum(w * h for w, h in zip(ok["width"].to_pylist(), ok["height"].to_pylist(), strict=True))
        for segment in pc.list_flatten(ok["segments"]).to_pylist():
            summary.classes[segment["label"]] += segment["area"]
            summary.photos_with[segment["label"]] += 1
    return summary
