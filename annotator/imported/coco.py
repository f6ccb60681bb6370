"""COCO instance JSON: polygons, run lengths, or both.

A run's segments are disjoint and hold a class each, so annotations of one class in one photo become one mask, and
where annotations of several classes overlap the smaller one is painted last. What that costs is counted.
"""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from annotator.errors import ConfigError
from annotator.imported.entries import Entries
from annotator.imported.labels import (
    Labels,
    Measured,
    Tally,
    classes_named,
    listed_classes,
    measure,
    record_of,
    refuse_bomb,
    refuse_outside,
)
from annotator.prediction import NOTHING, LabelMap, Mask
from annotator.record import ImageRecord
from annotator.vocabulary import Vocabulary
from evaluation.coco import CocoFile, CocoImage
from evaluation.matching import IGNORE, refuse_other_size
from exporters.pieces import TOUCHING

OUTSIDE, INSIDE = 0, 1


def coco_labels(path: Path, images: Path | None, classes_file: Path | None) -> Labels:
    """Needs memory for the file as a whole.

    images:       folder of the photos; without it their sizes are those in the file.
    classes_file: the classes to number by, in order. Pixels without an annotation belong to its background, if that
                  is no category of the file.
    """
    file = CocoFile.load(path)
    own = classes_named(list(file.categories), path)
    if len(file.index) < len(file.categories):
        raise ConfigError(f"{path}: expected an id of its own for every category, but some share one; number them anew")
    entries = _entries_of(file)
    vocabulary = own if classes_file is None else listed_classes(classes_file)
    targets = _targets(file, vocabulary)
    rest = vocabulary.background_class if vocabulary.background_class not in targets else None
    tally = Tally()
    reader = _Reader(file, vocabulary, targets, NOTHING if rest is None else rest, images, tally)
    labels = Labels(
        path,
        (images or path.parent).resolve(),
        vocabulary,
        reader.records,
        tally,
        scored=any("score" in each for image in file.images.values() for each in image.annotations),
        entries=entries if vocabulary is own else None,
    )
    if rest is not None:
        labels.notes.append(f"pixels without an annotation are {vocabulary.names[rest]!r}, as {classes_file} has it")
    return labels


class _Reader:
    """targets: class per category, in the order of the file's; rest: class of pixels without an annotation, or -1."""

    def __init__(
        self,
        file: CocoFile,
        vocabulary: Vocabulary,
        targets: Sequence[int],
        rest: int,
        images: Path | None,
        tally: Tally,
    ) -> None:
        self._file = file
        self._vocabulary = vocabulary
        self._targets = targets
        self._rest = rest
        self._images = images
        self._tally = tally

    def records(self) -> Iterator[ImageRecord]:
        for name, image in self._file.images.items():
            refuse_outside(self._file.path, name)
            where = f"{self._file.path}: {name}"
            refuse_bomb(where, image.size)
            photo = Measured(image.size[1], image.size[0])
            if self._images is not None:
                photo = measure(self._images, name)
                refuse_other_size(where, image.size, photo.size)
            yield self._record(name, image, photo)

    def _record(self, name: str, image: CocoImage, photo: Measured) -> ImageRecord:
        painted = self._file.mask(self._targets, IGNORE, name, image.size)
        class_map: LabelMap = painted.astype(np.int32)
        class_map[painted == IGNORE] = NOTHING
        scores = self._examine(name, image, class_map)
        if self._rest != NOTHING:
            crowd = self._crowd(name, image)
            class_map[(painted == IGNORE) & ~crowd] = self._rest
        return record_of(name, class_map, self._vocabulary, photo, self._tally, scores)

    def _examine(self, name: str, image: CocoImage, class_map: LabelMap) -> NDArray[np.float64]:
        """Counts what the map does not hold of the annotations -> a score per class, by pixels; else 1."""
        owner = np.full(image.size, NOTHING, dtype=np.int32)
        shared = np.zeros(image.size, dtype=np.bool_)
        count, area, sure = (np.zeros(len(self._vocabulary)) for _ in range(3))
        numbers: dict[int, LabelMap] = {}
        for annotation in image.annotations:
            if annotation.get("iscrowd"):
                self._tally.crowds += 1
                continue
            target = self._targets[self._file.index[annotation["category_id"]]]
            mask = self._mask(name, image, annotation)
            shared |= mask & (owner != NOTHING) & (owner != target)
            owner[mask] = target
            pixels = int(mask.sum())
            if not pixels:
                self._tally.empty += 1
                continue
            count[target] += 1
            area[target] += pixels
            sure[target] += pixels * _score(annotation)
            if target not in numbers:
                numbers[target] = ndimage.label(class_map == target, TOUCHING)[0]
            self._tally.untold += not _is_one_part(mask, numbers[target])
        self._tally.annotations += int(count.sum())
        self._tally.merged += int(count[count > 1].sum())
        self._tally.overlapping += int(shared.sum())
        self._tally.overlaps += bool(shared.any())
        return np.divide(sure, area, out=np.ones_like(area), where=area > 0)

    def _crowd(self, name: str, image: CocoImage) -> Mask:
        crowds = [each for each in image.annotations if each.get("iscrowd")]
        only = replace(self._file, images={name: CocoImage(image.size, crowds)})
        found: Mask = only.mask(self._targets, OUTSIDE, name, image.size) == IGNORE
        return found

    def _mask(self, name: str, image: CocoImage, annotation: dict[str, Any]) -> Mask:
        """One annotation's pixels: H x W."""
        only = replace(self._file, images={name: CocoImage(image.size, [annotation])})
        found: Mask = only.mask([INSIDE] * len(self._targets), OUTSIDE, name, image.size) == INSIDE
        return found


def _is_one_part(mask: Mask, numbers: LabelMap) -> bool:
    """Whether a mask is exactly one connected part, whole and alone. numbers: of the parts from 1."""
    met = np.unique(numbers[mask])
    return len(met) == 1 and bool(met[0]) and int((numbers == met[0]).sum()) == int(mask.sum())


def _score(annotation: dict[str, Any]) -> float:
    """1 where it says none, or no finite number."""
    score = annotation.get("score", 1.0)
    try:
        return float(score) if isinstance(score, int | float) and math.isfinite(score) else 1.0
    except OverflowError:  # JSON's whole numbers have no end
        return 1.0


def _targets(file: CocoFile, vocabulary: Vocabulary) -> list[int]:
    known = {name: index for index, name in enumerate(vocabulary.names)}
    if strangers := [name for name in file.categories if name not in known]:
        raise ConfigError(
            f"{vocabulary.source}: expected every category of {file.path}, but {strangers[0]!r} is missing; add it"
        )
    return [known[name] for name in file.categories]


def _entries_of(file: CocoFile) -> Entries:
    """Raises where annotations have no image, or several: they would be lost, or doubled, without a word."""
    content = json.loads(file.path.read_bytes())
    images = {posixpath.normpath(image["file_name"]): image for image in content["images"]}
    known = {image["id"] for image in images.values()}
    if len(known) < len(images):
        raise ConfigError(
            f"{file.path}: expected an id of its own for every image, but some share one; number them anew"
        )
    if strays := sum(annotation["image_id"] not in known for annotation in content["annotations"]):
        raise ConfigError(
            f"{file.path}: expected every annotation to belong to one of its images, but {strays:,} do not; remove "
            "them or add their images"
        )
    return Entries(tuple(content["categories"]), images)
