"""A paper's table as it was measured: Markdown, JSON and pictures.

`write_table` leaves in a folder:

    table.md             rows x columns, ours with the paper's figure beside it; photos, weights, links to every run
    table.json           the same, to compute with: shares from 0 to 1, null where there is none
    bars.png             the table drawn
    classes-voc21.png    IoU per class of every row, for each benchmark that was scored by mIoU

The confusion matrix of a cell is in its run's own report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotator.files import replacing
from annotator.finite_json import report_text
from annotator.run import RunReader, write_atomically
from evaluation.benchmarks import Benchmark, BenchmarkResult
from evaluation.confusion import unscored_notes
from evaluation.open_evaluation import OpenEvaluation
from evaluation.report import ABSENT, ClassScore, escaped, make_folder, per_class, percent, share_or_none, table_lines
from evaluation.table_picture import Bar, draw_bars, draw_classes
from evaluation.tables import MIOU, Column, Preset, Row


@dataclass(frozen=True)
class Cell:
    """A row on a benchmark, which is one run.

    scores:  metric -> share, NaN where there is none.
    run:     its folder, relative to the table's.
    precision: in which the networks ran.
    weights: slot -> SHA-256 of the file.
    pictures: of the run's report, relative to the table's folder.
    """

    scores: Mapping[str, float]
    photos: int
    failed: int
    run: str
    pack: str
    precision: str
    weights: Mapping[str, str]
    pictures: tuple[str, ...]
    notes: tuple[str, ...] = ()
    classes: tuple[ClassScore, ...] = ()


@dataclass(frozen=True)
class Table:
    """benchmarks: of the preset, by their names in it. missing: the same -> what is not there.
    cells: (row, benchmark) -> what was measured. command: that made the table."""

    preset: Preset
    command: str
    benchmarks: Mapping[str, Benchmark]
    missing: Mapping[str, str]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    def value(self, row: Row, column: Column) -> float | None:
        """As a share; None where it was not measured."""
        cell = self.cells.get((row.name, column.benchmark))
        return None if cell is None else share_or_none(cell.scores[column.metric])

    @property
    def failed(self) -> int:
        """Photos that could not be labelled, over all cells."""
        return sum(cell.failed for cell in self.cells.values())


def cell_of(result: BenchmarkResult, run: RunReader, folder: Path) -> Cell:
    """Without the notes on pixels that are not scored, which would be others for each cell; the run's report has them.

    folder: the table's.
    """
    evaluation = result.evaluation
    return Cell(
        scores={MIOU: evaluation.scores.miou},
        photos=evaluation.images,
        failed=evaluation.failed,
        notes=tuple(note for note in evaluation.notes if note not in unscored_notes(evaluation.matrix)),
        classes=tuple(per_class(evaluation)),
        **_origin(run, folder),
    )


def open_cell_of(evaluation: OpenEvaluation, run: RunReader, folder: Path) -> Cell:
    """Of free-text labels: the scores of classes that hold from the paper's cosine on."""
    scores = {}
    for result in evaluation.results:
        scores[result.by] = result.scores.iou
        if result.by == "st":
            scores["recall"] = result.scores.recall
    if evaluation.quality is not None:
        scores["tgq"] = evaluation.quality.share
    return Cell(
        scores=scores,
        photos=evaluation.images,
        failed=evaluation.failed,
        notes=evaluation.notes,
        **_origin(run, folder),
    )


def _origin(run: RunReader, folder: Path) -> dict[str, Any]:
    where = run.directory.relative_to(folder)
    return {
        "run": where.as_posix(),
        "pack": str(run.manifest.pack.get("name", "")),
        "precision": str(run.manifest.config.get("precision", "")),
        "weights": {slot: file["sha256"] for slot, file in run.manifest.pack.get("roles", {}).items()},
        "pictures": tuple(
            (where / "eval" / file.name).as_posix() for file in sorted((run.directory / "eval").glob("*.png"))
        ),
    }


def write_table(table: Table, folder: str | Path) -> list[Path]:
    """Writes the files into a folder, which is made where needed, and returns their paths."""
    folder = Path(folder)
    make_folder(folder)
    by_pixel = all(Column(text).metric == MIOU for text in table.preset.columns)
    titled = f"{table.preset.title}: mIoU" if by_pixel else table.preset.title
    everyone = [row.name for row in table.preset.rows]
    pictures = {"bars.png": draw_bars(titled, everyone, _bars(table), _basis(table, list(table.benchmarks)))}
    for name, cells in _per_class(table).items():
        benchmark = table.benchmarks[name]
        shares = {number: [score.iou for score in cell.classes] for number, cell in cells.items()}
        title = f"{table.preset.title}: IoU per class, {benchmark.title}"
        pictures[f"classes-{benchmark.name}.png"] = draw_classes(
            title, everyone, benchmark.classes, shares, _basis(table, [name])
        )
    for name, picture in pictures.items():
        with replacing(folder / name) as file:
            picture.save(file, "PNG")
    texts = {
        "table.md": _markdown(table, list(pictures)),
        "table.json": report_text(as_dict(table)),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in (*texts, *pictures)]


def header(table: Table) -> list[str]:
    """Over `rows`."""
    columns = [Column(text) for text in table.preset.columns]
    return ["", *(column.name for column in columns)]


def rows(table: Table) -> Iterator[list[str]]:
    """Plain text: ours in %, the paper's figure in brackets; empty where the table has no such cell."""
    for row in table.preset.rows:
        cells = {column.text: _beside(table, row, column) for column in table.preset.columns_of(row)}
        yield [row.name, *(cells.get(text, "") for text in table.preset.columns)]


def _beside(table: Table, row: Row, column: Column) -> str:
    ours, paper = percent(table.value(row, column)), row.paper.get(column.text)
    return f"{ours} ({'–'.join(f'{figure:.1f}' for figure in paper)})" if paper else ours


def as_dict(table: Table) -> dict[str, Any]:
    """What table.json holds."""
    preset = table.preset
    return {
        "table": preset.name,
        "title": preset.title,
        "paper": preset.paper,
        "command": table.command,
        "columns": [
            {
                "name": column.text,
                "metric": column.metric,
                "benchmark": table.benchmarks[column.benchmark].name,
                "title": table.benchmarks[column.benchmark].title,
                "photos_of_benchmark": table.benchmarks[column.benchmark].photos,
                "missing": table.missing.get(column.benchmark),
            }
            for column in map(Column, preset.columns)
        ],
        "rows": [
            {
                "name": row.name,
                "labeler": row.labeler,
                "settings": row.settings,
                "cells": {column.text: _cell_as_dict(table, row, column) for column in preset.columns_of(row)},
            }
            for row in preset.rows
        ],
    }


def _cell_as_dict(table: Table, row: Row, column: Column) -> dict[str, Any]:
    value, paper = table.value(row, column), [figure / 100 for figure in row.paper.get(column.text, ())]
    cell = table.cells.get((row.name, column.benchmark))
    return {
        "value": value,
        "paper": paper or None,
        "difference": value - paper[0] if value is not None and len(paper) == 1 else None,
        "images": cell.photos if cell else 0,
        "images_failed": cell.failed if cell else 0,
        "run": cell.run if cell else None,
        "pack": cell.pack if cell else None,
        "precision": cell.precision if cell else None,
        "weights": dict(cell.weights) if cell else None,
    }


def _bars(table: Table) -> dict[str, list[Bar]]:
    """Column -> a bar per row that has it."""
    groups: dict[str, list[Bar]] = {}
    for name, text in zip(header(table)[1:], table.preset.columns, strict=True):
        column = Column(text)
        groups[name] = [
            Bar(number, table.value(row, column), tuple(figure / 100 for figure in row.paper.get(text, ())))
            for number, row in enumerate(table.preset.rows)
            if column in table.preset.columns_of(row)
        ]
    return groups


def _per_class(table: Table) -> dict[str, dict[int, Cell]]:
    """Benchmark -> number of the row -> its cell, of those that have classes."""
    found: dict[str, dict[int, Cell]] = {}
    for number, row in enumerate(table.preset.rows):
        for name in table.benchmarks:
            if (cell := table.cells.get((row.name, name))) is not None and cell.classes:
                found.setdefault(name, {})[number] = cell
    return found


def _markdown(table: Table, pictures: list[str]) -> str:
    cells = table.cells.values()
    notes = dict.fromkeys(note for cell in cells for note in cell.notes)
    lines = [
        f"# {escaped(table.preset.title)}",
        "",
        escaped(table.preset.paper),
        "",
        *table_lines([escaped(name) for name in header(table)], rows(table)),
        "",
        f"mIoU in %, where no other metric is named; in brackets the paper's figure, with its own weights. {ABSENT} "
        "was not measured; an empty cell is none of the table's.",
        "",
        *(f"- {escaped(note)}" for note in notes),
        *([""] if notes else []),
        *(f"![{escaped(name)}]({name})" + "\n" for name in pictures),
        "## Photos",
        "",
        *table_lines(("benchmark", "photos scored", "photos of the benchmark"), _photo_rows(table)),
        "",
        *(f"- {escaped(problem)}" for problem in table.missing.values()),
        *([""] if table.missing else []),
        "## Rows",
        "",
        *table_lines(("row", "labeler", "settings", "pack", "precision"), _row_rows(table)),
        "",
        "## Weights",
        "",
        *table_lines(("file", "SHA-256", "rows"), _weight_rows(table)),
        "",
        "## Runs",
        "",
        *_run_lines(table),
        "",
        "## Made by",
        "",
        "```",
        table.command,
        "```",
        "",
    ]
    return "\n".join(lines)


def _basis(table: Table, benchmarks: Sequence[str]) -> list[str]:
    """What the figures of these benchmarks are of: photos and pack, by benchmark where they differ."""
    measured = [name for name in benchmarks if _cells_of(table, name)]
    photos = {name: _photos_in_words(table, name) for name in measured}
    packs = {name: _packs_in_words(_cells_of(table, name)) for name in measured}
    whole = {name: f"{photos[name]}, {packs[name]}" for name in measured}
    if len(set(whole.values())) <= 1:
        return list(whole.values())[:1]
    if len(set(packs.values())) == 1:
        return [*(f"{name}: {text}" for name, text in photos.items()), packs[measured[0]]]
    return [f"{name}: {text}" for name, text in whole.items()]


def _photos_in_words(table: Table, name: str) -> str:
    scored, whole = _photos_scored(table, name), f"{table.benchmarks[name].photos:,}"
    return f"all {whole} photos" if scored == whole else f"{scored} of {whole} photos"


def _packs_in_words(cells: Sequence[Cell]) -> str:
    packs = sorted({cell.pack for cell in cells})
    return f"{packs[0]} pack" if len(packs) == 1 else f"packs {', '.join(packs)}"


def _cells_of(table: Table, name: str) -> list[Cell]:
    return [cell for (_, benchmark), cell in table.cells.items() if benchmark == name]


def _photos_scored(table: Table, name: str) -> str:
    """How many, or from how many to how many in its cells; "" without a cell."""
    counts = sorted({cell.photos for cell in _cells_of(table, name)})
    return " to ".join(f"{count:,}" for count in (counts if len(counts) < 2 else (counts[0], counts[-1])))


def _photo_rows(table: Table) -> Iterator[list[str]]:
    for name, benchmark in table.benchmarks.items():
        yield [f"{name}: {benchmark.title}", _photos_scored(table, name) or ABSENT, f"{benchmark.photos:,}"]


def _row_rows(table: Table) -> Iterator[list[str]]:
    for row in table.preset.rows:
        cells = [cell for (name, _), cell in table.cells.items() if name == row.name]
        settings = ", ".join(f"{name}={_as_text(value)}" for name, value in row.settings.items())
        made_with = ([cell.pack for cell in cells], [cell.precision for cell in cells])
        packs, precisions = (", ".join(dict.fromkeys(names)) or ABSENT for names in made_with)
        yield [row.name, row.labeler, settings or "as they come", packs, precisions]


def _as_text(value: Any) -> str:
    """As `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _weight_rows(table: Table) -> Iterator[list[str]]:
    """Every file once."""
    users: dict[tuple[str, str], dict[str, None]] = {}
    for (row, _), cell in table.cells.items():
        for file in cell.weights.items():
            users.setdefault(file, {})[row] = None
    everyone = {row for row, _ in table.cells}
    for (slot, sha256), names in users.items():
        yield [slot, sha256, "all" if names.keys() == everyone else "; ".join(names)]


def _run_lines(table: Table) -> Iterator[str]:
    for (row, benchmark), cell in table.cells.items():
        links = (f"[{Path(picture).stem}]({picture})" for picture in cell.pictures)
        yield f"- {escaped(row)}, {escaped(benchmark)}: {', '.join(links)}"
