"""The command line: one function per command, which reads flags, calls the library and prints."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from annotator.characters import visible
from annotator.commands import bench, convert, evaluate, models, report, results, review, train
from annotator.commands.arguments import (
    RunArgument,
    SetOption,
    WeightsOption,
    parse_settings,
    parse_weights,
    refuse_arguments,
)
from annotator.commands.typed import Command
from annotator.errors import AnnotatorError
from annotator.models.devices import keep_freed_memory

EXIT_ERROR, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130

#: Of click, or of the copy of it that newer versions of typer bring.
ClickError: type[typer.BadParameter] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="annotate",
    help="Turns a folder of photos into pixel masks with no human labels.\n\n"
    "Start with `annotate demo`, or in a folder with photos and a classes.txt: `annotate run`.\n\n"
    "`--debug`, anywhere, shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
app.add_typer(train.app, name="train")


@app.command(cls=Command, context_settings={"allow_extra_args": True})  # to refuse them in plain words
def run(
    context: typer.Context,
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
    weights: WeightsOption = None,
    set_: SetOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML with any of these options; flags win over it.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="auto, cpu, mps, cuda, cuda:1, several (cuda:0,cuda:1) or all (cuda:*).", show_default="auto"
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, bf16 (where the hardware has it).", show_default="auto")
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile", help="torch.compile: minutes at the start; for long runs on a GPU."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Photos labelled together; never changes a mask.", show_default="by device")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes; 0 decodes in this one.", show_default="by cores")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="local, or ray: actors on this machine or a cluster.", show_default="local")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to join, HOST:6379 or auto.", show_default="$RAY_ADDRESS, else one started here"
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            help="Ray actors, each with its own networks.", show_default="one per GPU; without GPUs, one per two CPUs"
        ),
    ] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="0.5: two actors share a GPU; 0: CPUs only.", show_default="1 if there are any")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Stop after this many photos; the same command goes on.")] = None,
    full_decode: Annotated[
        bool | None,
        typer.Option("--full-decode", help="Read large photos in full: slower, nearly the same masks."),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Refuse photos with more pixels.", show_default="178956970")
    ] = None,
    max_failure_rate: Annotated[
        float | None,
        typer.Option(
            help="Stop when more than this share of photos fails, or 32 in a row cannot be read or labelled; "
            "1: record whatever fails.",
            show_default="0.5",
        ),
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
    from annotator.config import RunConfig

    refuse_arguments(context.args, images)
    given = {name: value for name, value in locals().items() if name in RunConfig.__dataclass_fields__}
    given["compile"] = compile_
    given["weights"], given["settings"] = parse_weights(weights), parse_settings(set_)
    settings = RunConfig.load(config, given)

    from annotator import pipeline

    with console.loading():
        job = pipeline.prepare(settings)
    pipeline.check(job)
    console.announce(job, quiet)
    if dry_run:
        console.print_estimate(job, pipeline.estimate(job))
        return
    with console.progress(quiet) as watch:
        outcome = pipeline.run(job, watch, watch.begin)
    console.print_outcome(outcome, quiet)
    if outcome.state == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)
    if outcome.summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command(cls=Command)
def status(
    run: RunArgument,
    failures: Annotated[bool, typer.Option("--failures", help="List failed photos.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read it all, and set aside what a disk or a transfer has damaged.")
    ] = False,
) -> None:
    """What a run holds so far: counts, classes, failures."""
    from annotator import console
    from annotator.run import open_run

    opened = open_run(run)
    if verify and console.print_damage(opened):
        raise typer.Exit(EXIT_SOME_FAILED)
    console.print_status(opened, failures)


app.command(cls=Command)(results.export)
app.command(cls=Command)(convert.convert)
app.command(cls=Command)(review.review)
app.command(cls=Command)(report.report)
app.command("eval", cls=Command)(evaluate.evaluate)
app.command(cls=Command)(results.relabel)
app.command(cls=Command)(results.show)
app.command(cls=Command)(bench.bench)


@app.command(cls=Command)
def labelers(name: Annotated[str | None, typer.Argument(help="One labeler: shows its settings.")] = None) -> None:
    """The methods there are, or one method's settings."""
    from annotator import console

    console.print_labelers(name)


@app.command(cls=Command)
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    labeler: Annotated[str, typer.Option(help="Method; see `annotate labelers`.")] = "dinoiser",
    pack: Annotated[str, typer.Option(help="Weights; see `annotate models`.")] = "embedded",
    set_: SetOption = None,
) -> None:
    """Label a few sample photos and write masks, overlays, COCO and overview.png."""
    from annotator import console
    from annotator.demo import make_demo
    from labelers.base import find

    overview = make_demo(out, labeler, pack, console.status, parse_settings(set_))
    classes = f" --vocab {out / 'classes.txt'}" if find(labeler).spec.needs_vocabulary else ""
    console.print_demo(overview, f"annotate run --labeler {labeler} --images DIR{classes}")


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
    keep_freed_memory()
    logging.lastResort = _LastResort(logging.WARNING)
    try:
        sys.exit(app(prog_name="annotate", standalone_mode=False) or 0)  # what typer.Exit says
    except ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            sys.exit(error.exit_code)
        _die(f"{error.format_message().rstrip('.')}{_help_of(error)}", EXIT_USAGE)
    except typer.Abort:
        _die("aborted", EXIT_ERROR)
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


def _help_of(error: typer.BadParameter) -> str:
    """Where the command's options are described."""
    context = getattr(error, "ctx", None)
    return f"; `{context.command_path} --help` lists what it takes" if context else ""


class _LastResort(logging.StreamHandler):
    """Warnings of the tool and of libraries, on what is the standard error at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(visible(self.format(record), keep="\n") + "\n")


def _die(message: str, code: int) -> None:
    sys.stderr.write(f"annotate: {visible(' '.join(message.split()))}\n")
    sys.exit(code)
