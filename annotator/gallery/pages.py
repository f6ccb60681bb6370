"""Pages of photos: the cards, the legend that filters them, and links from page to page."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from annotator.gallery.cards import Card, Label
from annotator.gallery.look import Look, swatch
from annotator.gallery.markup import Markup, fill, joined, script_json
from annotator.gallery.survey import Sort, Survey
from annotator.prediction import NOTHING
from annotator.run import RunReader
from annotator.visible import visible

PER_PAGE = 60
LABELS_SHOWN = 6
"""The others of a photo are folded away."""


@dataclass(frozen=True)
class Links:
    """Relative links from a page. files: where all but the first page lie, "" from within; home: the first page."""

    files: str
    home: str

    def page(self, number: int) -> str:
        """From 1."""
        return self.home if number == 1 else f"{self.files}page-{number:04d}.html"


class ClassPages:
    """On which pages each class is, in increasing order; 4 bytes for each class of a page."""

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}

    def add(self, page: int, cards: Sequence[Card]) -> None:
        for index in sorted({label.index for card in cards for label in card.labels} - {NOTHING}):
            self._pages.setdefault(index, array("I")).append(page)

    def first(self) -> dict[int, int]:
        """Class -> page."""
        return {index: pages[0] for index, pages in self._pages.items()}

    def around(self, index: int, page: int) -> tuple[int | None, int | None, int]:
        """(the page before with that class, the page after, number of pages)."""
        pages = self._pages[index]
        place = bisect_left(pages, page)
        before = pages[place - 1] if place else None
        return before, pages[place + 1] if place + 1 < len(pages) else None, len(pages)


@dataclass(frozen=True)
class Book:
    """What all pages share. shown: photos on all of them."""

    run: RunReader
    survey: Survey
    look: Look
    sort: Sort
    pages: int
    shown: int
    where: ClassPages

    @property
    def name(self) -> str:
        return self.run.directory.resolve().name

    def shell(self, title: str, body: Markup, links: Links) -> Markup:
        """A whole page."""
        manifest = self.run.manifest
        facts = [manifest.labeler, f"{self.survey.ok:,} photos of {manifest.image_root}"]
        if manifest.pack.get("name"):
            facts.insert(1, f"pack {manifest.pack['name']}")
        return fill(
            "shell",
            title=title,
            name=self.name,
            subtitle=" · ".join(facts),
            run_hash=manifest.config_hash,
            version=manifest.tool_version,
            files=links.files,
            home=links.home,
            body=body,
        )

    def photos(self, number: int, cards: Sequence[Card], links: Links) -> Markup:
        """The part of page `number`, from 1, that shows these photos."""
        here = Counter(index for card in cards for index in {label.index for label in card.labels})
        del here[NOTHING]
        names = self.look.classes.names
        legend = [
            fill("legend", index=index, swatch=self.look.swatch(index), name=names[index], here=f"{count:,}")
            for index, count in sorted(here.items(), key=lambda item: (-item[1], names[item[0]]))
        ]
        first = (number - 1) * PER_PAGE
        return fill(
            "photos",
            title=f"Photos {first + 1:,} to {first + len(cards):,} of {self.shown:,}" if cards else "No photos",
            order="the least confident first" if self.sort == "confidence" else "by name",
            files=links.files,
            pages=page_links(number, self.pages, links.page),
            legend=joined(legend),
            cards=joined(card_html(card, place, links.files) for place, card in enumerate(cards)),
            index=script_json(self._index(number, cards, here, links)),
        )

    def _index(self, number: int, cards: Sequence[Card], here: Counter[int], links: Links) -> dict[str, Any]:
        """What the page's script knows."""
        classes = {}
        for index in sorted(here):
            before, after, pages = self.where.around(index, number)
            classes[str(index)] = {
                "name": visible(self.look.classes.names[index]),
                "here": here[index],
                "photos": self.survey.photos[index],
                "pages": pages,
                "previous": links.page(before) if before else None,
                "next": links.page(after) if after else None,
            }
        photos = [
            {"path": visible(card.path), "labels": [[label.index, label.color] for label in card.labels]}
            for card in cards
        ]
        return {"classes": classes, "photos": photos}


def page_links(number: int, of: int, link_to: Callable[[int], str]) -> Markup:
    """Previous, the pages around this one, next; nothing for a single page."""
    if of == 1:
        return Markup()
    parts = [_link("← Previous", link_to(number - 1), 'rel="prev"')] if number > 1 else []
    last = 0
    for page in sorted({1, of, *range(max(number - 2, 1), min(number + 2, of) + 1)}):
        if page > last + 1:
            parts.append(Markup("<span>…</span>"))
        parts.append(_link(f"{page:,}", link_to(page), 'aria-current="page"' if page == number else ""))
        last = page
    if number < of:
        parts.append(_link("Next →", link_to(number + 1), 'rel="next"'))
    return fill("pages", links=joined(parts))


def _link(text: str, link: str, extra: str) -> Markup:
    return fill("page_link", link=link, text=text, extra=Markup(extra))


def card_html(card: Card, number: int, files: str) -> Markup:
    """number: on its page, from 0; files: where the pictures lie."""
    chips = [_chip(label, place) for place, label in enumerate(card.labels)]
    if len(chips) > LABELS_SHOWN + 1:
        rest = fill("more", count=f"{len(chips) - LABELS_SHOWN} more", labels=joined(chips[LABELS_SHOWN:]))
        chips = [*chips[:LABELS_SHOWN], rest]
    photo = fill("photo", file=f"{files}{card.picture}.jpg", name=card.path) if card.has_photo else fill("missing")
    sure = "" if card.confidence is None else f" · confidence {card.confidence:.2f}"
    return fill(
        "card",
        number=number,
        path=card.path,
        photo=photo,
        mask=f"{files}{card.picture}.png",
        facts=f"{card.width} × {card.height}{sure}",
        labels=joined(chips) if chips else "no label",
        problem=fill("problem", text=card.problem) if card.problem else "",
        tree=fill("tree", lines=Markup(card.tree)) if card.tree else "",
    )


def _chip(label: Label, place: int) -> Markup:
    facts = f"{label.score:.2f} · {label.share:.1%}"
    title = f"{label.text}: score {label.score:.2f}, {label.share:.1%} of the photo"
    return fill("label", name=label.text, swatch=swatch(label.color), number=place, facts=facts, title=title)
