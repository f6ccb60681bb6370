"""What was measured, in words and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from annotator.bench.measure import Measured, StageTime
from annotator.wording import count

if TYPE_CHECKING:
    from rich.table import Table

BOUND = "networks alone"
WHERE = {"decode": "in other processes", "encode": "in a thread"}


def headline(measured: Measured) -> str:
    """What was run, where."""
    classes = "open labels" if measured.classes is None else f"{measured.classes} classes"
    return (
        f"{measured.labeler} · pack {measured.pack} · {classes} · {measured.device} {measured.precision}"
        f"{' compiled' if measured.compiled else ''}, "
        f"{count(measured.threads, 'thread')}, batches of {measured.batch_size}, "
        f"{count(measured.workers, 'decoding process')}"
    )


def photos_line(measured: Measured) -> str:
    """On which photos, how often."""
    megapixels = f"{measured.megapixels:g} megapixels on average"
    rounds = "1 round" if measured.rounds == 1 else f"median of {measured.rounds} rounds"
    return f"{count(measured.photos, 'photo')}, {megapixels}; {rounds}, in turns with the {BOUND}"


def result_lines(measured: Measured) -> list[str]:
    """Speed beside the bound, time to the first mask, memory."""
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in measured.start_up.parts.items())
    memory = f"peak memory: {measured.resident_mb:,.0f} MB resident"
    return [
        _speed(measured),
        f"first mask: {measured.start_up.seconds:.1f} s after the command ({parts})",
        memory if measured.gpu_mb is None else f"{memory}, {measured.gpu_mb:,.0f} MB of the GPU",
    ]


def _speed(measured: Measured) -> str:
    speed = f"{measured.photos_per_second:.2f} photos/s"
    if measured.bound_seconds is None:
        return f"{speed}; there is no bound, for this labeler calls no network"
    bound = measured.photos / measured.bound_seconds
    return f"{speed}: the run takes {measured.bound_share:.0%} of the bound's speed ({bound:.2f} photos/s)"


def stage_table(measured: Measured) -> Table:
    """Stages of the main thread, which add up, then what goes on meanwhile, then the bound."""
    from rich.table import Table

    table = Table("stage", "where", "ms per photo", "of the time", box=None, pad_edge=False, header_style="bold")
    table.columns[2].justify = table.columns[3].justify = "right"
    for name, where, seconds, share in rows(measured):
        style = "bold" if name in ("whole", BOUND) else None
        table.add_row(name, where, f"{1000 * seconds / measured.photos:,.1f}", share, style=style)
    return table


def rows(measured: Measured) -> Iterator[tuple[str, str, float, str]]:
    """Stage, where, seconds, share of the wall clock."""
    for stage in main_stages(measured.stages):
        yield stage.name, "main thread", stage.seconds, f"{stage.seconds / measured.stages_seconds:.1%}"
    yield "whole", "", measured.stages_seconds, "100.0%"
    for stage in meanwhile(measured.stages):
        where = WHERE.get(stage.thread, "in a thread")
        if stage.thread == "decode" and not measured.workers:
            where = "in a thread"
        yield stage.name, f"meanwhile, {where}", stage.seconds, ""
    if measured.bound_seconds is not None:
        yield BOUND, "the bound", measured.bound_seconds, ""


def main_stages(stages: Sequence[StageTime]) -> list[StageTime]:
    return [stage for stage in stages if stage.thread == "main"]


def meanwhile(stages: Sequence[StageTime]) -> list[StageTime]:
    return [stage for stage in stages if stage.thread != "main"]
