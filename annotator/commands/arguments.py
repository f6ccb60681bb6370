"""What several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from annotator.config import PrecisionChoice
from annotator.errors import ConfigError

PAPERS_PRECISION: PrecisionChoice = "fp32"
"""What the papers' figures were measured in; with bf16 a few percent of the labels are others."""


def parse_run(text: str) -> Path:
    """A run's folder, or its URL."""
    from annotator.storage import place

    return place(text)


def parse_local_run(text: str) -> Path:
    from annotator.storage import is_remote

    run = parse_run(text)
    if is_remote(run):
        raise ConfigError(f"{text}: expected a run in a folder of this machine, but got a URL; copy it here first")
    return run


RunArgument = Annotated[
    Path,
    typer.Argument(parser=parse_run, help="Run folder, as `annotate run` made it, or its URL.", metavar="RUN"),
]
LocalRunArgument = Annotated[
    Path, typer.Argument(parser=parse_local_run, help="Run folder, as `annotate run` made it.", metavar="RUN")
]
ImagesOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Where the run's photos are now: a folder or its URL.",
        show_default="where the run found them",
    ),
]
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
PrecisionOption = Annotated[PrecisionChoice, typer.Option(help="auto, fp32, bf16 (where the hardware has it).")]


def results_in(run: Path, out: Path | None, default: str) -> Path:
    """Where a command writes what it makes of a run: `out`, or the place of that name in the run."""
    from annotator.files import refuse_leading_out
    from annotator.storage import is_remote, is_url

    if out is not None and is_url(str(out).replace(":/", "://", 1)):  # `Path` makes one slash of two
        raise ConfigError(f"--out {out}: expected a folder or file of this machine, but got a URL; only runs go there")
    if out is None and is_remote(run):
        raise ConfigError(f"{run}: expected --out, a folder or file of this machine, as the run is at a URL")
    if out is not None:
        return out
    place = run / default
    refuse_leading_out(place if place.is_dir() else place.parent, run)
    return place


def parse_weights(given: list[str] | None) -> dict[str, str]:
    """Slot -> file of `--weights ROLE=FILE`."""
    from annotator.config import parse_pair

    return dict(parse_pair(text) for text in given or [])


def parse_settings(given: list[str] | None) -> dict[str, Any]:
    """The values of `--set NAME=VALUE`."""
    from annotator.config import parse_setting

    return dict(parse_setting(text) for text in given or [])


def refuse_arguments(extra: Sequence[str], images: str | None) -> None:
    """For a command that takes options only: what the shell makes of a glob without quotes comes here."""
    if not extra:
        return
    if images is not None and all(Path(each).exists() for each in [images, *extra]):
        glob = Path(images).parent / f"*{Path(images).suffix}"
        raise ConfigError(
            f"--images {images}: expected one value, but got {1 + len(extra)}, as the shell does where a glob is not "
            f"quoted; put it in quotes: --images '{glob}'"
        )
    raise ConfigError(f"expected options only, but got {extra[0]!r}; name photos with --images")
