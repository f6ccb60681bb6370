"""`annotate eval --benchmark`: label a benchmark's photos with the ordinary pipeline and score them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from annotator.commands.arguments import PAPERS_PRECISION
from annotator.wording import count

if TYPE_CHECKING:
    from rich.table import Table

    from annotator.config import PrecisionChoice, RunConfig
    from annotator.pipeline import Job
    from evaluation.benchmarks import Benchmark, BenchmarkResult
    from evaluation.layouts import Dataset


def check(name: str, data: Path) -> None:
    """Prints which of the benchmark's files are there and each that is missing; exit code 2 when one is."""
    from rich.text import Text

    from annotator import console
    from annotator.cli import EXIT_USAGE
    from evaluation.benchmarks import load_benchmark

    benchmark = load_benchmark(name)
    dataset = benchmark.find(data)
    lines = [*dataset.problems, f"{count(len(dataset.problems), 'problem')}; {benchmark.name} cannot be scored"]
    if dataset.truth is not None and not dataset.problems:
        lines = [
            f"photos → {dataset.photos.folder}",
            f"truth → {dataset.truth.source}",
            f"{len(dataset.keys):,} of the benchmark's {benchmark.photos:,} photos are there, with their truth",
        ]
    console.out.print(Text("\n".join(lines)), soft_wrap=True)
    if dataset.problems:
        raise typer.Exit(EXIT_USAGE)


def benchmark(
    name: str,
    data: Path,
    *,
    labeler: str = "dinoiser",
    pack: str | None = None,
    weights: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    device: str = "auto",
    precision: PrecisionChoice = PAPERS_PRECISION,
    subset: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Labels the benchmark's photos, as far as that is not done, and prints and writes the score beside the papers'.

    name, data: a benchmark of `evaluation.benchmarks.available` or a .yaml file, and the folder that holds its files.
    settings:   the labeler's; they win over the benchmark's.
    precision:  the papers' figures are of fp32; bf16 moves some labels.
    subset:     this many photos, evenly spread.
    out:        folder of the run, and of its report in OUT/eval; the same command resumes it.
    """
    from annotator import console, pipeline, printing
    from annotator.cli import EXIT_INTERRUPTED, EXIT_SOME_FAILED
    from annotator.run import open_run
    from evaluation.benchmarks import complete, load_benchmark, score, write_benchmark

    chosen = load_benchmark(name).measured_for(labeler)
    dataset = complete(chosen, data)
    config = config_of(
        chosen,
        labeler,
        settings or {},
        pack=pack,
        weights=weights or {},
        out=out or Path(f"runs/{chosen.name}-{labeler}"),
        device=device,
        precision=precision,
        overwrite=overwrite,
    )
    with console.loading():
        job = prepare(chosen, dataset, config, subset)
    pipeline.check(job)
    console.announce(job, quiet)
    with console.progress(quiet) as watch:
        outcome = pipeline.run(job, watch, watch.begin)
    if outcome.state == "interrupted":
        printing.print_outcome(outcome, quiet)
        raise typer.Exit(EXIT_INTERRUPTED)
    result = score(chosen, dataset, open_run(outcome.directory), subset)
    files = write_benchmark(result, outcome.directory / "eval")
    printing.print_evaluation(result.evaluation, files)
    console.out.print(_table(result))
    if outcome.summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def config_of(
    chosen: Benchmark,
    labeler: str,
    settings: Mapping[str, Any],
    *,
    pack: str | None,
    weights: dict[str, str],
    out: Path,
    device: str,
    precision: PrecisionChoice,
    overwrite: bool,
) -> RunConfig:
    """Of a run on the benchmark's photos, read in full as the papers' code does; `settings` win over its own."""
    from annotator.config import RunConfig
    from labelers.base import default_parameters

    return RunConfig(
        labeler=labeler,
        pack=pack or RunConfig.pack,
        weights=weights,
        settings={**chosen.settings_of(labeler, default_parameters(labeler)), **settings},
        out=str(out),
        full_decode=True,
        device=device,
        precision=precision,
        overwrite=overwrite,
    )


def prepare(chosen: Benchmark, dataset: Dataset, config: RunConfig, subset: int | None = None) -> Job:
    """A pipeline job over the benchmark's photos and classes; a subset shares its run folder with the whole.

    chosen: as it is `measured_for` the labeler.
    """
    from annotator import pipeline
    from annotator.errors import ConfigError
    from labelers.base import find

    spec = find(config.labeler).spec
    if not spec.needs_vocabulary:
        raise ConfigError(f"{spec.name} names its own classes, but {chosen.name} gives them; use another labeler")
    if spec.needs_background and not chosen.background:
        raise ConfigError(f"{spec.name} needs a background class, and {chosen.name} has none; use another labeler")
    return narrowed(pipeline.prepare(config, chosen.vocabulary, dataset.photos.folder), dataset, subset)


def narrowed(job: Job, dataset: Dataset, subset: int | None) -> Job:
    """The job with the benchmark's photos alone, of all that lie in their folder."""
    from annotator.images import ImageRef, ImageSource
    from evaluation.benchmarks import spread

    root, below = job.source.root, job.source.below
    folder = root / below if below else root
    refs = tuple(ImageRef(folder, f"{key}{dataset.photos.suffix}") for key in spread(dataset.keys, subset))
    source = ImageSource(folder, refs=refs)
    job.source = source.seen_from(root) if below else source
    return job


def _table(result: BenchmarkResult) -> Table:
    from rich.table import Table
    from rich.text import Text

    from evaluation.benchmarks import COLUMNS, result_rows

    table = Table(*COLUMNS, title=result.benchmark.title, box=None, pad_edge=False, header_style="bold")
    for row in result_rows([result]):
        table.add_row(*(Text(cell) for cell in row))
    for column in table.columns[1:]:
        column.justify = "right"
    return table
