"""The runs that a paper's table is made of, and their scores; `annotate report --preset` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from annotator.config import PrecisionChoice, RunConfig
    from annotator.pipeline import Job
    from annotator.run import RunReader
    from evaluation.benchmarks import Benchmark
    from evaluation.layouts import Dataset
    from evaluation.open_evaluation import OpenEvaluation
    from evaluation.table_report import Cell, Table
    from evaluation.tables import Preset, Row


@dataclass(frozen=True)
class TableMaker:
    """Runs a table's cells, each in a folder of its own, which a later call resumes.

    data:    folder of the benchmarks' files.
    weights: slot -> file, for all rows; a row's own win.
    """

    data: Path
    folder: Path
    pack: str | None
    weights: Mapping[str, str]
    subset: int | None
    device: str
    precision: PrecisionChoice
    overwrite: bool

    def make(self, preset: Preset, command: str) -> Table:
        """Every cell whose data is there."""
        from annotator import console
        from evaluation.benchmarks import load_benchmark
        from evaluation.table_report import Table

        _check(preset)
        benchmarks = {name: load_benchmark(name) for name in preset.benchmarks()}
        there, missing = {}, {}
        for name, benchmark in benchmarks.items():
            dataset = benchmark.find(self.data)
            if dataset.problems:
                missing[name] = _lacking(name, self.data, dataset)
                console.status(missing[name])
            else:
                there[name] = dataset
        table = Table(preset, command, benchmarks, missing)
        runs = [(row, name, metrics) for row, name, metrics in preset.runs() if name in there]
        for number, (row, name, metrics) in enumerate(runs, 1):
            console.status(f"{number} of {len(runs)}: {row.name} on {name}")
            benchmark = benchmarks[name].measured_for(row.labeler)
            dataset = there[name] if benchmark == benchmarks[name] else benchmark.find(self.data)
            table.cells[row.name, name] = self._cell(row, benchmark, dataset, metrics)
        return table

    def _cell(self, row: Row, benchmark: Benchmark, dataset: Dataset, metrics: Sequence[str]) -> Cell:
        from annotator import console, pipeline, printing
        from annotator.cli import EXIT_INTERRUPTED
        from annotator.run import open_run
        from evaluation.benchmarks import score, write_benchmark
        from evaluation.open_report import write_open_report
        from evaluation.table_report import cell_of, open_cell_of
        from evaluation.tables import MIOU

        with console.loading():
            job = prepare(benchmark, dataset, self._config(row, benchmark), self.subset)
        pipeline.check(job)
        console.announce(job, False)
        with console.progress(False) as watch:
            outcome = pipeline.run(job, watch, watch.begin)
        if outcome.state == "interrupted":
            printing.print_outcome(outcome, quiet=True)
            raise typer.Exit(EXIT_INTERRUPTED)
        run = open_run(outcome.directory)
        if MIOU in metrics:
            result = score(benchmark, dataset, run, self.subset)
            write_benchmark(result, run.directory / "eval")
            return cell_of(result, run, self.folder)
        evaluation = score_open(benchmark, dataset, run, metrics, job, self.subset)
        write_open_report(evaluation, run.directory / "eval")
        return replace(open_cell_of(evaluation, run, self.folder), weights=job.crew.weights)  # scoring may ask for more

    def _config(self, row: Row, benchmark: Benchmark) -> RunConfig:
        from annotator.commands import benchmark as benchmarks

        return benchmarks.config_of(
            benchmark,
            row.labeler,
            row.settings,
            pack=self.pack,
            weights={**self.weights, **row.weights},
            out=self.folder / "runs" / row.folder / benchmark.name,
            device=self.device,
            precision=self.precision,
            overwrite=self.overwrite,
        )


def prepare(benchmark: Benchmark, dataset: Dataset, config: RunConfig, subset: int | None) -> Job:
    """A pipeline job over the benchmark's photos, with its classes for a labeler that takes class names."""
    from annotator import pipeline
    from annotator.commands import benchmark as benchmarks
    from labelers.base import find

    if find(config.labeler).spec.needs_vocabulary:
        return benchmarks.prepare(benchmark, dataset, config, subset)
    return benchmarks.narrowed(pipeline.prepare(config, images=dataset.photos.folder), dataset, subset)


def score_open(
    benchmark: Benchmark, dataset: Dataset, run: RunReader, metrics: Sequence[str], job: Job, subset: int | None
) -> OpenEvaluation:
    """Scores a run with free-text labels by the benchmark's classes, with the networks that made it."""
    from annotator.run_networks import describer
    from evaluation.benchmarks import benchmark_truth
    from evaluation.open_evaluation import evaluate_open

    asked = {*metrics, "st"} if "recall" in metrics else set(metrics)
    evaluation = evaluate_open(
        run,
        benchmark_truth(benchmark, dataset, run, subset),
        sorted(asked),
        job.networks,
        describe=lambda: describer(run, job.networks, {}),
    )
    return replace(evaluation, without_truth=0)  # with a subset, the others have truth but are not asked for


def _check(preset: Preset) -> None:
    """What can be known to be wrong before hours of labelling."""
    from annotator.errors import ConfigError
    from evaluation.tables import MIOU
    from labelers.base import find, resolve_parameters

    for row, benchmark, metrics in preset.runs():
        resolve_parameters(row.labeler, row.settings)
        names_classes = not find(row.labeler).spec.needs_vocabulary
        if wrong := [metric for metric in metrics if (metric == MIOU) == names_classes]:
            kind = "names its own classes" if names_classes else "takes class names"
            raise ConfigError(
                f"table {preset.name}, {row.name}: {row.labeler} {kind}, so that {benchmark} cannot be scored by "
                f"{wrong[0]}; choose another metric"
            )


def _lacking(name: str, data: Path, dataset: Dataset) -> str:
    """One line."""
    from evaluation.benchmarks import PROBLEMS_SHOWN

    more = len(dataset.problems) - PROBLEMS_SHOWN
    return f"{name} is left out, its data is missing: {'; '.join(dataset.problems[:PROBLEMS_SHOWN])}" + (
        f"; and {more} more, which annotate eval --benchmark {name} --data {data} --check lists" if more > 0 else ""
    )
