"""`annotate bench`: how fast this machine labels, where the time goes, and how much of it the networks need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from annotator.commands.arguments import (
    DeviceOption,
    PrecisionOption,
    SetOption,
    WeightsOption,
    parse_settings,
    parse_weights,
)
from annotator.errors import ConfigError
from annotator.limits import Limits

FILES = 5000
"""Of a folder, so many are enough."""


def bench(
    labeler: Annotated[str, typer.Option(help="Method; see `annotate labelers`.")] = "dinoiser",
    pack: Annotated[str, typer.Option(help="Weights; see `annotate models`.")] = "auto",
    images: Annotated[
        str | None,
        typer.Option(
            help="Folder, file, glob in quotes, or a .txt with a path per line; repeated where there are too few.",
            show_default="the demo's photos",
        ),
    ] = None,
    vocab: Annotated[
        str | None,
        typer.Option(help="classes.txt, a .yaml, or names: 'cat, dog, background'.", show_default="the demo's"),
    ] = None,
    photos: Annotated[
        int | None, Limits(1, 10**6), typer.Option(help="Of a round.", show_default="what takes about 10 s")
    ] = None,
    rounds: Annotated[int, Limits(1, 1000), typer.Option(help="Each a run, then its calls to networks alone.")] = 3,
    weights: WeightsOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile_: Annotated[bool, typer.Option("--compile", help="torch.compile, as of a run.")] = False,
    batch_size: Annotated[int | None, typer.Option(help="Photos labelled together.", show_default="by device")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes; 0 decodes in this one.", show_default="by cores")
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures, too.", show_default="none")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw them, a .png.", show_default="none")
    ] = None,
) -> None:
    """Measure a run on this machine: photos per second, memory, each stage's time, beside the networks alone.

    The bound makes the calls to networks that the run made again, in the same process, in turns with the run.
    """
    from itertools import islice
    from tempfile import TemporaryDirectory

    from annotator import console, printing
    from annotator.bench.measure import measure, sample_classes, sample_photos
    from annotator.bench.picture import draw_bench
    from annotator.bench.table import headline, photos_line, result_lines, stage_table
    from annotator.config import RunConfig
    from annotator.files import replacing
    from annotator.finite_json import report_text
    from annotator.images import open_source
    from annotator.run import write_atomically
    from labelers.base import find

    for file in (json_, picture):
        if file is not None and not file.resolve().parent.is_dir():
            raise ConfigError(
                f"{file}: expected a file in a folder that exists, but {file.parent} is not there; make it"
            )
    if images is not None and "://" in images:
        raise ConfigError(f"{images}: expected photos on this machine, so that no network is measured; copy some")
    spec = find(labeler).spec
    with TemporaryDirectory(prefix="annotate-bench-") as place:
        files = (
            [ref.file for ref in islice(open_source(images), FILES)]
            if images
            else sample_photos(Path(place) / "photos")
        )
        if vocab is None and spec.needs_vocabulary:
            vocab = sample_classes(Path(place) / "classes.txt", spec.needs_background)
        given: dict[str, Any] = {"labeler": labeler, "pack": pack, "vocab": vocab, "device": device}
        given |= {"precision": precision, "compile": compile_, "batch_size": batch_size, "workers": workers}
        given |= {"weights": parse_weights(weights), "settings": parse_settings(set_)}
        measured = measure(RunConfig.load(None, given), files, photos, rounds, console.status)
    console.status(headline(measured))
    console.status(photos_line(measured))
    console.out.print(stage_table(measured))
    for line in result_lines(measured):
        console.out.print(line)
    if json_ is not None:
        write_atomically(json_, report_text(measured.to_json()))
        console.out.print(f"figures → {json_}", markup=False)
    if picture is not None:
        with replacing(picture) as opened:
            draw_bench(measured).save(opened, "PNG")
        printing.print_picture(picture)
