"""A first look over a run without opening a photo: what the charts show, and which photos the pages hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from annotator.prediction import NOTHING
from annotator.run import ImageRecord, RunReader
from exporters.classes import Classes

BINS = 20
"""Of the histogram of scores from 0 to 1."""

Sort = Literal["name", "confidence"]


@dataclass
class Survey:
    """Counts over a whole run. Classes by index: `pixels` of each, and `photos` that have it.

    order: paths of the photos to show -> their place, from 0.
    """

    ok: int = 0
    failed: int = 0
    all_pixels: int = 0
    segments: int = 0
    score_sum: float = 0.0
    scores: list[int] = field(default_factory=lambda: [0] * BINS)
    pixels: Counter[int] = field(default_factory=Counter)
    photos: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    order: dict[str, int] = field(default_factory=dict)

    def add(self, record: ImageRecord, classes: Classes) -> None:
        if record.status == "failed":
            self.failed += 1
            self.reasons[record.error] += 1
            return
        self.ok += 1
        self.all_pixels += record.width * record.height
        found = set()
        for segment in record.segments:
            index = classes.index(segment)
            found.add(index)
            self.pixels[index] += segment.area
            self.segments += 1
            self.score_sum += segment.score
            self.scores[bin_of(segment.score)] += 1
        self.photos.update(found - {NOTHING})


def confidence(record: ImageRecord) -> float | None:
    """Mean score of the pixels that have a label; None where none has."""
    area = sum(segment.area for segment in record.segments)
    return sum(segment.score * segment.area for segment in record.segments) / area if area else None


def survey_run(
    run: RunReader, classes: Classes, sort: Sort, limit: int | None, report: Callable[[int], None] = lambda done: None
) -> Survey:
    """One pass over the run, which reports the photos seen. Memory: the paths of the photos to show.

    sort: by path, or the least confident first (before them those without any label), ties by path.
    """
    found = Survey()
    keys: list[tuple[float, str]] = []
    for done, record in enumerate(run.records(), start=1):
        found.add(record, classes)
        if record.status == "ok" and sort == "confidence":
            value = confidence(record)
            keys.append((-1.0 if value is None else value, record.path))
        elif record.status == "ok" and (limit is None or len(found.order) < limit):
            found.order[record.path] = len(found.order)
        report(done)
    keys.sort()
    found.order.update((path, place) for place, (_, path) in enumerate(keys[:limit]))
    return found


def bin_of(score: float) -> int:
    return min(max(int(score * BINS), 0), BINS - 1)
