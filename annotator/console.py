"""What the command line prints: progress, tables, summaries. No decision is made here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from annotator.run import ImageRecord, RunReader

if TYPE_CHECKING:
    from annotator.pipeline import Estimate, Job, Outcome
    from annotator.relabel import Relabelled
    from annotator.summary import RunSummary
    from evaluation.confusion import Evaluation
    from evaluation.open_evaluation import OpenEvaluation
    from exporters.base import ExportSummary

CLASSES_SHOWN = 30
FAILURES_SHOWN = 10
LOG_SECONDS = 30.0

PIPED_WIDTH = 200  # columns of tables that go to a file or another program

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def status(message: str) -> None:
    err.print(escape(message))


@contextmanager
def loading() -> Iterator[None]:
    """A sign of life while networks are read and class names are embedded, which may take a minute once."""
    with err.status("loading networks and embedding class names"):
        yield


def announce(job: Job, quiet: bool) -> None:
    """What is about to happen."""
    if quiet:
        return
    classes = f"{len(job.vocabulary.classes)} classes" if job.vocabulary else "open labels"
    networks = job.networks
    err.print(
        f"{escape(job.config.labeler)} · pack {escape(networks.pack)} · {classes} · "
        f"{','.join(job.devices)} {job.precision} · {escape(str(job.source.root))} → {escape(str(job.directory))}"
    )


@contextmanager
def progress(job: Job, quiet: bool) -> Iterator[Callable[[ImageRecord], None]]:
    """A bar with rate, time left and failures; a line every half minute where there is no terminal."""
    from annotator.ledger import count_finished

    if quiet:
        yield lambda record: None
        return
    finished = 0 if job.config.overwrite else count_finished(job.directory, only_ok=job.config.retry_failed)
    total = sum(1 for _ in job.source)
    goal = min(total, finished + job.config.limit) if job.config.limit is not None else total
    if finished:
        err.print(f"resuming: {finished:,} of {total:,} photos are finished")
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failures]}"),
    )
    begun = logged = time.monotonic()
    done = failed = 0
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=goal, completed=finished, rate="", failures="")

        def report(record: ImageRecord) -> None:
            nonlocal done, failed, logged
            done += 1
            failed += record.status == "failed"
            rate = done / (time.monotonic() - begun)
            failures = f"[red]{failed} failed[/]" if failed else ""
            bar.update(task, advance=1, rate=f"{rate:.2f}/s", failures=failures)
            if not err.is_terminal and time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                left = (goal - finished - done) / rate
                err.print(f"{finished + done:,}/{goal:,} photos, {rate:.2f}/s, {duration(left)} left, {failed} failed")

        yield report


@contextmanager
def stages() -> Iterator[Callable[[str, float, str], None]]:
    """Training: a bar per stage; lines every half minute where there is no terminal.

    Yields report(stage, share done in [0, 1], detail).
    """
    stage, detail = TextColumn("{task.description:10}"), TextColumn("{task.fields[detail]}")
    logged = 0.0
    with Progress(stage, BarColumn(), TimeElapsedColumn(), detail, console=err, disable=not err.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, share: float, detail: str = "") -> None:
            nonlocal logged
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0, detail="")
            bar.update(tasks[stage], completed=share, detail=escape(detail))
            if not err.is_terminal and (share >= 1 or time.monotonic() - logged >= LOG_SECONDS):
                logged = time.monotonic()
                err.print(escape(f"{stage}: {share:.0%} {detail}".rstrip()))

        yield report


def print_outcome(outcome: Outcome, quiet: bool) -> None:
    if outcome.state == "interrupted":
        err.print("[yellow]stopped; everything labelled so far is safe, the same command goes on[/]")
    if quiet:
        return
    print_summary(outcome.summary)
    if not outcome.labelled:
        out.print(f"nothing was left to do in {escape(str(outcome.directory))}")
        return
    rate = outcome.labelled / outcome.seconds
    out.print(
        f"{count(outcome.labelled, 'photo')} in {duration(outcome.seconds)}, {rate:.2f} photos/s "
        f"→ {escape(str(outcome.directory))}"
    )
    if outcome.state == "complete" and outcome.summary.ok:
        out.print(f"next: annotate export {escape(str(outcome.directory))} --format coco --out labels.json")


def print_summary(summary: RunSummary) -> None:
    """Counts, classes by pixel share, failures by reason."""
    if summary.ok:
        table = Table("class", "photos", "pixels", box=None, pad_edge=False, header_style="bold")
        table.columns[1].justify = table.columns[2].justify = "right"
        for name, pixels in summary.classes.most_common(CLASSES_SHOWN):
            table.add_row(Text(name), f"{summary.photos_with[name]:,}", f"{pixels / summary.pixels:.1%}")
        nothing = summary.pixels - summary.classes.total()
        if nothing:
            table.add_row("[dim]nothing[/]", "", f"[dim]{nothing / summary.pixels:.1%}[/]")
        out.print(table)
        if len(summary.classes) > CLASSES_SHOWN:
            out.print(f"… and {len(summary.classes) - CLASSES_SHOWN} more classes")
    failed = f", [red]{summary.failed:,} failed[/]" if summary.failed else ""
    out.print(f"{count(summary.ok, 'photo')} labelled{failed}")
    for reason, times in summary.failures.most_common(FAILURES_SHOWN):
        out.print(f"  [red]{times:,} ×[/] {escape(reason)}")


def print_status(run: RunReader, failures: bool) -> None:
    from annotator.summary import summarise

    manifest = run.manifest
    out.print(
        f"{escape(str(run.directory))}: {escape(manifest.labeler)}, pack {escape(str(manifest.pack.get('name', '?')))}"
    )
    out.print(f"photos of {escape(manifest.image_root)}, last writer left it {manifest.state}")
    print_summary(summarise(run.directory))
    if failures:
        for record in run.failures():
            out.print(f"{escape(repr(record.path))}: {escape(record.error)}")


def print_estimate(job: Job, estimate: Estimate) -> None:
    todo = max(estimate.photos - estimate.finished, 0)
    if job.config.limit is not None:
        todo = min(todo, job.config.limit)
    out.print(
        f"would label {todo:,} of {estimate.photos:,} photos ({estimate.finished:,} are finished) "
        f"into {escape(str(job.directory))}"
    )
    for name, value in job.manifest.config["settings"].items():
        out.print(f"  {name}: {value}")
    if not todo:
        out.print("nothing is left to do")
    elif estimate.seconds_per_photo is None:
        out.print("no time can be told: no photo of the sample could be labelled")
    else:
        seconds = duration(todo * estimate.seconds_per_photo)
        out.print(
            f"about {seconds}, at {estimate.seconds_per_photo:.2f} s a photo ({estimate.sample} tried); "
            "nothing was written"
        )


def print_labelers(name: str | None) -> None:
    from labelers import base

    if name is not None:
        spec = base.find(name).spec
        out.print(f"{escape(spec.name)}: {escape(spec.paper)}; networks: {', '.join(spec.roles) or 'none'}")
        out.print(escape(base.parameters_text(name).rstrip() or "its settings are in its own package"))
        out.print(f"\nset one: annotate run --labeler {escape(name)} --set NAME=VALUE")
        return
    table = Table("labeler", "needs", "networks", "paper", box=None, pad_edge=False, header_style="bold")
    for each in base.available():
        spec = base.find(each).spec
        needs = "class names" if spec.needs_vocabulary else "nothing"
        table.add_row(
            spec.name, needs + (" with background" if spec.needs_background else ""), ", ".join(spec.roles), spec.paper
        )
    out.print(table)


def print_formats() -> None:
    from annotator.config import settings_of
    from annotator.spelling import option
    from exporters import base

    for name in base.available():
        registration = base.find(name)
        out.print(f"[bold]{escape(name)}[/]  {escape(registration.description)}")
        table = Table.grid(padding=(0, 2))
        for setting in settings_of(registration.options):
            default = f" [dim]default: {escape(setting.default)}[/]" if setting.default else ""
            table.add_row("", escape(option(setting.name, setting.value)), escape(setting.description) + default)
        out.print(table)


def print_export(summary: ExportSummary) -> None:
    written = f"{count(summary.images, 'photo')}, {count(summary.annotations, 'annotation')}"
    out.print(f"{written} → {escape(', '.join(map(str, summary.files)))}")
    for note in summary.notes:
        out.print(f"  note: {escape(note)}")


def print_packs() -> None:
    from annotator.models.packs import available_packs, describe, read_pack

    table = Table("pack", "files", "at hand", "what it is", box=None, pad_edge=False, header_style="bold")
    for name in available_packs():
        pack = read_pack(name)
        rows = describe(pack)
        here = sum(bool(row["path"]) for row in rows)
        table.add_row(name, str(len(rows)), "all" if here == len(rows) else str(here), pack.description)
    table.add_row("auto", "", "", "paper where its weights can be had, else embedded; the default")
    out.print(table)


def print_pack(name: str) -> None:
    from annotator.models.packs import describe, read_pack

    pack = read_pack(name)
    out.print(f"[bold]{escape(pack.name)}[/]  {escape(pack.description)}")
    for row in describe(pack):
        owner = f" (for {row['labeler']})" if row["labeler"] else ""
        out.print(f"\n[bold]{escape(row['slot'])}[/]{escape(owner)}  {escape(row['architecture'])}")
        for title, value in (
            ("source", " ".join(filter(None, (row["source"], row["size"])))),
            ("licence", row["licence"]),
            ("sha256", row["sha256"] or "recorded when it is first used"),
            ("file", row["path"] or "not on this machine"),
        ):
            if value:
                out.print(f"  {title}: {escape(value)}")


def pull(name: str, labeler: str | None) -> None:
    from annotator.models import packs

    rows = packs.pull(packs.read_pack(name), labeler, progress=status)
    out.print(f"{len(rows)} files of {escape(name)} are at hand and checked")


def print_evaluation(evaluation: Evaluation, files: Sequence[Path]) -> None:
    from evaluation.report import CLASS_COLUMNS, class_rows, summary_rows

    table = Table(*CLASS_COLUMNS, box=None, pad_edge=False, header_style="bold")
    for row in class_rows(evaluation):
        table.add_row(*(Text(cell) for cell in row))
    for column in table.columns[1:]:
        column.justify = "right"
    out.print(table)
    _print_end_of_report(summary_rows(evaluation), evaluation.notes, files)


def print_open_evaluation(evaluation: OpenEvaluation, files: Sequence[Path]) -> None:
    from evaluation.open_report import RESULT_COLUMNS, open_summary_rows, result_rows

    if rows := result_rows(evaluation):
        table = Table(*RESULT_COLUMNS, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        for column in table.columns[2:]:
            column.justify = "right"
        out.print(table)
    _print_end_of_report(open_summary_rows(evaluation), evaluation.notes, files)


def _print_end_of_report(rows: Sequence[tuple[str, str]], notes: Sequence[str], files: Sequence[Path]) -> None:
    for name, value in rows:
        out.print(f"[bold]{escape(name)}[/] {escape(value)}")
    for note in notes:
        out.print(f"  note: {escape(note)}")
    out.print(f"report → {escape(', '.join(map(str, files)))}")


def print_relabelled(done: Relabelled) -> None:
    directory = escape(str(done.run.directory))
    share = f" ({done.kept / done.segments:.0%})" if done.segments else ""
    out.print(f"{done.kept:,} of {count(done.segments, 'segment')}{share} kept a class → {directory}")
    out.print(f"what became of each: {directory}/mapping.csv")


def print_lines(lines: Sequence[Text]) -> None:
    for line in lines:
        out.print(line)


def print_picture(picture: Path) -> None:
    out.print(f"picture → {escape(str(picture))}")


def print_demo(overview: Path, own_photos: str) -> None:
    """own_photos: the command for them."""
    folder = overview.parent
    out.print(
        f"look at [bold]{escape(str(overview))}[/]; "
        f"masks, overlays, labels.json and the run lie in {escape(str(folder))}"
    )
    out.print(f"your own photos: {escape(own_photos)}")


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """3725 -> 1 h 2 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours / 24:.1f} days"
