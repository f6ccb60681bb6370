"""Scores by people of how well a segment's text fits it, from 0 (not at all) to 3 (exactly), in place of a cosine.

A CSV with a line per segment; `annotate relabel` leaves such a table (mapping.csv) to which the scores can be added:

    path,segment,label,human
    photos/a.jpg,0,a dog,3

`segment` counts from 0 in the run's order. `label` may be left out; where it is there, it is held against the run.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from annotator.csv_cells import plain
from annotator.prediction import NOTHING
from annotator.run import ImageRecord
from evaluation.matching import TruthError
from evaluation.reassign import Assigned

LEVELS = (1, 2, 3)
"""A segment is verified from this score on."""
HIGHEST = 3
MOST_DIGITS = 9
COLUMNS = ("path", "segment", "human")


@dataclass(frozen=True)
class Judgement:
    score: int
    label: str | None


@dataclass(frozen=True)
class HumanScores:
    """judgements: photo -> segment -> what was said of it. Photos that are not named are not judged at all."""

    source: str
    judgements: Mapping[str, Mapping[int, Judgement]]

    @classmethod
    def load(cls, path: str | Path) -> HumanScores:
        judgements: dict[str, dict[int, Judgement]] = defaultdict(dict)
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                    found = ", ".join(reader.fieldnames or ()) or "an empty file"
                    raise TruthError(
                        f"{path}: expected columns {', '.join(COLUMNS)}, but found {found}; add {missing[0]}"
                    )
                for row in reader:
                    where = f"{path}:{reader.line_num}"
                    if not (row["human"] or "").strip():
                        continue  # not judged
                    segment, score = _number(row, "segment", where), _number(row, "human", where)
                    if score > HIGHEST:
                        raise TruthError(f"{where}: expected human scores from 0 to {HIGHEST}, but found {score}")
                    path_of, label = plain(row["path"] or ""), plain(row.get("label") or "") or None
                    if segment in judgements[path_of]:
                        raise TruthError(f"{where}: segment {segment} of {path_of!r} is judged twice; remove one")
                    judgements[path_of][segment] = Judgement(score, label)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise TruthError(f"{path}: expected a CSV of human scores, but it cannot be read ({reason})") from None
        return cls(str(path), dict(judgements))

    def verified(self, record: ImageRecord, assigned: Assigned, level: int) -> NDArray[np.int32]:
        """The classes, -1 where people gave less than `level`, or nothing."""
        scores = np.full(len(record.segments), -1)
        for index, judgement in self.judgements.get(record.path, {}).items():
            self._refuse_another(record, index, judgement)
            scores[index] = judgement.score
        return np.where(scores >= level, assigned.classes, np.int32(NOTHING))

    def _refuse_another(self, record: ImageRecord, index: int, judgement: Judgement) -> None:
        """A judgement of another run says nothing about this one."""
        count = len(record.segments)
        if index >= count:
            raise TruthError(f"{self.source}: {record.path!r} has {count} segments in this run, but {index} is judged")
        found = record.segments[index].label
        if judgement.label is not None and judgement.label != found:
            raise TruthError(
                f"{self.source}: expected segment {index} of {record.path!r} to be {judgement.label!r}, but it is "
                f"{found!r} in this run; give the scores of this run"
            )


def _number(row: Mapping[str, str | None], column: str, where: str) -> int:
    text = (row[column] or "").strip()
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise TruthError(f"{where}: expected a whole number in {column!r}, but found {text!r}")
    return int(text)
