"""A folder of single-channel PNGs whose values are class indices, as Mask-PNG writes it.

What the values mean says `--classes` (a list, or an id2label.json), else id2label.json or classes.txt in the folder or
beside it; of these two the former is exact, whatever signs are in the names. 255 (65535 of 16 bits) is no label, and
so is 0 where an id2label.json leaves it out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from annotator.errors import ConfigError
from annotator.images import IMAGE_NAME, open_source
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
from annotator.prediction import NOTHING
from annotator.record import ImageRecord
from annotator.spelling import option
from annotator.vocabulary import Vocabulary
from evaluation.matching import MASK_KEYS, pair_photos, stem
from evaluation.truth import CLASSES_FILE, read_indices
from exporters.files import Names

ID2LABEL = "id2label.json"
STRANGER = NOTHING - 1
GUESSED_SUFFIX = ".jpg"


@dataclass(frozen=True)
class Values:
    """What the values of masks mean. index: class by value; source: who says so."""

    vocabulary: Vocabulary
    index: Mapping[int, int]
    source: Path

    def table(self, mode: str) -> NDArray[np.int32]:
        """Class by value, of Pillow's mode; -1 = nothing, -2 = a value that means nothing known."""
        top = 65535 if mode == "I;16" else 255
        table = np.full(top + 1, STRANGER, dtype=np.int32)
        table[[0, top]] = NOTHING
        for value, index in self.index.items():
            if value <= top:
                table[value] = index
        return table


def mask_labels(folder: Path, images: Path | None, classes_file: Path | None) -> Labels:
    """images: folder of the photos, by which masks find their photos' names; without it those are guessed."""
    masks = sorted(
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(".png")
    )
    if not masks:
        raise ConfigError(f"{folder}: expected mask PNGs, but found none")
    values = values_of(folder, classes_file)
    photos = _named(folder, masks) if images is None else _found(folder, masks, images)
    tally = Tally()
    labels = Labels(
        folder,
        (images or folder).resolve(),
        values.vocabulary,
        partial(_records, folder, photos, images, values, tally),
        tally,
    )
    if images is None and any(stem(mask) != photo for photo, mask in photos.items()):
        labels.notes.append(
            f"masks do not say what their photos are called: NAME.png is taken for that of NAME{GUESSED_SUFFIX}; "
            f"{option('images', 'DIR')} looks"
        )
    return labels


def values_of(folder: Path, classes_file: Path | None) -> Values:
    """By the rules of this module."""
    beside = [place / name for name in (ID2LABEL, CLASSES_FILE) for place in (folder, folder.resolve().parent)]
    file = classes_file or next((each for each in beside if each.is_file()), None)
    if file is None:
        raise ConfigError(
            f"{folder}: expected a {CLASSES_FILE} or {ID2LABEL} in or beside it that names the masks' values, "
            f"but found none; give one with {option('classes')}"
        )
    if file.suffix != ".json":
        vocabulary = listed_classes(file)
        return Values(vocabulary, {index: index for index in range(len(vocabulary))}, file)
    try:
        pairs = json.loads(file.read_bytes(), object_pairs_hook=_Pairs)
        if not isinstance(pairs, _Pairs):
            raise TypeError("it is none")
        names = {int(value): name for value, name in pairs}
        if len(names) < len(pairs):
            raise ValueError("a value stands there twice")
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise ConfigError(f"{file}: expected an object of value: class name, but it cannot be read ({error})") from None
    if not all(isinstance(name, str) and 0 <= value < 65535 for value, name in names.items()):
        raise ConfigError(f"{file}: expected class names by values from 0 to 65534, but found others")
    vocabulary = classes_named([names[value] for value in sorted(names)], file)
    return Values(vocabulary, {value: index for index, value in enumerate(sorted(names))}, file)


class _Pairs(list):
    """Names and values of a JSON object, where a dict would lose what stands there twice."""


def indices_of(file: Path, size: tuple[int, int], values: Values) -> NDArray[np.int32]:
    """H x W class indices of a mask, -1 = nothing."""
    found, mode = read_indices(file, size)
    class_map: NDArray[np.int32] = values.table(mode)[found]
    if (strange := found[class_map == STRANGER]).size:
        raise ConfigError(
            f"{file}: value {strange[0]} names no class of {values.source}; add it there, or mend the mask"
        )
    return class_map


def size_of(file: Path) -> tuple[int, int]:
    """(height, width) of a PNG, from its first bytes."""
    try:
        with PngImageFile(file) as image:
            size = image.height, image.width
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{file}: expected a PNG mask, but it cannot be read ({error})") from None
    refuse_bomb(str(file), size)
    return size


def _records(
    folder: Path, photos: Mapping[str, str], images: Path | None, values: Values, tally: Tally
) -> Iterator[ImageRecord]:
    for path, mask in photos.items():
        size = size_of(folder / mask)
        photo = Measured(size[1], size[0]) if images is None else measure(images, path)
        yield record_of(path, indices_of(folder / mask, photo.size, values), values.vocabulary, photo, tally)


def _named(folder: Path, masks: Sequence[str]) -> dict[str, str]:
    """Mask by photo: `a/b.jpg.png` is of `a/b.jpg`, and `a/b.png` is taken for that of `a/b.jpg`."""
    photos: dict[str, str] = {}
    for mask in masks:
        name = stem(mask)
        photo = name if IMAGE_NAME.search(name) else name + GUESSED_SUFFIX
        if photo in photos:
            raise ConfigError(
                f"{folder}: both {photos[photo]!r} and {mask!r} may be of {photo!r}; {option('images', 'DIR')} tells"
            )
        photos[photo] = mask
    return photos


def _found(folder: Path, masks: Sequence[str], images: Path) -> dict[str, str]:
    """Mask by photo of the folder `images`: as Mask-PNG names masks, else as ground truth is found."""
    own = {(folder / mask).resolve() for mask in masks}
    paths = [ref.path for ref in open_source(images) if (images / ref.path).resolve() not in own]
    exported = _exported(paths, set(masks))
    rest = [path for path in paths if path not in exported]
    taken = set(exported.values())
    others, ambiguous = pair_photos(rest, [mask for mask in masks if mask not in taken], MASK_KEYS)
    pairs = {**exported, **others}
    if homeless := sorted(set(masks).difference(pairs.values())):
        hint = f"; photos such as {ambiguous[0]!r} share their name with others" if ambiguous else ""
        raise ConfigError(
            f"{images}: expected a photo for every mask of {folder}, but {len(homeless):,} have none, such as "
            f"{homeless[0]!r}{hint}"
        )
    for path in pairs:
        refuse_outside(images, path)
    return pairs


def _exported(paths: Sequence[str], masks: set[str]) -> dict[str, str]:
    """Photos whose masks have the names that exports give them; of photos that differ in the extension only, all
    must be there, as else it is not clear whose a mask is."""
    names = Names()
    by_stem: dict[str, dict[str, str]] = {}
    for path in sorted(paths):
        by_stem.setdefault(str(PurePosixPath(path).with_suffix("")), {})[path] = f"{names.stem(path)}.png"
    return {
        path: mask for group in by_stem.values() if masks.issuperset(group.values()) for path, mask in group.items()
    }
