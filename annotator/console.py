"""What the command line prints: progress, tables, summaries. No decision is made here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from annotator.pace import Pace, duration, pace_text
from annotator.run import ImageRecord, RunReader
from annotator.step_progress import heard_by
from annotator.visible import visible
from annotator.wording import are, count

if TYPE_CHECKING:
    from annotator.listing import Listing
    from annotator.pipeline import Estimate, Job, Outcome
    from annotator.relabel import Relabelled
    from annotator.summary import RunSummary
    from evaluation.confusion import Evaluation
    from evaluation.open_evaluation import OpenEvaluation
    from exporters.base import ExportSummary

CLASSES_SHOWN = 30
FAILURES_SHOWN = 10
LOG_SECONDS = 30.0
GLANCE_SECONDS = 0.1
FIRST_LOOK_SECONDS = 0.2  # for counting photos before the first one is labelled
FIRST_LOOK_PHOTOS = 10_000
LOOK_SHARE = 0.05  # of a run's time, for counting the rest

PIPED_WIDTH = 200  # columns of tables that go to a file or another program


class Terminal(Console):
    """What the command line writes through: of the characters that a terminal obeys, only Rich's own get out."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text, keep="\n"))


out = Terminal(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Terminal(stderr=True, highlight=False, soft_wrap=True)


def status(message: str) -> None:
    err.print(escape(message))


@contextmanager
def loading(quiet: bool = False) -> Iterator[None]:
    """A sign of life while networks are read, and how many class names are embedded, which may take hours once.

    Where there is no terminal, a line every half minute unless `quiet`.
    """
    with err.status("loading networks and embedding class names") as spinner:
        shown, logged = 0.0, time.monotonic()

        def show(step: str, done: int, of: int) -> None:
            nonlocal shown, logged
            now = time.monotonic()
            if err.is_terminal and now - shown >= GLANCE_SECONDS:
                shown = now
                spinner.update(escape(f"{step}: {done:,} of {of:,}"))
            elif not err.is_terminal and not quiet and now - logged >= LOG_SECONDS:
                logged = now
                status(f"{step}: {done:,} of {of:,}")

        with heard_by(show):
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


class Watch(Protocol):
    """Follows a run: `begin` when it has begun, and a call with every photo's record."""

    def begin(self, listing: Listing) -> None: ...

    def __call__(self, record: ImageRecord) -> None: ...


class _Silent:
    def begin(self, listing: Listing) -> None: ...

    def __call__(self, record: ImageRecord) -> None: ...


class _RunBar:
    """Photos, rate and time left, failures. Photos are counted while the run goes on, in a share of its time."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, pace="", failures="")
        self._listing: Listing | None = None
        self._pace = Pace(1)
        self._failed = 0
        self._reported = self._logged = time.monotonic()

    def begin(self, listing: Listing) -> None:
        self._listing = listing
        listing.look_ahead(FIRST_LOOK_SECONDS, FIRST_LOOK_PHOTOS)
        if listing.finished:
            err.print(f"resuming: {are(listing.finished, 'photo')} finished")
        self._bar.update(self._task, total=self._goal, completed=listing.finished)

    def __call__(self, record: ImageRecord) -> None:
        now = time.monotonic()
        assert self._listing is not None, "begin comes first"
        self._listing.look_ahead(LOOK_SHARE * (now - self._reported))
        self._reported = time.monotonic()
        if not self._pace.done:
            self._pace = Pace(self._listing.at_once)
        self._pace.add(now)
        self._failed += record.status == "failed"
        done, total = self._pace.done, self._listing.total
        pace = pace_text(self._pace.rate, None if total is None else total - done)
        failures = f"{self._failed:,} failed" if self._failed else ""
        completed = self._listing.finished + done
        self._bar.update(
            self._task, completed=completed, total=self._goal, pace=pace, failures=failures and f"[red]{failures}[/]"
        )
        if not err.is_terminal and now - self._logged >= LOG_SECONDS:
            self._logged = now
            of = "" if self._goal is None else f"/{self._goal:,}"
            err.print(", ".join(filter(None, (f"{completed:,}{of} photos", pace, failures))))

    @property
    def _goal(self) -> int | None:
        """Photos that have a row when the run has ended."""
        assert self._listing is not None, "begin comes first"
        return None if self._listing.total is None else self._listing.finished + self._listing.total


@contextmanager
def progress(quiet: bool) -> Iterator[Watch]:
    """A bar with rate, time left and failures; a line every half minute where there is no terminal."""
    if quiet:
        yield _Silent()
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[pace]}"),
        TextColumn("{task.fields[failures]}"),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        yield _RunBar(bar)


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
    if outcome.changed.count:
        again = "it is" if outcome.changed.count == 1 else "they are"
        out.print(escape(f"{outcome.changed}; {again} labelled again"))
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
    summary = summarise(run.directory)
    if summary.makers:
        by = " · ".join(f"{maker} ({count(photos, 'photo')})" for maker, photos in summary.makers.most_common())
        out.print(f"made with {escape(by)}")
    print_summary(summary)
    if failures:
        for record in run.failures():
            out.print(f"{escape(repr(record.path))}: {escape(record.error)}")


def print_damage(run: RunReader) -> bool:
    """Says which parts are damaged, and whether any is."""
    from annotator.verify import verify

    with stages() as report:
        found = verify(run.directory, lambda done, of: report("verifying", done / of, f"{done:,} of {of:,} parts"))
    for part, reason, aside in found:
        out.print(escape(f"{part}: damaged ({reason}){'' if aside is None else f'; it is now {aside.name}'}"))
    if not found:
        out.print("every part holds what was written")
    elif all(each.aside for each in found):
        out.print(f"{are(len(found), 'part')} set aside; the same `annotate run` labels their photos again")
    else:
        out.print(f"{are(len(found), 'part')} damaged, but the run is being written or cannot be; nothing was changed")
    return bool(found)


def print_estimate(job: Job, estimate: Estimate) -> None:
    out.print(
        f"would label {estimate.todo:,} of {estimate.photos:,} photos "
        f"({estimate.finished:,} finished) into {escape(str(job.directory))}"
    )
    for name, value in job.manifest.config["settings"].items():
        out.print(f"  {name}: {value}")
    if estimate.changed.count:
        out.print(escape(f"{estimate.changed}"))
    if not estimate.todo:
        out.print("nothing is left to do")
    elif estimate.seconds_per_photo is not None:
        seconds = duration(estimate.todo * estimate.seconds_per_photo)
        out.print(
            f"about {seconds}, at {estimate.seconds_per_photo:.2f} s a photo ({estimate.sample} tried); "
            "nothing was written"
        )
    elif estimate.sample_failed:
        out.print("cannot estimate the time: none of the photos that were tried could be labelled; nothing was written")
    else:
        out.print("cannot estimate the time: this machine does not have the cluster's GPUs; nothing was written")


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
    for note in done.changed.notes():
        out.print(f"  note: {escape(note)}")


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
