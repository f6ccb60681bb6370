"""The top of the first page, and the photos that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from annotator.gallery.charts import class_chart, score_chart
from annotator.gallery.markup import Markup, fill, joined
from annotator.gallery.pages import Book, Links, page_links
from annotator.record import ImageRecord

FAILURES_SHOWN = 10
FAILURES_PER_PAGE = 500
REASONS_SHOWN = 10


def overview(book: Book, links: Links) -> Markup:
    """Key figures, charts, the first failures, and how the run was made."""
    first = {index: f"{links.page(page)}#class={index}" for index, page in book.where.first().items()}
    return fill(
        "overview",
        figures=joined(fill("figure", name=name, value=value) for name, value in _figures(book)),
        classes=class_chart(book.survey, book.look, first),
        scores=score_chart(book.survey),
        failures=_first_failures(book, links),
        settings=joined(fill("setting", name=name, value=value) for name, value in _settings(book)),
    )


def failure_pages(book: Book, links: Links) -> Iterator[tuple[str, Markup]]:
    """(file name, page) of the pages that list every failure; none where the overview has them all."""
    if book.survey.failed <= FAILURES_SHOWN:
        return
    records = book.run.failures()
    pages = -(-book.survey.failed // FAILURES_PER_PAGE)
    for number in range(1, pages + 1):
        rows = list(islice(records, FAILURES_PER_PAGE))
        table = _table(f"{book.survey.failed:,} photos failed", rows, page_links(number, pages, _failure_page))
        yield _failure_page(number), book.shell(f"{book.name}, failures", fill("list", table=table), links)


def _failure_page(number: int) -> str:
    return f"failures-{number:04d}.html"


def _figures(book: Book) -> Iterator[tuple[str, str]]:
    survey, classes = book.survey, book.look.classes
    yield "photos labelled", f"{survey.ok:,}"
    yield "photos failed", f"{survey.failed:,}"
    found = len(survey.photos)
    yield "classes found", f"{found:,}" if classes.open_labels else f"{found:,} of {len(classes):,}"
    if survey.segments:
        foreground = sum(area for index, area in survey.pixels.items() if index != classes.background)
        yield "pixels labelled", f"{foreground / survey.all_pixels:.0%}"
        yield "labels per photo", f"{survey.segments / survey.ok:.1f}"
        yield "mean confidence", f"{survey.score_sum / survey.segments:.2f}"


def _first_failures(book: Book, links: Links) -> Markup:
    failed = book.survey.failed
    if not failed:
        return Markup()
    reasons = ""
    if len(book.survey.reasons) < failed:
        most = book.survey.reasons.most_common(REASONS_SHOWN)
        reasons = joined(fill("reason", times=f"{times:,} ×", reason=reason) for reason, times in most)
    more = fill("page_link", link=links.files + _failure_page(1), text=f"All {failed:,} failures →", extra="")
    rows = list(islice(book.run.failures(), FAILURES_SHOWN))
    return _table(f"{failed:,} photos failed", rows, more if failed > FAILURES_SHOWN else "", reasons)


def _table(title: str, records: Sequence[ImageRecord], links: str, reasons: str = "") -> Markup:
    rows = joined(fill("failure", path=record.path, error=record.error) for record in records)
    return fill("failures", title=title, reasons=reasons, rows=rows, links=links)


def _settings(book: Book) -> Iterator[tuple[str, str]]:
    manifest = asdict(book.run.manifest)
    vocabulary = manifest.pop("vocabulary")
    if vocabulary:
        yield "vocabulary", f"{len(vocabulary['entries']):,} entries of {vocabulary['source']}"
    yield from _flat(manifest)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested values with their names in a row: config.settings.threshold."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", str(value)
