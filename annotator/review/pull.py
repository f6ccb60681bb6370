"""What a person did in the app, back into the run as one file of its corrections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from annotator.corrections import Correction, Pull, Reviewed, append, fingerprint
from annotator.errors import RunError
from annotator.photo_changes import Changed
from annotator.prediction import Mask
from annotator.record import ImageRecord
from annotator.review.dataset import Progress, describe, find_dataset, is_edited, samples_of, shown
from annotator.review.edits import Edits, Shape, apply
from annotator.review.legend import Legend, Part, Values
from annotator.review.samples import INSTANCES, MASK, Samples, attribute, verdict_of
from annotator.run import RunReader


@dataclass
class Pulled:
    """pull:  the file written; None where nothing was new.
    stale: edited photos that the run has labelled anew since they were opened; their edits are left in the app.
    boxes: instances that were added without a mask, which say nothing of pixels.
    changed: photos that are others than those labelled; what was said of them stays in the app, too.
    """

    pull: Pull | None = None
    stale: int = 0
    boxes: int = 0
    changed: Changed = field(default_factory=Changed)


def pull(fiftyone: Any, run: RunReader, progress: Progress = lambda done, total: None) -> Pulled:
    """Writes what changed since the last pull; nothing at all where any of it cannot be understood.

    Streams in path order; then the pulled samples show the run as it is now.
    """
    dataset = find_dataset(fiftyone, run)
    if dataset is None:
        raise RunError(f"{run.directory}: no FiftyOne dataset of this run; open one first: annotate review")
    samples = samples_of(fiftyone, run, dataset)
    pulled = Pulled()
    identities = dict(zip(*dataset.values(["path", "id"]), strict=True))
    taken: set[str] = set()

    def corrections() -> Iterator[Correction]:
        total = len(run)
        for done, each in enumerate(shown(run, pulled.changed), start=1):
            identity = identities.get(each.record.path)
            if identity is not None and (found := _correction(dataset[identity], each, samples, pulled)) is not None:
                taken.add(found.path)
                yield found
            progress(done, total)

    pulled.pull = append(run.directory, corrections())
    if taken:
        samples = samples_of(fiftyone, run, dataset)  # a person may have made up a class
        for each in shown(run, pulled.changed):
            if each.record.path in taken:
                sample = dataset[identities[each.record.path]]
                samples.fill(sample, each)
                sample.save()
        describe(dataset, run, samples.legend)
    return pulled


def _correction(sample: Any, each: Reviewed, samples: Samples, pulled: Pulled) -> Correction | None:
    """What is new of a photo; None where nothing is."""
    if not is_edited(sample, samples):
        return None
    if sample["shown"] != samples.shown(each):
        pulled.stale += 1
        return None
    record, verdict = each.record, verdict_of(sample)
    edits, boxes = _edits(sample, record, samples)
    pulled.boxes += boxes
    segments = apply(edits, record, samples.legend) if edits else record.segments
    if verdict == each.verdict and segments == record.segments:
        return None
    edited = fingerprint(segments) != each.seen
    kept = segments if edited or verdict == "approve" else ()
    size = record.width, record.height
    return Correction(record.path, *size, verdict, edited, each.seen, kept, checksum=record.checksum)


def _edits(sample: Any, record: ImageRecord, samples: Samples) -> tuple[Edits, int]:
    """What a person changed of the labels, and how many instances were added as boxes only."""
    reshaped, added, boxes = _changed_instances(sample[INSTANCES], record, samples.legend)
    renamed = _renamed(sample[samples.labels_field], record)
    return Edits(renamed, _changed_mask(sample[MASK], record, samples.legend), reshaped, added), boxes


def _renamed(labels: Any, record: ImageRecord) -> dict[int, str | None]:
    if labels is None:
        return {}
    now = {attribute(label, "segment"): label.label for label in labels.classifications}
    return {index: now.get(index) for index, segment in enumerate(record.segments) if now.get(index) != segment.label}


def _changed_mask(segmentation: Any, record: ImageRecord, legend: Legend) -> Values | None:
    if segmentation is None or (segmentation.mask is None and not Path(segmentation.mask_path or "").is_file()):
        return None
    try:
        values = segmentation.get_mask()
    except Exception as error:  # whatever a reader of images may raise
        raise RunError(f"{record.path}: its mask cannot be read ({error}); open it anew with --discard") from None
    if values is None:
        return None
    if values.shape != record.size:
        raise RunError(
            f"{record.path}: expected a mask of {record.width} x {record.height} pixels with one channel, but found "
            f"shape {values.shape}; mend it in the app and pull again"
        )
    mask: Values = values
    return None if np.array_equal(mask, legend.values(record)) else mask


def _changed_instances(
    detections: Any, record: ImageRecord, legend: Legend
) -> tuple[dict[int, Shape | None], list[Shape], int]:
    """By number what became of the run's own parts, where something did; new ones; how many have no mask."""
    if detections is None:
        return {}, [], 0
    gone = {part.number: part for part in legend.parts(record)}
    reshaped: dict[int, Shape | None] = {}
    added: list[Shape] = []
    boxes = 0
    for detection in detections.detections:
        part = gone.pop(attribute(detection, "part"), None)
        shape = _shape(detection, part, record)
        if shape is None:
            boxes += 1
        elif part is None:
            added.append(shape)
        elif shape.label != legend.classes.names[part.class_index] or not np.array_equal(
            shape.mask, _on_photo(part.mask, part.box, record)
        ):
            reshaped[part.number] = shape
    return reshaped | dict.fromkeys(gone), added, boxes


def _shape(detection: Any, part: Part | None, record: ImageRecord) -> Shape | None:
    """An instance's pixels; of one that lost its mask those that it had."""
    mask = detection.get_mask()
    if mask is not None:
        x, y, width, height = detection.bounding_box
        left, top = round(x * record.width), round(y * record.height)
        box = left, top, max(round(width * record.width), 1), max(round(height * record.height), 1)
        return Shape(detection.label, _on_photo(mask > 0, box, record))
    return None if part is None else Shape(detection.label, _on_photo(part.mask, part.box, record))


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
