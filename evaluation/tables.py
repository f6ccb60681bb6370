"""The tables of the papers: configs/tables/*.yaml say which labelers, settings and benchmarks make up each.

A row is a labeler with its settings; a column is a benchmark, scored by mIoU, or a benchmark and one of the metrics
of free-text labels. Beside each cell stands the paper's own figure, where it is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotator.config import parameters_from, read_yaml, shipped_names, shipped_or_own
from annotator.errors import ConfigError

MIOU = "miou"
METRICS = {MIOU: "mIoU", "st": "IoU by ST", "tt": "IoU by TT", "recall": "recall at 0.5 by ST", "tgq": "TGQ"}
"""What a column may be scored by, and how it is written."""
Figure = tuple[float, ...]
"""Of a paper, in %: one number, or the lowest and the highest of several."""


@dataclass(frozen=True)
class Column:
    """text: `voc21`, or `context59 recall`."""

    text: str

    @property
    def benchmark(self) -> str:
        return self.text.removesuffix(f" {self.metric}")

    @property
    def metric(self) -> str:
        last = self.text.rpartition(" ")[2]
        return last if last in METRICS and last != self.text else MIOU

    @property
    def name(self) -> str:
        """For people."""
        return self.benchmark if self.metric == MIOU else f"{self.benchmark} {METRICS[self.metric]}"


@dataclass(frozen=True)
class Row:
    """settings, weights: the labeler's, put over the benchmark's and the pack's.

    columns: those of the table that the row has; all where none is named.
    paper:   column -> figure.
    """

    name: str
    labeler: str
    settings: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    paper: dict[str, Figure] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of the folder for its runs."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True)
class Preset:
    """As its YAML file says it."""

    name: str
    title: str
    paper: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        for names, what in ((self.columns, "columns"), ([row.folder for row in self.rows], "names of rows")):
            if not names or not all(names) or len(set(names)) < len(names):
                raise ValueError(f"{what}: expected different ones, but got {', '.join(names) or 'none'}")
        for row in self.rows:
            known = row.columns or self.columns
            for given, of in ((row.columns, self.columns), (row.paper, known)):
                if strange := [column for column in given if column not in of]:
                    raise ValueError(f"{row.name}: {strange[0]!r} is none of its columns ({', '.join(of)})")
            if wrong := [column for column, figure in row.paper.items() if not 1 <= len(figure) <= 2]:
                raise ValueError(f"{row.name}: {wrong[0]}: expected a number or [lowest, highest]")

    def columns_of(self, row: Row) -> list[Column]:
        """In the table's order."""
        return [Column(text) for text in self.columns if not row.columns or text in row.columns]

    def benchmarks(self) -> list[str]:
        """Each once, in the order of the columns."""
        return list(dict.fromkeys(Column(text).benchmark for text in self.columns))

    def runs(self) -> Iterator[tuple[Row, str, list[str]]]:
        """(row, benchmark, metrics) of every run that the table is made of."""
        for row in self.rows:
            metrics: dict[str, list[str]] = {}
            for column in self.columns_of(row):
                metrics.setdefault(column.benchmark, []).append(column.metric)
            yield from ((row, benchmark, asked) for benchmark, asked in metrics.items())


def available() -> list[str]:
    """Names of the tables in configs/tables."""
    return shipped_names("tables")


def load_preset(name: str | Path) -> Preset:
    """One of `available`, or a .yaml file of the same form."""
    return _from_yaml(shipped_or_own(name, "tables", "table"))


def _from_yaml(file: Path) -> Preset:
    content = read_yaml(file)
    rows = content.pop("rows", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise ConfigError(f"{file}: rows: expected a list of `name: ...`, `labeler: ...`")
    built = tuple(parameters_from(Row, _with_figures(row), f"{file}: rows") for row in rows)
    return parameters_from(Preset, {"name": file.stem, **content, "rows": built}, str(file))


def _with_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """A single number is a figure too."""
    if not isinstance(paper := row.get("paper"), dict):
        return dict(row)
    return {**row, "paper": {name: value if _is_list(value) else [value] for name, value in paper.items()}}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
