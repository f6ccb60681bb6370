"""Labels from one format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from annotator.commands.arguments import parse_settings
from exporters.descriptions import DESCRIPTIONS

EXPORT_FLAGS = ("split", "seed", "photos", "simplify", "instances")


def convert(
    source: Annotated[
        Path, typer.Argument(help="COCO .json, a folder of mask PNGs, or an hf-dataset export.", metavar="SOURCE")
    ],
    to: Annotated[str, typer.Option(help="Format; see `annotate export RUN --format list`.", metavar="FORMAT")],
    out: Annotated[Path, typer.Option(help="File or folder to write.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photos: to bring them along, and to name them.", metavar="DIR")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="classes.txt, .yaml or id2label.json: what a folder's values mean; for COCO the order of the classes.",
            metavar="FILE",
            show_default="in or beside SOURCE",
        ),
    ] = None,
    overlap: Annotated[
        Literal["refuse", "smaller-on-top"],
        typer.Option(help="Of COCO annotations of several classes, which most formats cannot hold."),
    ] = "refuse",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the format; repeatable.")
    ] = None,
    split: Annotated[str | None, typer.Option(help=DESCRIPTIONS["split"])] = None,
    seed: Annotated[int | None, typer.Option(help=DESCRIPTIONS["seed"], show_default="0")] = None,
    photos: Annotated[str | None, typer.Option(help=DESCRIPTIONS["photos"], show_default="by format")] = None,
    simplify: Annotated[float | None, typer.Option(help=DESCRIPTIONS["simplify"], show_default="0")] = None,
    instances: Annotated[bool | None, typer.Option("--instances", help=DESCRIPTIONS["instances"])] = None,
) -> None:
    """Write labels of another tool, COCO or mask PNGs, in any export format; says what that does not keep."""
    from annotator import printing
    from annotator.imported.convert import convert

    flags = {name: value for name, value in locals().items() if name in EXPORT_FLAGS and value is not None}
    options = {**flags, **parse_settings(set_)}
    printing.print_export(convert(source, to, out, options, images=images, classes=classes, overlap=overlap))
