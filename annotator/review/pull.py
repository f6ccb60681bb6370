"""What a person did in the app, back into the run as one file of its corrections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from annotator.added_classes import extended, why_no_class
from annotator.corrections import Correction, Pull, Reviewed, append, class_names, fingerprint
from annotator.errors import ConfigError, RunError
from annotator.locks import alone_in
from annotator.photo_changes import Changed
from annotator.prediction import Mask
from annotator.record import ImageRecord
from annotator.review.checked import SampleError, box_of, labels_in, load, mask_of, number_of, text_of
from annotator.review.dataset import Progress, describe, find_dataset, is_edited, samples_of, shown
from annotator.review.edits import Edits, Shape, apply
from annotator.review.legend import Part, Values
from annotator.review.samples import INSTANCES, MASK, Samples, verdict_of
from annotator.run import RunReader
from annotator.spelling import option


@dataclass
class Pulled:
    """pull:    the file written; None where nothing was new.
    stale:   edited photos that the run has labelled anew since they were opened.
    boxes:   instances that were added without a mask, which say nothing of pixels.
    changed: photos that are others than those labelled.
    new:     labels that are no class of the run, each with the photos that have it.
    refused: photos that hold what cannot be used, each with what that is.

    What was said of stale, changed, new and refused photos stays in the app.
    """

    pull: Pull | None = None
    stale: int = 0
    boxes: int = 0
    changed: Changed = field(default_factory=Changed)
    new: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def with_new_labels(self) -> list[str]:
        """Photos, each once."""
        return sorted({path for paths in self.new.values() for path in paths})


def pull(
    fiftyone: Any,
    run: RunReader,
    progress: Progress = lambda done, total: None,
    *,
    add_classes: Sequence[str] = (),
) -> Pulled:
    """Writes what changed since the last pull; a photo of which something cannot be used does not hold up the others.

    add_classes: labels that become classes of the run's corrections.

    Streams in path order; then the pulled samples show the run as it is now. Nobody else pulls meanwhile.
    """
    with alone_in(run.directory, wait=True):
        return _pull(fiftyone, run, progress, add_classes)


def _pull(fiftyone: Any, run: RunReader, progress: Progress, add_classes: Sequence[str]) -> Pulled:
    dataset = find_dataset(fiftyone, run)
    if dataset is None:
        raise RunError(f"{run.directory}: no FiftyOne dataset of this run; open one first: annotate review")
    samples = samples_of(fiftyone, run, dataset)
    pulled = Pulled()
    identities = dict(zip(*dataset.values(["path", "id"]), strict=True))
    names = _classes(run, add_classes)
    taken: set[str] = set()

    def corrections() -> Iterator[Correction]:
        total = len(run)
        for done, each in enumerate(shown(run, pulled.changed), start=1):
            identity = identities.get(each.record.path)
            found = None
            if identity is not None and each.record.status == "ok":
                try:
                    found = _correction(run, load(dataset, identity), each, samples, names, pulled)
                except SampleError as error:
                    pulled.refused[each.record.path] = str(error)
            if found is not None:
                taken.add(found.path)
                yield found
            progress(done, total)

    pulled.pull = append(
        run.directory, corrections(), added=names[len(run.vocabulary.names) :] if run.vocabulary else ()
    )
    if taken:
        samples = samples_of(fiftyone, run, dataset)  # a person may have made up a class
        for each in shown(run, pulled.changed):
            if each.record.path in taken:
                sample = dataset[identities[each.record.path]]
                samples.fill(sample, each)
                sample.save()
        describe(dataset, run, samples.legend)
    return pulled


def _classes(run: RunReader, more: Sequence[str]) -> tuple[str, ...]:
    if run.vocabulary is not None:
        return extended(run.vocabulary, (*class_names(run), *more))
    if more:
        raise ConfigError(
            f"{run.directory}: its labeler names its own classes, so any label of the app will do; leave "
            f"{option('add_class')} out"
        )
    return ()


def _correction(
    run: RunReader, sample: Any, each: Reviewed, samples: Samples, names: Sequence[str], pulled: Pulled
) -> Correction | None:
    """What is new of a photo; None where nothing is, or a label of it is new."""
    if not is_edited(sample, samples):
        return None
    if sample["shown"] != samples.shown(each):
        pulled.stale += 1
        return None
    record, verdict = each.record, verdict_of(sample)
    edits, boxes = _edits(sample, record, samples)
    if run.vocabulary is not None and (unknown := sorted(edits.labels.difference(names))):
        for label in unknown:
            if reason := why_no_class(label, run.vocabulary, names):
                raise SampleError(f"expected a class of the run, but {reason}")
        for label in unknown:
            pulled.new.setdefault(label, []).append(record.path)
        return None
    pulled.boxes += boxes
    segments = apply(edits, record, samples.legend, names) if edits else record.segments
    if verdict == each.verdict and segments == record.segments:
        return None
    edited = fingerprint(segments) != each.seen
    kept = segments if edited or verdict == "approve" else ()
    size = record.width, record.height
    return Correction(record.path, *size, verdict, edited, each.seen, kept, checksum=record.checksum)


def _edits(sample: Any, record: ImageRecord, samples: Samples) -> tuple[Edits, int]:
    """What a person changed of the labels, and how many instances were added as boxes only."""
    reshaped, added, boxes = _changed_instances(sample, record, samples)
    return Edits(
        _renamed(sample, record, samples), _changed_mask(sample[MASK], record, samples), reshaped, added
    ), boxes


def _renamed(sample: Any, record: ImageRecord, samples: Samples) -> dict[int, str | None]:
    if sample[samples.labels_field] is None:
        return {}
    labels = labels_in(sample, samples.labels_field, "classifications")
    now = {number_of(label, "segment"): text_of(label) for label in labels}
    return {index: now.get(index) for index, segment in enumerate(record.segments) if now.get(index) != segment.label}


def _changed_mask(segmentation: Any, record: ImageRecord, samples: Samples) -> Values | None:
    values = None if segmentation is None else mask_of(segmentation, samples.cache)
    if values is None:
        return None
    if values.shape != record.size or values.dtype.kind not in "bui":
        raise SampleError(
            f"expected a mask of {record.width} x {record.height} whole numbers, but found {values.dtype} of shape "
            f"{values.shape}"
        )
    mask: Values = values
    return None if np.array_equal(mask, samples.legend.values(record)) else mask


def _changed_instances(
    sample: Any, record: ImageRecord, samples: Samples
) -> tuple[dict[int, Shape | None], list[Shape], int]:
    """By number what became of the run's own parts, where something did; new ones; how many have no mask."""
    if sample[INSTANCES] is None:
        return {}, [], 0
    legend = samples.legend
    gone = {part.number: part for part in legend.parts(record)}
    reshaped: dict[int, Shape | None] = {}
    added: list[Shape] = []
    boxes = 0
    for detection in labels_in(sample, INSTANCES, "detections"):
        number = number_of(detection, "part")
        part = None if number is None else gone.pop(number, None)
        shape = _shape(detection, part, record, samples)
        if shape is None:
            boxes += 1
        elif part is None:
            added.append(shape)
        elif shape.label != legend.classes.names[part.class_index] or not np.array_equal(
            shape.mask, _on_photo(part.mask, part.box, record)
        ):
            reshaped[part.number] = shape
    return reshaped | dict.fromkeys(gone), added, boxes


def _shape(detection: Any, part: Part | None, record: ImageRecord, samples: Samples) -> Shape | None:
    """An instance's pixels; of one that lost its mask those that it had."""
    mask = mask_of(detection, samples.cache)
    if mask is not None and mask.size:
        x, y, width, height = box_of(detection)
        left, top = round(x * record.width), round(y * record.height)
        box = left, top, max(round(width * record.width), 1), max(round(height * record.height), 1)
        return Shape(text_of(detection), _on_photo(mask > 0, box, record))
    return None if part is None else Shape(text_of(detection), _on_photo(part.mask, part.box, record))


def _on_photo(mask: Mask, box: tuple[int, int, int, int], record: ImageRecord) -> Mask:
    """A mask inside a box, stretched to it, cut at the photo's borders -> H x W."""
    x, y, width, height = box
    if mask.shape != (height, width):
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    whole = np.zeros(record.size, dtype=np.bool_)
    inside = mask[max(-y, 0) : record.height - y, max(-x, 0) : record.width - x]
    if inside.size:
        top, left = max(y, 0), max(x, 0)
        whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return whole
