"""What stands beside a run's masks in the app: another run's, or the ground truth's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from annotator.errors import ConfigError
from annotator.photo_changes import Changed
from annotator.prediction import NOTHING, LabelMap
from annotator.record import ImageRecord
from annotator.review.dataset import BATCH, Opened, Progress, shown
from annotator.review.legend import Legend, Values, legend_of
from annotator.review.samples import write_mask
from annotator.review.views import AGREEMENT, DISAGREEMENT, OTHER, TRUTH
from annotator.run import RunReader
from evaluation.matching import IGNORE
from evaluation.truth import open_truth
from exporters.classes import Classes


class Beside(NamedTuple):
    """A photo's second mask, and how far it is like or unlike the run's: a share of pixels, None where unknown."""

    path: str
    values: Values
    measure: float | None


def add_other_run(fiftyone: Any, opened: Opened, run: RunReader, other: RunReader, progress: Progress) -> int:
    """Masks of another run of the same photos, and the share of pixels that the two name differently.

    Returns how many photos both have.
    """
    mine, theirs = opened.samples.legend, legend_of(other)
    numbers: dict[str, int] = {}

    def masks() -> Iterator[Beside]:
        for record, second in _pairs(run, other):
            unlike = None
            if record.size == second.size:
                first = _named(record, mine, numbers)
                unlike = float((first != _named(second, theirs, numbers)).mean())
            yield Beside(record.path, theirs.values(second), unlike)

    opened.dataset.info["other"] = str(other.directory.resolve())
    found = _add(fiftyone, opened, masks(), theirs, (OTHER, DISAGREEMENT), progress, len(run))
    if not found:
        raise ConfigError(
            f"{other.directory}: expected a run of the same photos, but {run.directory} has none of its paths"
        )
    return found


def add_truth(fiftyone: Any, opened: Opened, run: RunReader, folder: Path, progress: Progress) -> int:
    """Masks of the ground truth, and the share of its pixels that the run names as it does.

    Returns how many photos have a truth. Free-text labels are not compared: they have other names.
    """
    truth = open_truth(folder, run, own_classes=run.vocabulary is None)
    legend = Legend(Classes(truth.names, (None,) * len(truth.names), truth.vocabulary.background_class))
    lookup = np.full(IGNORE + 1, legend.nothing, dtype=legend.kind)
    lookup[: len(truth.names)] = [legend.value(index) for index in range(len(truth.names))]

    def masks() -> Iterator[Beside]:
        for record, *_ in shown(run, Changed()):
            mask = truth.mask(record.path, record.size) if record.status == "ok" else None
            if mask is not None:
                alike, scored = None, mask != IGNORE
                if run.vocabulary is not None and scored.any():
                    alike = float((record.prediction().class_map()[scored] == mask[scored]).mean())
                yield Beside(record.path, lookup[mask], alike)

    opened.dataset.info["truth"] = truth.source
    return _add(fiftyone, opened, masks(), legend, (TRUTH, AGREEMENT), progress, len(run))


def _pairs(run: RunReader, other: RunReader) -> Iterator[tuple[ImageRecord, ImageRecord]]:
    """Photos that both have labels of; both come in path order."""
    theirs = (each.record for each in shown(other, Changed()))
    second = next(theirs, None)
    for record, *_ in shown(run, Changed()):
        while second is not None and second.path < record.path:
            second = next(theirs, None)
        if second is not None and second.path == record.path and record.status == second.status == "ok":
            yield record, second


def _named(record: ImageRecord, legend: Legend, numbers: dict[str, int]) -> LabelMap:
    """H x W: a number per class name, the same for all runs; the background counts as nothing."""
    found = []
    for segment in record.segments:
        index = legend.classes.index(segment)
        name = None if index in (NOTHING, legend.classes.background) else legend.classes.names[index]
        found.append(NOTHING if name is None else numbers.setdefault(name, len(numbers)))
    named: LabelMap = np.array([*found, NOTHING], dtype=np.int32)[record.prediction().label_map]
    return named


def _add(
    fiftyone: Any,
    opened: Opened,
    found: Iterable[Beside],
    legend: Legend,
    fields: tuple[str, str],
    progress: Progress,
    total: int,
) -> int:
    """Writes the masks' files and both fields, a batch at a time; what an earlier call wrote of others goes."""
    dataset, (mask_field, measure_field) = opened.dataset, fields
    if dataset.has_sample_field(mask_field):
        dataset.clear_sample_fields([mask_field, measure_field])
    else:
        dataset.add_sample_field(mask_field, fiftyone.EmbeddedDocumentField, embedded_doc_type=fiftyone.Segmentation)
        dataset.add_sample_field(measure_field, fiftyone.FloatField)
    identities = dict(zip(*dataset.values(["path", "id"]), strict=True))
    rows, done = iter(found), 0
    while batch := list(islice(rows, BATCH)):
        masks = {}
        for each in batch:
            file = write_mask(opened.samples.cache, mask_field, each.path, each.values)
            masks[identities[each.path]] = fiftyone.Segmentation(mask_path=str(file))
        measures: Mapping[str, float | None] = {identities[each.path]: each.measure for each in batch}
        dataset.set_values(mask_field, masks, key_field="id", progress=False)
        dataset.set_values(measure_field, measures, key_field="id", progress=False)
        done += len(batch)
        progress(done, total)
    dataset.mask_targets = {**dataset.mask_targets, mask_field: legend.names}
    opened.colors[mask_field] = legend.colors
    dataset.save()
    return done
