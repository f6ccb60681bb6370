"""`annotate report`: a run as web pages, or a table of a paper, run row by row and set beside the paper's figures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from annotator.commands.arguments import (
    PAPERS_PRECISION,
    DeviceOption,
    ImagesOption,
    PrecisionOption,
    WeightsOption,
    parse_run,
    parse_weights,
    results_in,
)
from annotator.limits import COUNT
from annotator.wording import are, count

if TYPE_CHECKING:
    from annotator.config import PrecisionChoice
    from annotator.gallery.survey import Sort
    from evaluation.table_report import Table

LIST = "list"
TABLES = "Tables of the papers"


def report(
    run: Annotated[
        Path | None,
        typer.Argument(
            parser=parse_run, help="Run folder or its URL; with --preset, none.", metavar="RUN", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write; with --preset, the same command resumes it.",
            show_default="RUN/report, reports/PRESET",
        ),
    ] = None,
    sort: Annotated[
        Literal["name", "confidence"], typer.Option(help="confidence: the least confident photos first.")
    ] = "name",
    limit: Annotated[
        int | None, COUNT, typer.Option(help="Show only the first so many photos.", show_default="all")
    ] = None,
    images: ImagesOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another run's report, too; with --preset, start its runs anew.")
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="A table of configs/tables, or a .yaml; `list` says which there are.",
            show_default=False,
            rich_help_panel=TABLES,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that holds the benchmarks' files.", show_default=False, rich_help_panel=TABLES),
    ] = None,
    subset: Annotated[
        int | None,
        COUNT,
        typer.Option(
            help="So many photos of each benchmark, evenly spread.", show_default="all of them", rich_help_panel=TABLES
        ),
    ] = None,
    pack: Annotated[
        str | None,
        typer.Option(help="Weights; see `annotate models`.", show_default="auto", rich_help_panel=TABLES),
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = PAPERS_PRECISION,
) -> None:
    """Web pages of a run, for any browser and with no server; or a paper's table, labelled, scored and drawn."""
    from annotator.errors import ConfigError

    if (run is None) == (preset is None):
        raise ConfigError(f"expected RUN for its web pages, or --preset for a paper's table (--preset {LIST}: which)")
    if run is not None:
        _gallery(run, images, out, sort, limit, overwrite)
    elif preset == LIST:
        _print_presets()
    else:
        _table(str(preset), data, out, pack, weights, subset, device, precision, overwrite)


def _gallery(run: Path, images: str | None, out: Path | None, sort: Sort, limit: int | None, overwrite: bool) -> None:
    from functools import partial

    from rich.text import Text

    from annotator import console, printing
    from annotator.corrections import corrected, pulls
    from annotator.gallery.report import make_report
    from annotator.whereabouts import open_run_at
    from exporters.options import SelectedRun

    folder = results_in(run, out, "report")
    shown = opened = open_run_at(run, images)
    if pulls(run):
        shown = SelectedRun(opened, amend=partial(corrected, run=opened))
    with console.stages() as report:
        done = make_report(shown, folder, sort=sort, limit=limit, overwrite=overwrite, report=report)
    lines = [f"{count(done.shown, 'photo')} on {count(done.pages, 'page')} → {done.index}"]
    if done.missing:
        lines.append(
            f"  note: {are(done.missing, 'photo')} shown as masks alone: no longer readable in {opened.image_root}; "
            f"--images says where they are now"
        )
    lines += [f"  note: {note}" for note in done.notes]
    printing.print_lines([Text(line) for line in lines])


def _table(
    preset: str,
    data: Path | None,
    out: Path | None,
    pack: str | None,
    weights: list[str] | None,
    subset: int | None,
    device: str,
    precision: PrecisionChoice,
    overwrite: bool,
) -> None:
    from annotator import console
    from annotator.cli import EXIT_SOME_FAILED
    from annotator.commands.table_runs import TableMaker
    from annotator.errors import ConfigError
    from evaluation.table_report import write_table
    from evaluation.tables import load_preset

    if data is None or not data.is_dir():
        raise ConfigError(f"expected --data, the folder that holds the benchmarks, but got {data or 'none'}")
    chosen = load_preset(preset)
    folder = out or Path("reports") / chosen.name
    command = _command(
        preset=preset, data=data, out=folder, pack=pack, weights=weights, subset=subset, precision=precision
    )
    maker = TableMaker(data, folder, pack, parse_weights(weights), subset, device, precision, overwrite)
    table = maker.make(chosen, command)
    files = write_table(table, folder)
    _print_table(table)
    console.out.print(f"report → {', '.join(map(str, files))}", markup=False)
    if table.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _command(**given: object) -> str:
    """That makes the table again, wherever it is typed in."""
    words = ["annotate", "report"]
    for name, value in given.items():
        for each in value if isinstance(value, list) else [value]:
            words += [] if each is None else [f"--{name}", shlex.quote(str(each))]
    return " ".join(words)


def _print_presets() -> None:
    from rich.table import Table
    from rich.text import Text

    from annotator import console
    from evaluation.tables import available, load_preset

    lines = Table("table", "what it is", "runs", "paper", box=None, pad_edge=False, header_style="bold")
    for preset in map(load_preset, available()):
        lines.add_row(preset.name, preset.title, str(len(list(preset.runs()))), Text(preset.paper))
    console.out.print(lines)


def _print_table(table: Table) -> None:
    from rich.table import Table as Lines
    from rich.text import Text

    from annotator import console
    from evaluation.table_report import header, rows

    lines = Lines(title=Text(table.preset.title), box=None, pad_edge=False, header_style="bold")
    for name in header(table):
        lines.add_column(Text(name), justify="right" if name else "left")
    for row in rows(table):
        lines.add_row(*map(Text, row))
    console.out.print(lines)
    done, wanted = len(table.cells), len(list(table.preset.runs()))
    if done < wanted:
        console.out.print(f"{done} of {wanted} runs; missing data: {', '.join(table.missing)}")
