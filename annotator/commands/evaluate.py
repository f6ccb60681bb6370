"""`annotate eval`: a run against ground truth, or a benchmark from label to score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotator.commands.arguments import (
    PAPERS_PRECISION,
    DeviceOption,
    ImagesOption,
    PackOption,
    PrecisionOption,
    SetOption,
    WeightsOption,
    parse_run,
    parse_settings,
    parse_weights,
    results_in,
)
from annotator.limits import COUNT

if TYPE_CHECKING:
    from annotator.config import PrecisionChoice

BENCHMARKS = "Benchmarks"


def evaluate(
    run: Annotated[
        Path | None,
        typer.Argument(
            parser=parse_run, help="Run folder or its URL; with --benchmark, none.", metavar="RUN", show_default=False
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Folder of mask PNGs, or a COCO .json.", show_default=False)
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="Which metrics, by commas: miou; for free-text labels st, tt, recall, tgq.")
    ] = "miou",
    truth_classes: Annotated[
        Path | None,
        typer.Option(help="Class names of the mask PNGs' values.", show_default="classes.txt there, else the run's"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the report; with --benchmark, of the run, which the same command resumes.",
            show_default="RUN/eval, runs/BENCHMARK-LABELER",
        ),
    ] = None,
    images: ImagesOption = None,
    human: Annotated[
        Path | None, typer.Option(help="st, tt: CSV of path, segment, human (0 to 3), which verifies besides.")
    ] = None,
    set_: SetOption = None,
    pack: PackOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = PAPERS_PRECISION,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="voc20, coco-object, ... of configs/benchmarks, or a .yaml.",
            show_default=False,
            rich_help_panel=BENCHMARKS,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds its files.", show_default=False, rich_help_panel=BENCHMARKS)
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say which of its files are missing.", rich_help_panel=BENCHMARKS)
    ] = False,
    labeler: Annotated[
        str, typer.Option(help="Labeler that labels its photos.", rich_help_panel=BENCHMARKS)
    ] = "dinoiser",
    subset: Annotated[
        int | None,
        COUNT,
        typer.Option(
            help="Use this many of its photos, evenly spread.", show_default="all of them", rich_help_panel=BENCHMARKS
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start its run anew.", rich_help_panel=BENCHMARKS)
    ] = False,
) -> None:
    """Score a run against ground truth, or label and score a benchmark: tables, Markdown, JSON, CSV and pictures."""
    from annotator.errors import ConfigError

    if benchmark is not None:
        from annotator.commands import benchmark as benchmarks

        if data is None:
            raise ConfigError("--benchmark needs --data, the folder that holds its files")
        if check:
            benchmarks.check(benchmark, data)
            return
        benchmarks.benchmark(
            benchmark,
            data,
            labeler=labeler,
            pack=pack,
            weights=parse_weights(weights),
            settings=parse_settings(set_),
            device=device,
            precision=precision,
            subset=subset,
            out=out,
            overwrite=overwrite,
        )
        return
    if run is None or truth is None:
        raise ConfigError("expected RUN and --truth, or --benchmark and --data")
    _score_run(run, images, truth, metrics, truth_classes, out, human, set_, pack, weights, device, precision)


def _score_run(
    run: Path,
    images: str | None,
    truth: Path,
    metrics: str,
    truth_classes: Path | None,
    out: Path | None,
    human: Path | None,
    settings: list[str] | None,
    pack: str | None,
    weights: list[str] | None,
    device: str,
    precision: PrecisionChoice,
) -> None:
    from annotator import printing
    from annotator.errors import ConfigError
    from annotator.whereabouts import open_run_at
    from evaluation import open_evaluation
    from evaluation.confusion import METRICS, evaluate_run
    from evaluation.report import write_report
    from evaluation.truth import open_truth

    opened, folder = open_run_at(run, images), results_in(run, out, "eval")
    names = tuple(name.strip() for name in metrics.split(","))
    for name in names:
        if name not in (known := (*METRICS, *open_evaluation.METRICS)):
            raise ConfigError(f"no metric {name!r}; known are {', '.join(known)}")
    if by_pixel := tuple(name for name in names if name in METRICS):
        evaluation = evaluate_run(opened, open_truth(truth, opened, truth_classes), by_pixel)
        printing.print_evaluation(evaluation, write_report(evaluation, folder))
    if by_segment := tuple(name for name in names if name not in METRICS):
        from annotator.run_networks import describer, networks_of
        from evaluation.human import HumanScores
        from evaluation.open_report import write_open_report

        networks = networks_of(opened, pack, device, parse_weights(weights), precision)
        scores = open_evaluation.evaluate_open(
            opened,
            open_truth(truth, opened, truth_classes, own_classes=True),
            by_segment,
            networks,
            human=HumanScores.load(human) if human else None,
            describe=lambda: describer(opened, networks, parse_settings(settings)),
        )
        printing.print_open_evaluation(scores, write_open_report(scores, folder))
