"""What several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

RunArgument = Annotated[Path, typer.Argument(help="Run folder, as `annotate run` made it.", metavar="RUN")]
PackOption = Annotated[
    str | None, typer.Option(help="Weights; see `annotate models`.", show_default="the pack that made the run")
]
WeightsOption = Annotated[
    list[str] | None, typer.Option(metavar="ROLE=FILE", help="Weights file for one role of the pack; repeatable.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A labeler's setting, such as delta=0.9; repeatable."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


def parse_weights(given: list[str] | None) -> dict[str, str]:
    """Slot -> file of `--weights ROLE=FILE`."""
    from annotator.config import parse_pair

    return dict(parse_pair(text) for text in given or [])


def parse_settings(given: list[str] | None) -> dict[str, Any]:
    """The values of `--set NAME=VALUE`."""
    from annotator.config import parse_setting

    return dict(parse_setting(text) for text in given or [])
