"""What every format may be told, and the stage before it: which photos and segments reach a format at all.

A format's options are a dataclass that takes what makes sense for it from those here, each field with its description
(`exporters.descriptions`). The stage streams, so a format sees one photo at a time whatever was asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from annotator.limits import COUNT, WHOLE, Count, Limits, Share, check_fields
from annotator.open_labels import LabelCount, count_classes, count_labels
from annotator.photo_changes import Changed, unchanged
from annotator.run import ImageRecord, RunReader
from annotator.spelling import option
from exporters.descriptions import about
from exporters.pieces import SelectedRecord, View

SPLITS = ("train", "val", "test")

Amend = Callable[[Iterator[ImageRecord]], Iterator[ImageRecord]]
"""What people said about a run, put over its records, which come and go in path order."""

Keep = Callable[[ImageRecord], bool]
"""Whether a photo is exported at all; for one, whether it is approved."""


@dataclass(frozen=True)
class CommonOptions:
    """Options of every format. What a lower score leaves out counts as unlabelled, but fills no hole."""

    min_count: Count = field(default=1, metadata=about("min_count"))
    top: Annotated[int | None, COUNT] = field(default=None, metadata=about("top"))
    min_score: Share = field(default=0.0, metadata=about("min_score"))

    def __post_init__(self) -> None:
        check_fields(self)


EVERYTHING = CommonOptions()


@dataclass(frozen=True)
class SplitOptions(CommonOptions):
    """Options of formats with splits. No split puts every photo into train; new photos never move another."""

    split: str = field(default="", metadata=about("split"))
    seed: Annotated[int, WHOLE] = field(default=0, metadata=about("seed"))

    def __post_init__(self) -> None:
        super().__post_init__()
        shares_of(self.split)

    def split_of(self, path: str) -> str:
        """train, val or test."""
        names = self.splits
        if len(names) == 1:
            return names[0]
        digest = hashlib.sha256(f"{self.seed}/{path}".encode()).digest()
        place = int.from_bytes(digest[:8]) / 2**64
        for name, share in zip(names[:-1], shares_of(self.split), strict=False):
            if place < share:
                return name
            place -= share
        return names[-1]

    def elsewhere(self, split: str) -> tuple[str, ...]:
        """The splits where a photo of this one must not be; none where no split is asked for."""
        return tuple(name for name in SPLITS if name != split) if self.split else ()

    @property
    def unused(self) -> tuple[str, ...]:
        """The splits that must not be there; none where no split is asked for."""
        return SPLITS[len(self.splits) :] if self.split else ()

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that photos may go to."""
        return SPLITS[: len(shares_of(self.split))]


@dataclass(frozen=True)
class CleanOptions(CommonOptions):
    """Options of formats that clean masks up: small regions become unlabelled, then holes are filled. A hole with a
    label stays, whether the format has its class or not. Masks stay disjoint."""

    min_area: Annotated[int, Limits(0, 10**12)] = field(default=0, metadata=about("min_area"))
    fill_holes: bool = field(default=False, metadata=about("fill_holes"))

    @property
    def view(self) -> View:
        """With all pixels of a class as one piece."""
        return View(False, self.min_area, self.fill_holes)


@dataclass(frozen=True)
class PieceOptions(CleanOptions):
    """Options of formats of objects. Without `instances` all pixels of a class are one annotation."""

    instances: bool = field(default=False, metadata=about("instances"))

    @property
    def view(self) -> View:
        return View(self.instances, self.min_area, self.fill_holes)


@dataclass(frozen=True)
class PolygonOptions(PieceOptions):
    """Options of formats of polygons. The cost of `simplify` is the IoU with the exact masks."""

    simplify: Annotated[float, Limits(0, 10_000)] = field(default=0.0, metadata=about("simplify"))


@dataclass(frozen=True)
class PhotoOptions(CommonOptions):
    """Options of formats that bring the photos along: as symbolic links, copies, or not at all. They are named .jpg
    whatever they are, and photos that EXIF turns are always upright JPEG copies."""

    photos: Literal["link", "copy", "none"] = field(default="link", metadata=about("photos"))


def shares_of(split: str) -> tuple[float, ...]:
    """`0.9/0.1` -> (0.9, 0.1), which sum to 1; all to train where it is empty."""
    if not split:
        return (1.0,)
    try:
        shares = tuple(float(share) for share in split.split("/"))
    except ValueError:
        shares = ()
    if not 2 <= len(shares) <= len(SPLITS) or any(not share >= 0 for share in shares) or not 0 < sum(shares) < 1e9:
        raise ValueError(
            f"{option('split')}: expected shares of train/val or train/val/test such as 0.9/0.1, but got {split!r}"
        )
    return tuple(share / sum(shares) for share in shares)


class SelectedRun(RunReader):
    """A run as a format is to see it: without photos that have changed since, then amended, then only the records to
    keep, then only segments that score enough.

    A photo with a score that is not finite counts as failed: its network failed, and its labels mean nothing. Labelers
    refuse such scores; runs of older versions may hold them.

    hidden:  segments left out for their score, in the last walk over the records.
    spoiled: photos that count as failed for their scores, likewise; `reason`: of the first of them, in words.
    changed: photos left out because they have changed, likewise.
    """

    def __init__(
        self, run: RunReader, min_score: float = 0.0, amend: Amend | None = None, keep: Keep | None = None
    ) -> None:
        self.directory = run.directory
        self.manifest = run.manifest
        self.hidden = self.spoiled = 0
        self.reason = ""
        self.changed: Changed = run.changed if isinstance(run, SelectedRun) else Changed()
        self._run = run
        self._min_score = min_score
        self._amend = amend
        self._keep = keep

    @cached_property
    def image_root(self) -> Path:
        return self._run.image_root

    def records(self, *, segments: bool = True) -> Iterator[ImageRecord]:
        """Without segments: every photo that the run knows, whether it is selected or not."""
        found = self._run.records(segments=segments)
        if not segments:
            return found
        is_compared = isinstance(self._run, SelectedRun)
        return self._selected(found if is_compared else unchanged(self._run, self.changed, found))

    def failures(self) -> Iterator[ImageRecord]:
        """Those of the run, and those whose scores were met in the last walk."""
        if not self.spoiled:
            return self._run.failures()
        return (record for record in self.records() if record.status == "failed")

    def label_counts(self) -> list[LabelCount]:
        """The classes that the labels name where no vocabulary does, as they are after amending."""
        if self._amend is None and not self._min_score:
            return label_counts(self._run)
        return count_classes([(each.label, each.area) for each in record.segments] for record in self.records())

    def _selected(self, records: Iterator[ImageRecord]) -> Iterator[ImageRecord]:
        self.hidden = self.spoiled = 0
        for record in self._amend(records) if self._amend else records:
            if self._keep and not self._keep(record):
                continue
            if reason := record.not_finite:
                self.reason = self.reason if self.spoiled else f"{record.path!r}: {reason}"
                self.spoiled += 1
                yield replace(record, status="failed", error=reason, segments=(), history=None)
                continue
            kept = tuple(segment for segment in record.segments if segment.score >= self._min_score)
            left_out = tuple(segment for segment in record.segments if segment.score < self._min_score)
            self.hidden += len(left_out)
            yield SelectedRecord(**vars(record) | {"segments": kept, "left_out": left_out}) if left_out else record


def label_counts(run: RunReader) -> list[LabelCount]:
    """The classes that a run's free-text labels name, as far as they are selected."""
    return run.label_counts() if isinstance(run, SelectedRun) else count_labels(run.directory)
