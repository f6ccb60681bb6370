"""A run as a folder of web pages that open from the file system: photos under their masks, charts, failures."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from annotator.blame import blaming
from annotator.gallery.cards import Card, make_card
from annotator.gallery.edition import INDEX, new_edition
from annotator.gallery.look import Look
from annotator.gallery.markup import joined, package_text
from annotator.gallery.overview import failure_pages, overview
from annotator.gallery.pages import PER_PAGE, Book, ClassPages, Links
from annotator.gallery.spool import Spool
from annotator.gallery.survey import Sort, Survey, survey_run
from annotator.limits import COUNT
from annotator.run import RunReader
from annotator.spelling import option
from exporters.options import SelectedRun
from exporters.output import refuse_among_photos

WORKERS = min(os.cpu_count() or 1, 8)
"""Threads that draw; Pillow lets go of the interpreter."""

INSIDE = Links("", f"../{INDEX}")
"""From a page among the files."""

Progress = Callable[[str, float, str], None]
"""Stage, share done in [0, 1], detail."""


@dataclass(frozen=True)
class ReportSummary:
    """What was written. shown: photos on pages; missing: those of them that can no longer be read; notes: sentences
    about photos that were left out."""

    index: Path
    photos: int
    failed: int
    shown: int
    missing: int
    pages: int
    notes: list[str]


def make_report(
    run: RunReader,
    out: Path,
    *,
    sort: Sort = "name",
    limit: int | None = None,
    overwrite: bool = False,
    report: Progress = lambda stage, share, detail: None,
) -> ReportSummary:
    """Writes a run's report into a new folder, or in the place of an older one of the same run.

    Memory holds the paths of the photos that are shown, one page and a few photos.

    limit:     only the first so many photos in the order of `sort` are shown; the charts count all.
    overwrite: takes the place of another run's report, too.
    """
    if limit is not None:
        COUNT.check(limit, option("limit"))
    run = SelectedRun(run)  # photos with scores that are not finite count as failed
    refuse_among_photos(run, out)
    with blaming(out), new_edition(out, run.manifest.config_hash, overwrite) as (folder, publish):
        look, rows = Look.of(run), max(len(run), 1)
        survey = survey_run(run, look.classes, sort, limit, lambda done: report("reading", done / rows, ""))
        with TemporaryFile(dir=folder) as waiting:
            cards: Spool[Card] = Spool(waiting, len(survey.order))
            for done, (place, card) in enumerate(_draw(run, survey, look, folder), start=1):
                cards.put(place, card)
                report("drawing", done / len(survey.order), f"{done:,} of {len(survey.order):,} photos")
            places = cards.filled()
            pages = [places[start : start + PER_PAGE] for start in range(0, len(places), PER_PAGE)] or [[]]
            where, missing = _classes_on(pages, cards)
            book = Book(run, survey, look, sort, len(pages), len(places), where)
            _write_inside(book, pages, cards, folder, report)
            links = Links(f"{folder.name}/", INDEX)
            body = joined([overview(book, links), book.photos(1, list(cards.read(pages[0])), links)])
            publish(book.shell(book.name, body, links))
    return ReportSummary(out / INDEX, survey.ok, survey.failed, len(places), missing, len(pages), run.changed.notes())


def _draw(run: RunReader, survey: Survey, look: Look, folder: Path) -> Iterator[tuple[int, Card]]:
    """Each photo to show with its place, in path order; a few are under way at a time."""
    under_way: deque[tuple[int, Future[Card]]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        for record in run.records():
            if record.status != "ok" or record.path not in survey.order:
                continue
            place = survey.order[record.path]
            under_way.append((place, pool.submit(make_card, record, run.image_root, look, folder, place)))
            if len(under_way) > 2 * WORKERS:
                place, future = under_way.popleft()
                yield place, future.result()
        for place, future in under_way:
            yield place, future.result()


def _classes_on(pages: Sequence[list[int]], cards: Spool[Card]) -> tuple[ClassPages, int]:
    """Where each class is, and how many photos could not be read."""
    where, missing = ClassPages(), 0
    for number, page in enumerate(pages, start=1):
        shown = list(cards.read(page))
        where.add(number, shown)
        missing += sum(not card.has_photo for card in shown)
    return where, missing


def _write_inside(book: Book, pages: Sequence[list[int]], cards: Spool[Card], folder: Path, report: Progress) -> None:
    """All but index.html."""
    for number, page in enumerate(pages[1:], start=2):
        body = book.photos(number, list(cards.read(page)), INSIDE)
        _save(folder / INSIDE.page(number), book.shell(f"{book.name}, page {number}", body, INSIDE))
        report("writing", number / len(pages), "")
    for name, html in failure_pages(book, INSIDE):
        _save(folder / name, html)
    for name in ("report.css", "report.js"):
        _save(folder / name, package_text(f"assets/{name}"))


def _save(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
