"""Labels a folder in this process and prints, as JSON, what that took: `helpers_memory.py PHOTOS OUT VOCAB`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from annotator import pipeline
from annotator.config import RunConfig
from annotator.run import ImageRecord


def peak_megabytes() -> float:
    """Of this process alone. (`ru_maxrss` begins with what the process had that started this one.)"""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def main(photos: str, out: str, vocab: str) -> None:
    labelling = 0.0

    def report(record: ImageRecord) -> None:
        nonlocal labelling
        labelling += record.seconds

    job = pipeline.prepare(RunConfig(photos, "bands", vocab, "embedded", out=out, workers=1))
    before = peak_megabytes()
    outcome = pipeline.run(job, report)
    measured = {
        "photos": outcome.labelled,
        "seconds": outcome.seconds,
        "labelling": labelling,
        "before": before,
        "peak": peak_megabytes(),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
