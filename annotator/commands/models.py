"""`annotate models ...`: which weights there are."""

from __future__ import annotations

from typing import Annotated

import typer

from annotator.commands.typed import Command

app = typer.Typer(no_args_is_help=True, help="Which weights there are, where they come from, and fetching them.")


@app.command("list", cls=Command)
def list_packs() -> None:
    """Packs, their roles, and whether the weights are at hand."""
    from annotator import printing

    printing.print_packs()


@app.command(cls=Command)
def show(pack: Annotated[str, typer.Argument(help="Pack name or .yaml.")]) -> None:
    """Every file of a pack: source, licence, size, hash."""
    from annotator import printing

    printing.print_pack(pack)


@app.command(cls=Command)
def pull(
    pack: Annotated[str, typer.Argument(help="Pack name or .yaml.")] = "paper",
    labeler: Annotated[str | None, typer.Option(help="Only what this labeler needs.")] = None,
) -> None:
    """Fetch a pack's weights and check their hashes."""
    from annotator import printing

    printing.pull(pack, labeler)
