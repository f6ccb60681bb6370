"""Scores of runs whose labels are free text: IoU and recall after TT or ST, and the quality of the texts.

    st      a segment takes the class whose CLIP text embedding is nearest to its own, from cosine 0.1
    tt      the class whose name is nearest to its label in a sentence encoder, from cosine 0.5
    recall  Segment Recall of those that are asked for; alone: of st, or of a run with a vocabulary by its names
    tgq     captions of the truth's own segments

A run with a vocabulary is scored by its class names, whatever is asked for besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from annotator.errors import ConfigError
from annotator.photo_changes import Changed, unchanged
from annotator.run import ImageRecord, RunReader
from annotator.wording import are, count
from evaluation.curves import Curves
from evaluation.human import LEVELS, HumanScores
from evaluation.matching import IGNORE, TruthError
from evaluation.reassign import (
    THRESHOLDS,
    Assign,
    Assigned,
    TextNetworks,
    assigner,
    by_name,
    sentence_encoder,
    unknown_names,
)
from evaluation.segments import (
    RECALL_THRESHOLD,
    Overlap,
    SegmentScores,
    label_ious,
    overlap,
    photo_iou,
    recall_thresholds,
)
from evaluation.tgq import Caption, Embed, TextQuality, text_quality
from evaluation.truth import Truth

METRICS = ("st", "tt", "recall", "tgq")
NAMES = "names"
"""How a run with a vocabulary is brought to the truth's classes."""
SWEPT = np.arange(101) / 100
"""Cosines from which on a class could hold: the curves."""

Describe = Callable[[], tuple[Embed, Caption]]


@dataclass(frozen=True)
class SegmentResult:
    """by: st, tt or names. verification: what made a class hold, in words."""

    by: str
    verification: str
    scores: SegmentScores


@dataclass(frozen=True)
class PhotoScore:
    """One photo under one result; iou is NaN where there was nothing to find and nothing wrongly found."""

    path: str
    by: str
    verification: str
    iou: float
    labels: int
    found: int


@dataclass(frozen=True)
class OpenEvaluation:
    """How well a run's free-text labels fit its truth; `images` to `notes` as in `confusion.Evaluation`."""

    run: str
    labeler: str
    truth: str
    results: tuple[SegmentResult, ...]
    curves: Mapping[str, Curves]
    quality: TextQuality | None
    photos: tuple[PhotoScore, ...]
    images: int
    without_truth: int
    failed: int
    unused_truth: int
    notes: tuple[str, ...]


@dataclass
class _Tally:
    """What is summed up for one way of reassignment: at its threshold, by people, and over all thresholds."""

    by: str
    assign: Assign
    background: int
    human: HumanScores | None
    results: dict[str, SegmentScores] = field(default_factory=dict)
    swept: list[SegmentScores] = field(default_factory=lambda: [SegmentScores() for _ in SWEPT])

    def update(self, record: ImageRecord, over: Overlap) -> Iterator[PhotoScore]:
        assigned = self.assign(record).without(self.background)
        for verification, classes in self._verified(record, assigned):
            ious = label_ious(over, classes)
            self.results.setdefault(verification, SegmentScores()).update(ious, over, classes)
            found = sum(ious[label] > RECALL_THRESHOLD for label in over.labels)
            yield PhotoScore(record.path, self.by, verification, photo_iou(ious), len(over.labels), found)
        if self.by != NAMES:
            self._sweep(over, assigned)

    def _verified(self, record: ImageRecord, assigned: Assigned) -> Iterator[tuple[str, NDArray[np.int32]]]:
        if self.by == NAMES:
            yield "none", assigned.classes
            return
        threshold = THRESHOLDS[self.by]
        yield f"cosine >= {threshold:g}", assigned.verified(threshold)
        if self.human is not None and record.path in self.human.judgements:
            for level in LEVELS:
                yield f"human >= {level}", self.human.verified(record, assigned, level)

    def _sweep(self, over: Overlap, assigned: Assigned) -> None:
        """Thresholds that let the same segments through share their computation."""
        known: dict[int, tuple[dict[int, float], NDArray[np.int32]]] = {}
        for threshold, scores in zip(SWEPT, self.swept, strict=True):
            held = int((assigned.similarities >= threshold).sum())
            if held not in known:
                classes = assigned.verified(float(threshold))
                known[held] = label_ious(over, classes), classes
            ious, classes = known[held]
            scores.update(ious, over, classes)

    def curves(self) -> dict[str, Curves]:
        """File name -> curves."""
        recalls = {name: scores.recalls for name, scores in self.results.items()}
        found = {
            f"recall-{self.by}": Curves(
                f"Segment Recall, {self.by}", "IoU above which a segment is found", recall_thresholds(), recalls
            )
        }
        if self.by != NAMES:
            lines = {
                "IoU": [scores.iou for scores in self.swept],
                "recall at 0.5": [scores.recall for scores in self.swept],
                "segments verified": [
                    scores.verified / scores.segments if scores.segments else np.nan for scores in self.swept
                ],
            }
            found[f"threshold-{self.by}"] = Curves(
                f"Scores by verification threshold, {self.by}",
                "cosine from which on a class holds",
                SWEPT,
                {name: np.array(values) for name, values in lines.items()},
            )
        return found


def evaluate_open(
    run: RunReader,
    truth: Truth,
    metrics: Sequence[str],
    networks: TextNetworks,
    *,
    human: HumanScores | None = None,
    describe: Describe | None = None,
) -> OpenEvaluation:
    """Scores every labelled photo of the run that has truth, one photo in memory at a time.

    truth:      opened by its own classes.
    networks:   what holds the run's CLIP and a sentence encoder; only what the metrics need is loaded.
    human:      scores by people, which verify besides.
    describe:   for tgq, called once: the functions that embed and caption masks.
    """
    ways = _ways(run, metrics)
    class_index = truth.vocabulary.background_class
    background = IGNORE if class_index is None else class_index
    tallies = [_Tally(by, _assign(by, run, truth, networks), background, human) for by in ways]
    photos: list[PhotoScore] = []
    images = without_truth = failed = 0
    changed = Changed()
    for record in unchanged(run, changed):
        if record.status == "failed" or record.not_finite:
            failed += 1
        elif (mask := truth.mask(record.path, record.size)) is None:
            without_truth += 1
        else:
            images += 1
            if tallies:
                over = overlap(mask, record.prediction().label_map, len(record.segments), background)
                photos += [score for tally in tallies for score in tally.update(record, over)]
    if not images:
        raise TruthError(
            f"{run.directory}: every photo that has truth failed in this run or has changed since, so there is nothing "
            "to score"
        )
    quality = None
    if "tgq" in metrics:
        if describe is None:
            raise ConfigError("tgq needs a captioner; give the pack and settings of a labeler that writes captions")
        quality = text_quality(run, truth, *describe(), sentence_encoder(networks))
    return OpenEvaluation(
        run=str(run.directory),
        labeler=run.manifest.labeler,
        truth=truth.source,
        results=tuple(
            SegmentResult(tally.by, verification, scores)
            for tally in tallies
            for verification, scores in tally.results.items()
        ),
        curves={name: curves for tally in tallies for name, curves in tally.curves().items()},
        quality=quality,
        photos=tuple(photos),
        images=images,
        without_truth=without_truth,
        failed=failed,
        unused_truth=truth.unused,
        notes=(*truth.notes, *changed.notes(), *_notes(run, truth, human, photos, quality)),
    )


def _ways(run: RunReader, metrics: Sequence[str]) -> list[str]:
    """How labels become classes, by what is asked for."""
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise ConfigError(f"no metric {unknown[0]!r}; known are miou, {', '.join(METRICS)}")
    asked = [by for by in THRESHOLDS if by in metrics]
    if run.vocabulary is not None and set(metrics) != {"tgq"}:
        return [NAMES, *asked]
    return asked or (["st"] if "recall" in metrics else [])


def _assign(by: str, run: RunReader, truth: Truth, networks: TextNetworks) -> Assign:
    if by == NAMES:
        return by_name(run, truth.vocabulary)
    return assigner("st" if by == "st" else "tt", run, truth.vocabulary, networks)


def _notes(
    run: RunReader,
    truth: Truth,
    human: HumanScores | None,
    photos: Sequence[PhotoScore],
    quality: TextQuality | None,
) -> list[str]:
    notes = []
    if run.manifest.state != "complete":
        notes.append(
            f"The run is not complete (its state is {run.manifest.state!r}): only photos labelled so far count."
        )
    if truth.unscored:
        notes.append(f"Classes of the truth that are not scored: {', '.join(truth.unscored)}.")
    if truth.vocabulary.background_class is not None:
        notes.append(
            "The truth's background is no class: there is nothing to find, and a class that the photo does not have "
            "loses nothing there."
        )
    if run.vocabulary is not None and (strangers := unknown_names(run.vocabulary, truth.vocabulary)):
        notes.append(f"Classes of the run that the truth does not have drop out by name: {len(strangers)}.")
    if human is not None:
        judged = len({photo.path for photo in photos if photo.verification.startswith("human")})
        notes.append(f"People judged {count(judged, 'photo')} ({human.source}); their scores cover these only.")
    if quality is not None and quality.unreadable:
        notes.append(
            f"{are(quality.unreadable, 'photo')} not captioned: no longer readable in {run.image_root}, or have "
            "another size than in the run."
        )
    return notes
