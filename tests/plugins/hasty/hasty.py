"""A third party's labeler with which a run closes its parts early, so that a kill finds much to interrupt."""

from __future__ import annotations

from bands import BandsParameters, _ByBrightness

from annotator import ledger, run
from labelers.base import LabelerSpec, register

run.PART_ROWS, run.PART_SECONDS, ledger.LEDGER_PARTS = 12, 0.1, 3


@register(LabelerSpec("hasty", needs_vocabulary=True, paper="none", roles=()), BandsParameters)
class Hasty(_ByBrightness):
    """As `bands`."""
