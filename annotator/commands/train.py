"""`annotate train ...`: making weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from annotator.commands.arguments import DeviceOption, WeightsOption, parse_weights
from annotator.commands.typed import Command
from annotator.errors import ConfigError
from annotator.limits import COUNT, Limits
from annotator.wording import shown

if TYPE_CHECKING:
    from annotator.commands.measure import Trained
    from annotator.models.networks import Networks
    from annotator.training.making import Plan
    from annotator.training.provenance import Made

app = typer.Typer(no_args_is_help=True, help="Making weights.")

Images = Annotated[str, typer.Option(help="Photos: a folder, a glob in quotes, or a .txt with a path per line.")]
Out = Annotated[Path, typer.Option(help="File to write, .safetensors; the same command resumes.")]
PackName = Annotated[str, typer.Option(help="Weights of the other networks; see `annotate models`.")]
Recipe = Annotated[
    Literal["paper", "steady"] | None,
    typer.Option(
        help="paper: the paper's schedule. steady: for small networks, on whose features that one drifts or learns "
        "nothing: found keeps the training-free masks as teachers throughout, heads sharpens the affinity's logit and "
        "learns faster.",
        show_default="steady for the embedded pack, else paper",
    ),
]
KeepCrops = Annotated[
    str | None,
    typer.Option(
        metavar="N|live",
        help="N crops through the networks once and for all, or new crops in every step. heads keeps them on the disk "
        "while it trains, 2.4 MB each with the papers' networks.",
        show_default="paper: live, steady: 1000",
    ),
]
Seed = Annotated[int, Limits(0, 2**63 - 1), typer.Option(help="Of crops and first weights.")]
Minutes = Annotated[
    float | None,
    Limits(0, 10**9),
    typer.Option(help="Stop after so many; the same command goes on.", show_default="none"),
]
BoardFolder = Annotated[Path | None, typer.Option(help="Write the curve for TensorBoard, too.", show_default="none")]


@app.command(cls=Command)
def embedded(
    data: Annotated[Path, typer.Option(help="Folder with coco, voc and photos; see docs/embedded-pack.md.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights; the same command resumes.")],
    steps: Annotated[int | None, COUNT, typer.Option(help="Of the image tower.", show_default="4000")] = None,
    minutes: Annotated[
        float | None,
        Limits(0, 10**9),
        typer.Option(help="Bound on the image tower's training.", show_default="none"),
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


@app.command(cls=Command)
def phrases(
    captions: Annotated[
        list[Path], typer.Option(help="COCO captions .json, or text with a caption per line; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    pack: Annotated[str, typer.Option(help="Pack whose CLIP embeds the phrases.")] = "embedded",
    size: Annotated[int | None, COUNT, typer.Option(help="Phrases of captions at most.", show_default="6000")] = None,
    min_count: Annotated[int | None, COUNT, typer.Option(help="Times that one must occur.", show_default="3")] = None,
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


@app.command(cls=Command)
def heads(
    images: Images,
    out: Out,
    pack: PackName = "auto",
    weights: WeightsOption = None,
    recipe: Recipe = None,
    photos: Annotated[
        int | None, typer.Option(help="Use this many of the photos, evenly spread.", show_default="1000")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps; the schedule is scaled to them. 0 trains nothing and only compares OUT.",
            show_default="paper: 6000, steady: 600",
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Crops per step.", show_default="16")] = None,
    keep_crops: KeepCrops = None,
    seed: Seed = 0,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads that draw crops ahead; no weight depends on it.", show_default="by cores"),
    ] = None,
    minutes: Minutes = None,
    tensorboard: BoardFolder = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="TRUTH",
            help="Then score maskclip, dinoiser with DINO's affinity and with these heads: masks or a COCO .json.",
            show_default="none",
        ),
    ] = None,
    compare_images: Annotated[str | None, typer.Option(help="The photos of --compare.", show_default="none")] = None,
    vocab: Annotated[str | None, typer.Option(help="Class names for --compare.", show_default="none")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train CLIP-DINOiser's two heads on photos without labels: DINO teaches the affinity, FOUND what is an object."""
    from annotator import console, printing
    from annotator.commands.measure import Comparison, compare_heads, comparison_lines
    from annotator.training.making import make_heads

    on = Comparison.of(compare, compare_images, vocab)
    plan = _plan(recipe, steps, keep_crops, minutes, photos=photos, batch=batch, seed=seed, tensorboard=tensorboard)
    trained = _make(make_heads, images, out, plan, pack, weights, device, workers)
    if trained is not None and on is not None:
        with console.stages() as report:
            scores = compare_heads(trained, on, out.with_suffix(".compare"), report)
        printing.print_lines(comparison_lines(scores))


@app.command(cls=Command)
def found(
    images: Images,
    out: Out,
    pack: PackName = "auto",
    weights: WeightsOption = None,
    recipe: Recipe = None,
    photos: Annotated[
        int | None, typer.Option(help="Use this many of the photos, evenly spread.", show_default="all")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps; the schedule is scaled to them. 0 trains nothing and only scores OUT.",
            show_default="paper: 500, steady: 300",
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Crops per step.", show_default="50")] = None,
    keep_crops: KeepCrops = None,
    seed: Seed = 0,
    minutes: Minutes = None,
    tensorboard: BoardFolder = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="Then score it: a folder of binary masks, STEM.png for each photo.", show_default="none"),
    ] = None,
    truth_images: Annotated[str | None, typer.Option(help="The photos of --truth.", show_default="none")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train FOUND's decoder on photos without labels: from its training-free masks, then from its own predictions."""
    from annotator import console, printing
    from annotator.commands.measure import saliency, saliency_lines
    from annotator.images import open_source
    from annotator.training.making import make_found

    if (truth is None) != (truth_images is None):
        raise ConfigError("expected --truth and --truth-images together, but one is missing; give it")
    if truth_images is not None:
        open_source(truth_images)
    plan = _plan(recipe, steps, keep_crops, minutes, photos=photos, batch=batch, seed=seed, tensorboard=tensorboard)
    trained = _make(make_found, images, out, plan, pack, weights, device)
    if trained is not None and truth is not None and truth_images is not None:
        with console.stages() as report:
            scores = saliency(trained, truth_images, truth, report)
        printing.print_lines(saliency_lines(scores))


def _plan(
    recipe: Literal["paper", "steady"] | None,
    steps: int | None,
    keep_crops: str | None,
    minutes: float | None,
    **others: Any,
) -> Plan | None:
    """None for no steps."""
    from annotator.training.making import Plan

    if keep_crops not in (None, "live") and not (str(keep_crops).isdecimal() and len(str(keep_crops)) < 10):
        raise ConfigError(f"--keep-crops: expected a number of crops or `live`, but got {shown(keep_crops)}")
    keep = None if keep_crops is None else 0 if keep_crops == "live" else int(keep_crops)
    return None if steps == 0 else Plan(recipe, steps=steps, keep=keep, minutes=minutes, **others)


def _make(
    make: Callable[[str, Networks, Path, Plan], Made | None],
    images: str,
    out: Path,
    plan: Plan | None,
    pack: str,
    weights: list[str] | None,
    device: str,
    workers: int | None = 0,
) -> Trained | None:
    """Trains and says how it went; None where it was stopped. plan: None takes `out` as it is."""
    from dataclasses import replace

    from annotator import console
    from annotator.commands.measure import Trained
    from annotator.models.packs import open_networks
    from labelers.base import find

    given = parse_weights(weights)
    networks = open_networks(pack, find("dinoiser").spec, device, weights=given)
    trained = Trained(out, pack, given, device)
    if plan is None:
        if not out.is_file():
            raise ConfigError(f"{out}: expected trained weights for --steps 0, but there are none; leave --steps out")
        return trained
    threads = networks.decode_workers if workers is None else workers
    with console.stages() as report:
        made = make(images, networks, out, replace(plan, workers=threads, report=report))
    if made is None:
        console.status("stopped; the same command goes on")
        return None
    held = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in made["held"].items())
    console.status(f"{made['photos']['count']:,} photos → {out}; held out: {held}")
    return trained
