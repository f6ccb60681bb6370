"""The terminal that the command line writes to, and what it shows while work goes on. No decision is made here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment

from annotator.pace import Pace, pace_text
from annotator.run import ImageRecord
from annotator.step_progress import heard_by
from annotator.visible import visible
from annotator.wording import are

if TYPE_CHECKING:
    from annotator.listing import Listing
    from annotator.pipeline import Job

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
