"""Exporters of a third party, known to the tool by their entry points alone: pixels per label as CSV."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from annotator.run import RunReader
from exporters.base import ExportSummary, register


@dataclass(frozen=True)
class AreasOptions:
    header: bool = field(default=True, metadata={"description": "The first line names the columns."})


@register("areas", AreasOptions, "pixels per label, one CSV", suffix=".csv")
def areas(run: RunReader, out: Path, options: AreasOptions) -> ExportSummary:
    summary = ExportSummary(out)
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if options.header:
            writer.writerow(["photo", "label", "pixels"])
        for record in run.records():
            summary.images += 1
            summary.annotations += len(record.segments)
            writer.writerows([record.path, segment.label, segment.area] for segment in record.segments)
    return summary


@register("sheets", AreasOptions, "pixels per label, a CSV for each photo")
def sheets(run: RunReader, out: Path, options: AreasOptions) -> ExportSummary:
    summary = ExportSummary(out)
    for number, record in enumerate(run.records()):
        summary.images += 1
        with open(out / f"{number}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([segment.label, segment.area] for segment in record.segments)
    return summary
