"""Counts over photos of a run, made without reading a single mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

COUNTED = ["status", "error", "width", "height", "segments.list.element.label", "segments.list.element.area"]
"""The columns that `RunSummary.of` needs."""


@dataclass
class RunSummary:
    """`classes`: pixels per label; `pixels`: of all photos that were labelled."""

    ok: int = 0
    failed: int = 0
    pixels: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    photos_with: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def photos(self) -> int:
        return self.ok + self.failed

    @classmethod
    def of(cls, rows: pa.Table) -> RunSummary:
        is_ok = pc.equal(rows["status"], "ok")
        ok = rows.filter(is_ok)
        areas = pc.multiply(ok["width"].cast(pa.int64()), ok["height"].cast(pa.int64()))
        summary = cls(ok.num_rows, rows.num_rows - ok.num_rows, pc.sum(areas).as_py() or 0)
        summary.failures.update(rows.filter(pc.invert(is_ok))["error"].to_pylist())
        segments = pc.list_flatten(ok["segments"].combine_chunks())
        labels, pixels = (pc.struct_field(segments, name) for name in ("label", "area"))
        counted = pa.table({"label": labels, "area": pixels}).group_by("label", use_threads=False)
        for row in counted.aggregate([("area", "sum"), ("area", "count")]).to_pylist():
            summary.classes[row["label"]] = row["area_sum"]
            summary.photos_with[row["label"]] = row["area_count"]
        return summary

    def add(self, other: RunSummary) -> None:
        self.ok += other.ok
        self.failed += other.failed
        self.pixels += other.pixels
        self.classes.update(other.classes)
        self.photos_with.update(other.photos_with)
        self.failures.update(other.failures)

    def to_dict(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunSummary:
        counters = {name: Counter(values[name]) for name in ("classes", "photos_with", "failures")}
        return cls(values["ok"], values["failed"], values["pixels"], **counters)


def total(summaries: Iterable[RunSummary]) -> RunSummary:
    whole = RunSummary()
    for each in summaries:
        whole.add(each)
    return whole
