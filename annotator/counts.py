"""Counts over photos of a run, made without reading a single mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from annotator.open_labels import normalise

COUNTED = ["status", "error", "width", "height", "segments.list.element.label", "segments.list.element.area"]
"""The columns that `RunSummary.of` needs."""


@dataclass
class RunSummary:
    """Of each class, by name: its pixels in `classes`, and the photos that have it, however often, in `photos_with`.
    `pixels` are those of all photos that were labelled; `makers` are photos by what labelled them."""

    ok: int = 0
    failed: int = 0
    pixels: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    photos_with: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    makers: Counter[str] = field(default_factory=Counter)

    @property
    def photos(self) -> int:
        return self.ok + self.failed

    @classmethod
    def of(cls, rows: pa.Table, *, open_labels: bool) -> RunSummary:
        """open_labels: labels are free text, and their classes are what `normalise` makes of them."""
        is_ok = pc.equal(rows["status"], "ok")
        ok = rows.filter(is_ok)
        areas = pc.multiply(ok["width"].cast(pa.int64()), ok["height"].cast(pa.int64()))
        summary = cls(ok.num_rows, rows.num_rows - ok.num_rows, pc.sum(areas).as_py() or 0)
        summary.failures.update(rows.filter(pc.invert(is_ok))["error"].to_pylist())
        lists = ok["segments"].combine_chunks()
        names, pixels = (pc.struct_field(pc.list_flatten(lists), name) for name in ("label", "area"))
        if open_labels:
            labels = names.dictionary_encode()
            names = pa.array([normalise(label) for label in labels.dictionary.to_pylist()], pa.string()).take(
                labels.indices
            )
        segments = pa.table({"photo": pc.list_parent_indices(lists), "name": names, "area": pixels})
        in_photos = segments.group_by(["photo", "name"], use_threads=False).aggregate([("area", "sum")])
        counted = in_photos.group_by("name", use_threads=False).aggregate([("area_sum", "sum"), ("area_sum", "count")])
        for row in counted.to_pylist():
            summary.classes[row["name"]] = row["area_sum_sum"]
            summary.photos_with[row["name"]] = row["area_sum_count"]
        return summary

    def add(self, other: RunSummary) -> None:
        self.ok += other.ok
        self.failed += other.failed
        self.pixels += other.pixels
        self.classes.update(other.classes)
        self.photos_with.update(other.photos_with)
        self.failures.update(other.failures)
        self.makers.update(other.makers)

    def to_dict(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunSummary:
        counters = {name: Counter(values[name]) for name in ("classes", "photos_with", "failures", "makers")}
        return cls(values["ok"], values["failed"], values["pixels"], **counters)


def total(summaries: Iterable[RunSummary]) -> RunSummary:
    whole = RunSummary()
    for each in summaries:
        whole.add(each)
    return whole
