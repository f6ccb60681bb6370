"""The charts of the overview, as inline SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from annotator.gallery.look import Look
from annotator.gallery.markup import Markup, fill, joined
from annotator.gallery.survey import BINS, Survey

BARS_SHOWN = 30
LINKS_SHOWN = 1000
MISSES_SHOWN = 100
"""Classes that have a bar; of the others, those that have a link; and those named that no photo has."""

WIDTH, HEIGHT, GAP = 400, 120, 2


def score_chart(survey: Survey) -> Markup:
    """A bar per bin of scores; the highest is as high as the chart."""
    if not survey.segments:
        return Markup("<p>No photo has a label.</p>")
    highest, step = max(survey.scores), WIDTH / BINS
    bars = []
    for place, count in enumerate(survey.scores):
        height = HEIGHT * count / highest
        bars.append(
            fill(
                "score_bar",
                x=f"{place * step + GAP / 2:g}",
                y=f"{HEIGHT - height:.3f}",
                width=f"{step - GAP:g}",
                height=f"{height:.3f}",
                title=f"{place / BINS:.2f} to {(place + 1) / BINS:.2f}: {count:,}",
            )
        )
    mean = survey.score_sum / survey.segments
    summary = f"{survey.segments:,} labels, mean {mean:.2f}; the highest bar is {highest:,} labels"
    return fill("scores", width=WIDTH, height=HEIGHT, bars=joined(bars), summary=summary)


def class_chart(survey: Survey, look: Look, link_of: dict[int, str]) -> Markup:
    """A bar per class, the largest first; link_of: to the first page that has the class, for those on any page."""
    ranked = [index for index, _ in survey.pixels.most_common() if index >= 0]
    if not ranked:
        return Markup("<p>No photo has a label.</p>")
    most = survey.pixels[ranked[0]]
    names = look.classes.names
    bars = [
        fill(
            "class_bar",
            link=link_of.get(index, "#"),
            name=names[index],
            swatch=look.swatch(index),
            fill=look.bar_color(index),
            width=f"{100 * survey.pixels[index] / most:.3f}",
            share=f"{survey.pixels[index] / survey.all_pixels:.1%}",
            photos=f"{survey.photos[index]:,}",
        )
        for index in ranked[:BARS_SHOWN]
    ]
    others = [
        fill("class_link", link=link_of.get(index, "#"), name=names[index], photos=f"{survey.photos[index]:,}")
        for index in ranked[BARS_SHOWN : BARS_SHOWN + LINKS_SHOWN]
    ]
    parts = [Markup(f'<ol class="bars">{joined(bars)}</ol>')]
    if others:
        unnamed = len(ranked) - BARS_SHOWN - len(others)
        title = f"{len(ranked) - BARS_SHOWN:,} more classes" + (
            f", the largest {LINKS_SHOWN:,} of them" * (unnamed > 0)
        )
        parts.append(fill("fold", title=title, body=Markup(f'<ul class="links">{joined(others)}</ul>')))
    misses = [] if look.classes.open_labels else [name for i, name in enumerate(names) if i not in survey.photos]
    if misses:
        parts.append(fill("fold", title=f"{len(misses):,} classes in no photo", body=_listed(misses)))
    return joined(parts)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MISSES_SHOWN
    return ", ".join(names[:MISSES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def figures(rows: Iterable[tuple[str, str]]) -> Markup:
    return joined(fill("figure", name=name, value=value) for name, value in rows)
