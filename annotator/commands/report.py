"""`annotate report --preset`: a table of a paper, run row by row, scored and drawn beside the paper's figures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from annotator.commands.arguments import DeviceOption, WeightsOption, parse_weights

if TYPE_CHECKING:
    from evaluation.table_report import Table

LIST = "list"


def report(
    preset: Annotated[
        str | None,
        typer.Option(help="A table of configs/tables, or a .yaml; `list` says which there are.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds the benchmarks' files.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; the same command resumes it.", show_default="reports/PRESET")
    ] = None,
    pack: Annotated[str | None, typer.Option(help="Weights; see `annotate models`.", show_default="auto")] = None,
    weights: WeightsOption = None,
    subset: Annotated[
        int | None, typer.Option(help="So many photos of each benchmark, evenly spread.", show_default="all of them")
    ] = None,
    device: DeviceOption = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start its runs anew.")] = False,
) -> None:
    """Make a table of a paper: label and score every row on every benchmark, as Markdown, JSON and pictures."""
    from annotator import console
    from annotator.cli import EXIT_SOME_FAILED
    from annotator.commands.table_runs import TableMaker
    from annotator.errors import ConfigError
    from evaluation.table_report import write_table
    from evaluation.tables import available, load_preset

    if preset == LIST:
        _print_presets()
        return
    if preset is None:
        raise ConfigError(f"expected --preset, one of {', '.join(available())}; --preset {LIST} says what they are")
    if data is None or not data.is_dir():
        raise ConfigError(f"expected --data, the folder that holds the benchmarks, but got {data or 'none'}")
    chosen = load_preset(preset)
    folder = out or Path("reports") / chosen.name
    command = _command(preset=preset, data=data, out=folder, pack=pack, weights=weights, subset=subset)
    maker = TableMaker(data, folder, pack, parse_weights(weights), subset, device, overwrite)
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
