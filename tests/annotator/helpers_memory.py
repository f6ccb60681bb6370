"""Labels a folder in this process and prints, as JSON, what that took: `helpers_memory.py PHOTOS OUT VOCAB`."""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path

from annotator import pipeline
from annotator.config import RunConfig


def peak_megabytes() -> float:
    """Of this process alone. (`ru_maxrss` begins with what the process had that started this one.)"""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def processor_seconds() -> float:
    """What this process and those that it ended have computed."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def main(photos: str, out: str, vocab: str) -> None:
    job = pipeline.prepare(RunConfig(photos, "bands", vocab, "embedded", out=out, workers=1))
    before, computed = peak_megabytes(), processor_seconds()
    outcome = pipeline.run(job)
    measured = {
        "photos": outcome.labelled,
        "seconds": outcome.seconds,
        "computed": processor_seconds() - computed,
        "before": before,
        "peak": peak_megabytes(),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
