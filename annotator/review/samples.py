"""A photo of a run as a FiftyOne sample, and the two fingerprints by which edits are known.

`shown` is over the labels and the verdict that the sample was made from: when the run says something else by now,
the sample is stale. `content` is over what FiftyOne was given: when the sample holds something else by now, a
person edited it.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from annotator.corrections import VERDICTS, Reviewed, Verdict
from annotator.files import refuse_leading_out, replacing
from annotator.record import ImageRecord
from annotator.review.checked import SampleError, box_of, labels_in, mask_of, number_of
from annotator.review.legend import Legend, Values
from annotator.run import RunReader

MASK, INSTANCES, LABELS, CAPTIONS = "segments", "instances", "labels", "captions"
PNG_EFFORT = 3
BY_DOUBT: tuple[Verdict, ...] = ("redo", "reject", "approve")


class Samples:
    """Makes samples of one run. fiftyone: the module; cache: folder for the masks' files."""

    def __init__(self, fiftyone: Any, run: RunReader, legend: Legend, cache: Path) -> None:
        self._fo = fiftyone
        self._root = run.image_root.absolute()
        self._labels_field = labels_field_of(run)
        self.legend = legend
        self.cache = cache

    @property
    def labels_field(self) -> str:
        """A label per class; of labelers that name their own classes, their captions."""
        return self._labels_field

    def file(self, path: str) -> str:
        """Where the photo is now."""
        return str(self._root / path)

    def new(self, each: Reviewed) -> Any:
        """A sample that is not in a dataset yet."""
        sample = self._fo.Sample(filepath=self.file(each.record.path), path=each.record.path)
        self.fill(sample, each)
        return sample

    def fill(self, sample: Any, each: Reviewed) -> None:
        """Everything but the fields of comparisons; other tags than verdicts stay."""
        record = each.record
        kept = [tag for tag in sample.tags if tag not in VERDICTS]
        sample.tags = [*kept, each.verdict] if each.verdict else kept
        sample["status"], sample["error"], sample["edited"] = record.status, record.error or None, each.edited
        if record.status == "ok":
            self._fill_labels(sample, record)
        else:
            for field in ("metadata", MASK, INSTANCES, self.labels_field, "confidence"):
                sample[field] = None
        sample["shown"] = self.shown(each)
        sample["content"] = self.content(sample)

    def content(self, sample: Any) -> str:
        """Over all that a person can edit and a pull brings back; of what cannot be used that it is so."""
        try:
            said = {
                "verdict": verdict_of(sample),
                "labels": sorted(
                    [str(number_of(label, "segment")), label.label or ""]
                    for label in labels_in(sample, self.labels_field, "classifications")
                ),
                "instances": sorted(
                    self._instance(detection) for detection in labels_in(sample, INSTANCES, "detections")
                ),
                "mask": self._mask_digest(sample[MASK]),
            }
            return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
        except (SampleError, TypeError):  # a name that is no text
            return "unusable"

    def _instance(self, detection: Any) -> list[str]:
        box = [round(side, 7) for side in box_of(detection)]
        mask = mask_of(detection, self.cache)
        digest = "" if mask is None else hashlib.sha256(np.packbits(mask > 0).tobytes()).hexdigest()
        return [str(number_of(detection, "part")), detection.label or "", str(box), digest]

    def _mask_digest(self, segmentation: Any) -> str:
        """A file of ours that is gone was not edited; its name says what was in it."""
        if segmentation is None:
            return ""
        values = mask_of(segmentation, self.cache)
        return Path(segmentation.mask_path or "").stem.rpartition("-")[2] if values is None else _digest(values)

    def shown(self, each: Reviewed) -> str:
        """Over all that a sample is filled from."""
        record = each.record
        said = [each.verdict, each.edited, record.status, record.error, record.width, record.height]
        digest = hashlib.sha256(json.dumps(said).encode())
        for segment in record.segments:
            value = self.legend.value(self.legend.classes.index(segment))
            digest.update(json.dumps([segment.label, value, segment.score, segment.rle.decode("ascii")]).encode())
        return digest.hexdigest()[:32]

    def _fill_labels(self, sample: Any, record: ImageRecord) -> None:
        mime = mimetypes.guess_type(record.path)[0] or "image/jpeg"
        sample["metadata"] = self._fo.ImageMetadata(
            size_bytes=record.bytes, mime_type=mime, width=record.width, height=record.height, num_channels=3
        )
        file = write_mask(self.cache, "masks", record.path, self.legend.values(record))
        sample[MASK] = self._fo.Segmentation(mask_path=str(file))
        parts = [
            self._fo.Detection(
                label=self.legend.classes.names[part.class_index],
                confidence=part.score,
                bounding_box=relative(part.box, record),
                mask=part.mask,
                part=part.number,
            )
            for part in self.legend.parts(record)
        ]
        sample[INSTANCES] = self._fo.Detections(detections=parts)
        labels = [
            self._fo.Classification(
                label=segment.label,
                confidence=segment.score,
                segment=index,
                share=round(segment.area / (record.width * record.height), 4),
            )
            for index, segment in enumerate(record.segments)
        ]
        sample[self.labels_field] = self._fo.Classifications(classifications=labels)
        sample["confidence"] = confidence(record)


def labels_field_of(run: RunReader) -> str:
    return CAPTIONS if run.vocabulary is None else LABELS


def write_mask(cache: Path, field: str, path: str, values: Values) -> Path:
    """A gray PNG, named by the photo and by its content: the browser may keep the one it has.

    cache: a folder in the run, with one for each field.
    """
    photo = hashlib.sha256(path.encode()).hexdigest()[:24]
    file = cache / field / photo[:2] / f"{photo}-{_digest(values)}.png"
    refuse_leading_out(file.parent, cache.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as opened:
        Image.fromarray(values).save(opened, "PNG", compress_level=PNG_EFFORT)
    for older in file.parent.glob(f"{photo}-*.png"):
        if older != file:
            older.unlink()
    return file


def confidence(record: ImageRecord) -> float | None:
    """The mean over the photo's labelled pixels."""
    area = sum(segment.area for segment in record.segments)
    return sum(segment.score * segment.area for segment in record.segments) / area if area else None


def relative(box: tuple[int, int, int, int], record: ImageRecord) -> list[float]:
    """(x, y, width, height) in pixels -> in shares of the photo's sides."""
    x, y, width, height = box
    return [x / record.width, y / record.height, width / record.width, height / record.height]


def verdict_of(sample: Any) -> Verdict:
    """By the sample's tags; of several the most doubtful one."""
    return next((verdict for verdict in BY_DOUBT if verdict in sample.tags), "")


def _digest(values: Values) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
