"""`annotate train ...`: making weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Making weights.")


@app.command()
def embedded(
    data: Annotated[Path, typer.Option(help="Folder with coco, voc and photos; see docs/embedded-pack.md.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights; the same command resumes.")],
    steps: Annotated[int | None, typer.Option(help="Of the image tower.", show_default="4000")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Bound on the image tower's training.", show_default="none")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """Rebuild the embedded pack's weights from photos, in a few hours on a CPU."""
    from dataclasses import replace

    from annotator import console
    from annotator.models.devices import resolve_device
    from annotator.training.embedded.clip import Recipe
    from annotator.training.embedded.rebuild import Recipes, rebuild

    recipe = Recipe()
    recipe = replace(recipe, steps=steps or recipe.steps, minutes=minutes or recipe.minutes)
    with console.stages() as report:
        rebuild(data, out, report, Recipes(clip=recipe), resolve_device(device))


@app.command()
def phrases(
    captions: Annotated[
        list[Path], typer.Option(help="COCO captions .json, or text with a caption per line; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    pack: Annotated[str, typer.Option(help="Pack whose CLIP embeds the phrases.")] = "embedded",
    size: Annotated[int | None, typer.Option(help="Phrases of captions at most.", show_default="6000")] = None,
    min_count: Annotated[int | None, typer.Option(help="Times that one must occur.", show_default="3")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Build the phrase bank that zeroguide's captioner `retrieval` chooses from."""
    from annotator import console
    from annotator.models.packs import open_networks
    from annotator.training.phrases import MIN_COUNT, SIZE, train_phrases
    from labelers.base import find

    networks = open_networks(pack, find("zeroguide").spec, device)
    with console.stages() as report:
        bank = train_phrases(
            captions,
            networks,
            out,
            size=SIZE if size is None else size,
            min_count=MIN_COUNT if min_count is None else min_count,
            progress=lambda done, whole: report("phrases", done / whole, f"{done:,}"),
        )
    console.status(f"{len(bank.phrases):,} phrases → {out}")
