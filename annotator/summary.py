"""What a run holds, counted from its ledgers and, where they do not reach, from its parts."""

from __future__ import annotations

from pathlib import Path

from annotator.counts import COUNTED, RunSummary, total
from annotator.ledger import survey
from annotator.maker import photos_by_maker
from annotator.manifest import Manifest
from annotator.parts import read_all

__all__ = ["RunSummary", "summarise"]


def summarise(directory: Path) -> RunSummary:
    """One pass, a part in memory at a time."""
    open_labels = Manifest.load(directory).open_labels
    covered, rest = survey(directory)
    whole = total(ledger.summary for ledger in covered)
    for rows in read_all(rest, COUNTED):
        whole.add(RunSummary.of(rows, open_labels=open_labels))
        whole.makers.update(photos_by_maker([rows]))
    return whole
