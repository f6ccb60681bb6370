"""The command line: one function per command, which reads flags, calls the library and prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from annotator.errors import AnnotatorError

EXIT_ERROR, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="annotate",
    help="Turns a folder of photos into pixel masks with no human labels.\n\n"
    "Start with `annotate demo`, or in a folder with photos and a classes.txt: `annotate run`.\n\n"
    "`--debug`, anywhere, shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models = typer.Typer(no_args_is_help=True, help="Which weights there are, where they come from, and fetching them.")
app.add_typer(models, name="models")
train = typer.Typer(no_args_is_help=True, help="Making weights.")
app.add_typer(train, name="train")

RunArgument = Annotated[Path, typer.Argument(help="Run folder, as `annotate run` made it.", metavar="RUN")]


def _settings(given: list[str] | None) -> dict[str, Any]:
    from annotator.config import parse_setting

    return dict(parse_setting(text) for text in given or [])


@app.command()
def run(
    images: Annotated[
        str | None,
        typer.Option(
            help="Folder, file, glob in quotes, or a .txt with a path per line.", show_default="images/, else ."
        ),
    ] = None,
    labeler: Annotated[
        str | None, typer.Option(help="Method; see `annotate labelers`.", show_default="dinoiser")
    ] = None,
    vocab: Annotated[
        str | None,
        typer.Option(help="classes.txt, a .yaml, or names: 'cat, dog, background'.", show_default="classes.txt"),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Run folder; the same command resumes it.", show_default="runs/IMAGES-LABELER")
    ] = None,
    pack: Annotated[
        str | None,
        typer.Option(help="Weights: paper, embedded, auto or a .yaml; see `annotate models`.", show_default="auto"),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=FILE", help="Weights file for one role of the pack; repeatable.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A labeler's setting, such as delta=0.9; repeatable."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with any of these options; flags win over it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", show_default="auto")] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, bf16 (where the hardware has it).", show_default="auto")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Photos labelled together; never changes a mask.", show_default="by device")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes; 0 decodes in this one.", show_default="by cores")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Stop after this many photos; the same command goes on.")] = None,
    full_decode: Annotated[
        bool | None, typer.Option("--full-decode", help="Read large JPEGs in full: slower, nearly the same masks.")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Refuse photos with more pixels.", show_default="178956970")
    ] = None,
    max_failure_rate: Annotated[
        float | None, typer.Option(help="Stop when more than this share of photos fails.", show_default="0.5")
    ] = None,
    retry_failed: Annotated[bool | None, typer.Option("--retry-failed", help="Try failed photos again.")] = None,
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help="Start the run anew.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long it would take.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no summary.")] = False,
) -> None:
    """Label photos. Stops and resumes at any time; a bad photo costs itself only (exit code 3)."""
    from annotator import console
    from annotator.config import RunConfig, parse_pair

    given = {name: value for name, value in locals().items() if name in RunConfig.__dataclass_fields__}
    given["weights"], given["settings"] = dict(parse_pair(text) for text in weights or []), _settings(set_)
    settings = RunConfig.load(config, given)

    from annotator import pipeline

    with console.loading():
        job = pipeline.prepare(settings)
    console.announce(job, quiet)
    if dry_run:
        console.print_estimate(job, pipeline.estimate(job))
        return
    with console.progress(job, quiet) as report:
        outcome = pipeline.run(job, report)
    console.print_outcome(outcome, quiet)
    if outcome.state == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)
    if outcome.summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
def status(
    run: RunArgument, failures: Annotated[bool, typer.Option("--failures", help="List failed photos.")] = False
) -> None:
    """What a run holds so far: counts, classes, failures."""
    from annotator import console
    from annotator.run import open_run

    console.print_status(open_run(run), failures)


@app.command()
def export(
    run: RunArgument,
    format: Annotated[str, typer.Option(help="coco, mask-png, overlay; `--format list` says more.")] = "coco",
    out: Annotated[
        Path | None, typer.Option(help="File or folder to write.", show_default="RUN/exports/FORMAT")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="An option of the format, as `--format list` shows; repeatable."
        ),
    ] = None,
    segmentation: Annotated[
        str | None, typer.Option(help="coco: polygon, rle or rle-uncompressed.", show_default="polygon")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="coco: instances, panoptic or stuff.", show_default="instances")
    ] = None,
    instances: Annotated[bool | None, typer.Option("--instances", help="coco: a class's separate parts apart.")] = None,
    min_area: Annotated[
        int | None, typer.Option(help="coco: leave out smaller masks, in pixels.", show_default="0")
    ] = None,
    fill_holes: Annotated[bool | None, typer.Option("--fill-holes", help="coco: close holes in masks.")] = None,
    strict: Annotated[bool | None, typer.Option("--strict", help="coco: no `score`, only what COCO defines.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="mask-png: plain, voc, mmseg, ade or hf.", show_default="plain")
    ] = None,
    gray: Annotated[bool | None, typer.Option("--gray", help="mask-png: gray instead of palette PNGs.")] = None,
) -> None:
    """Write a run's masks for a trainer."""
    from annotator import console
    from annotator.run import open_run
    from exporters import base

    if format == "list":
        console.print_formats()
        return
    flags = {
        name: value
        for name, value in locals().items()
        if name in ("segmentation", "variant", "instances", "min_area", "fill_holes", "strict", "preset", "gray")
        and value is not None
    }
    summary = base.export(format, open_run(run), out or base.default_out(run, format), {**flags, **_settings(set_)})
    console.print_export(summary)


@app.command("eval")
def evaluate(
    run: RunArgument,
    truth: Annotated[Path, typer.Option(help="Folder of mask PNGs, or a COCO .json.")],
    metrics: Annotated[str, typer.Option(help="Which metrics, by commas; known: miou.")] = "miou",
    truth_classes: Annotated[
        Path | None,
        typer.Option(help="Class names of the mask PNGs' values.", show_default="classes.txt there, else the run's"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report.", show_default="RUN/eval")] = None,
) -> None:
    """Score a run against ground truth: per-class table, Markdown, JSON, CSV and a confusion matrix."""
    from annotator import console
    from annotator.run import open_run
    from evaluation.confusion import evaluate_run
    from evaluation.report import write_report
    from evaluation.truth import open_truth

    opened = open_run(run)
    names = tuple(name.strip() for name in metrics.split(",") if name.strip())
    evaluation = evaluate_run(opened, open_truth(truth, opened, truth_classes), names)
    console.print_evaluation(evaluation, write_report(evaluation, out or run / "eval"))


@app.command()
def labelers(name: Annotated[str | None, typer.Argument(help="One labeler: shows its settings.")] = None) -> None:
    """The methods there are, or one method's settings."""
    from annotator import console

    console.print_labelers(name)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    labeler: Annotated[str, typer.Option(help="Method; see `annotate labelers`.")] = "dinoiser",
    pack: Annotated[str, typer.Option(help="Weights; see `annotate models`.")] = "embedded",
) -> None:
    """Label a few sample photos and write masks, overlays, COCO and overview.png."""
    from annotator import console
    from annotator.demo import make_demo

    console.print_demo(make_demo(out, labeler, pack, console.status))


@models.command("list")
def models_list() -> None:
    """Packs, their roles, and whether the weights are at hand."""
    from annotator import console

    console.print_packs()


@models.command("show")
def models_show(pack: Annotated[str, typer.Argument(help="Pack name or .yaml.")]) -> None:
    """Every file of a pack: source, licence, size, hash."""
    from annotator import console

    console.print_pack(pack)


@models.command("pull")
def models_pull(
    pack: Annotated[str, typer.Argument(help="Pack name or .yaml.")] = "paper",
    labeler: Annotated[str | None, typer.Option(help="Only what this labeler needs.")] = None,
) -> None:
    """Fetch a pack's weights and check their hashes."""
    from annotator import console

    console.pull(pack, labeler)


@train.command("embedded")
def train_embedded(
    data: Annotated[Path, typer.Option(help="Folder with coco, voc and photos; see docs/embedded-pack.md.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights; steps whose result is there are skipped.")],
    minutes: Annotated[
        float | None, typer.Option(help="Bound on each of the two rounds of training.", show_default="none")
    ] = None,
) -> None:
    """Rebuild the embedded pack's weights from photos, on the CPU."""
    import math

    from annotator import console
    from annotator.training.embedded.rebuild import rebuild

    rebuild(data, out, minutes or math.inf, console.status)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"annotate {version('annotate')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: an error of the user is one line, an error of ours names the way to its traceback."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except AnnotatorError as error:
        if debug:
            raise
        _die(str(error), EXIT_USAGE)
    except BrokenPipeError:  # `annotate status RUN | head`
        sys.stderr.close()
        sys.exit(EXIT_ERROR)
    except OSError as error:
        if debug:
            raise
        _die(f"{error.filename or 'the system'}: {error.strerror or error}", EXIT_ERROR)
    except Exception as error:
        if debug:
            raise
        _die(f"internal error: {type(error).__name__}: {error}; --debug shows the traceback", EXIT_ERROR)


def _die(message: str, code: int) -> None:
    sys.stderr.write(f"annotate: {' '.join(message.split())}\n")
    sys.exit(code)
