"""What becomes of a run: exports, other labels, a look at one photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from annotator.commands.arguments import (
    DeviceOption,
    ImagesOption,
    PackOption,
    RunArgument,
    WeightsOption,
    parse_settings,
    parse_weights,
    results_in,
)
from annotator.limits import SHARE
from annotator.wording import count
from exporters.descriptions import DESCRIPTIONS

EXPORT_FLAGS = (
    "segmentation",
    "variant",
    "instances",
    "min_area",
    "fill_holes",
    "strict",
    "preset",
    "gray",
    "simplify",
    "shape",
    "split",
    "seed",
    "photos",
    "min_score",
    "min_count",
    "top",
)


def export(
    run: RunArgument,
    format: Annotated[
        str,
        typer.Option(
            help="coco, mask-png, yolo-seg, voc, labelme, cvat, label-studio, datumaro, hf-dataset, overlay; "
            "`--format list` says which takes what."
        ),
    ] = "coco",
    out: Annotated[
        Path | None, typer.Option(help="File or folder to write.", show_default="RUN/exports/FORMAT")
    ] = None,
    images: ImagesOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="An option of the format, as `--format list` shows; repeatable."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help=DESCRIPTIONS["split"])] = None,
    seed: Annotated[int | None, typer.Option(help=DESCRIPTIONS["seed"], show_default="0")] = None,
    photos: Annotated[str | None, typer.Option(help=DESCRIPTIONS["photos"], show_default="by format")] = None,
    only: Annotated[
        Literal["all", "approved"], typer.Option(help="approved: what a person approved in `annotate review`.")
    ] = "all",
    min_score: Annotated[float | None, typer.Option(help=DESCRIPTIONS["min_score"], show_default="0")] = None,
    instances: Annotated[bool | None, typer.Option("--instances", help=DESCRIPTIONS["instances"])] = None,
    min_area: Annotated[int | None, typer.Option(help=DESCRIPTIONS["min_area"], show_default="0")] = None,
    fill_holes: Annotated[bool | None, typer.Option("--fill-holes", help=DESCRIPTIONS["fill_holes"])] = None,
    simplify: Annotated[float | None, typer.Option(help=DESCRIPTIONS["simplify"], show_default="0")] = None,
    shape: Annotated[
        str | None, typer.Option(help=f"labelme, cvat: {DESCRIPTIONS['shape']}", show_default="by format")
    ] = None,
    segmentation: Annotated[
        str | None, typer.Option(help=f"coco: {DESCRIPTIONS['segmentation']}", show_default="polygon")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help=f"coco: {DESCRIPTIONS['variant']}", show_default="instances")
    ] = None,
    strict: Annotated[bool | None, typer.Option("--strict", help=f"coco: {DESCRIPTIONS['strict']}")] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"mask-png: {DESCRIPTIONS['preset']}", show_default="plain")
    ] = None,
    gray: Annotated[bool | None, typer.Option("--gray", help=f"mask-png: {DESCRIPTIONS['gray']}")] = None,
    min_count: Annotated[int | None, typer.Option(help=DESCRIPTIONS["min_count"], show_default="1")] = None,
    top: Annotated[int | None, typer.Option(help=DESCRIPTIONS["top"], show_default="all")] = None,
) -> None:
    """Write a run's masks for a trainer."""
    from functools import partial

    from annotator import printing
    from annotator.corrections import Tally, corrected, pulls
    from annotator.whereabouts import open_run_at
    from exporters import base

    if format == "list":
        printing.print_formats()
        return
    flags = {name: value for name, value in locals().items() if name in EXPORT_FLAGS and value is not None}
    options = {**flags, **parse_settings(set_)}
    opened, tally = open_run_at(run, images), Tally()
    amend = partial(corrected, run=opened, only_approved=only == "approved", tally=tally)
    reviewed = only == "approved" or pulls(run)
    target = results_in(run, out, base.default_out(Path(), format).as_posix())
    summary = base.export(format, opened, target, options, amend=amend if reviewed else None)
    if reviewed:
        summary.notes.append(
            f"as reviewed: {count(tally.edited, 'photo')} edited, {tally.approved:,} approved, "
            f"{tally.left_out:,} left out"
        )
    printing.print_export(summary)


def relabel(
    run: RunArgument,
    vocab: Annotated[str, typer.Option(help="classes.txt, a .yaml, or names: 'cat, dog, background'.")],
    by: Annotated[
        Literal["st", "tt"], typer.Option(help="st: the segments' CLIP embeddings; tt: the labels' own text.")
    ] = "st",
    threshold: Annotated[
        float | None, SHARE, typer.Option(help="Cosine from which on a class holds.", show_default="st 0.1, tt 0.5")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the new run; the same command resumes it.", show_default="RUN-BY")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start the new run anew.")] = False,
    pack: PackOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Map free-text labels to class names, as a run of its own; mapping.csv says what became of every segment."""
    from annotator import console, printing
    from annotator.relabel import relabel as relabel_run
    from annotator.run import open_run
    from annotator.run_networks import networks_of
    from annotator.storage import is_remote
    from annotator.vocabulary import as_vocabulary

    opened = open_run(run)
    with console.loading():
        networks = networks_of(opened, pack, device, parse_weights(weights))
    target = run.with_name(f"{run.name}-{by}") if out is None and not is_remote(run) else results_in(run, out, "")
    done = relabel_run(opened, as_vocabulary(vocab), by, target, networks, threshold=threshold, overwrite=overwrite)
    printing.print_relabelled(done)


def show(
    run: RunArgument,
    image: Annotated[str, typer.Argument(help="A photo of the run; the end of its path will do.", metavar="IMAGE")],
    out: Annotated[
        Path | None, typer.Option(help="Picture to write, .png or .jpg.", show_default="RUN/show/IMAGE.png")
    ] = None,
    images: ImagesOption = None,
) -> None:
    """One photo's segments: the tree in which they were joined, with captions and scores, and a picture of them."""
    from annotator import printing
    from annotator.decode import decode
    from annotator.errors import ConfigError, ImageError
    from annotator.show import SIDE, draw, find_record, tree_lines
    from annotator.whereabouts import open_run_at
    from exporters.output import OutputFolder

    opened = open_run_at(run, images)
    record = find_record(opened, image)
    printing.print_lines(tree_lines(record))
    if record.status == "failed":
        return
    picture = results_in(run, out, f"show/{record.path}.png")
    format = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(picture.suffix.lower())
    if format is None:
        raise ConfigError(f"--out {picture}: expected a name that ends in .png or .jpg")
    path = opened.image_root / record.path
    try:
        photo = decode(path, working_side=SIDE).pixels
    except ImageError as error:
        raise ImageError(f"{path}: {error}; only the tree can be shown, unless --images says where it is") from None
    with OutputFolder(opened, picture.parent).replacing(picture) as file:
        draw(record, photo).save(file, format)
    printing.print_picture(picture)
