"""What a reader of foreign labels gives: classes, and a record per photo; and what all readers need for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from numpy.typing import NDArray

from annotator.decode import MAX_PIXELS, decode
from annotator.errors import ConfigError, ImageError
from annotator.imported.entries import Entries
from annotator.inner_paths import leads_out
from annotator.prediction import NOTHING, LabelMap, Prediction
from annotator.record import ImageRecord
from annotator.spelling import option
from annotator.vocabulary import ClassEntry, Vocabulary, names_background

ANY_SIDE = 1
"""Of a photo that is only measured: JPEGs are then decoded at an eighth of their size."""


@dataclass
class Tally:
    """What a walk over the records met.

    overlapping:  pixels that annotations of several classes claim, and `overlaps`, the photos with such.
    annotations:  all that cover pixels; `empty`, those that cover none, and `crowds` are apart.
    merged:       annotations that share photo and class with another.
    untold:       annotations that are not exactly a connected part of their class.
    background, nothing: pixels of the background class, and without a label.
    """

    photos: int = 0
    overlapping: int = 0
    overlaps: int = 0
    annotations: int = 0
    crowds: int = 0
    empty: int = 0
    merged: int = 0
    untold: int = 0
    background: int = 0
    nothing: int = 0


@dataclass(frozen=True)
class Labels:
    """source: what was read. root: the folder that the photos' paths are relative to.

    records: walks all photos once, in any order, and counts in `tally` as it goes.
    scored:  whether the source says how sure it is.
    entries: of a COCO file whose categories are the classes, in its order.
    """

    source: Path
    root: Path
    vocabulary: Vocabulary
    records: Callable[[], Iterator[ImageRecord]]
    tally: Tally
    scored: bool = False
    entries: Entries | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """A photo's facts without its pixels; width and height with EXIF applied."""

    width: int
    height: int
    orientation: int = 1
    bytes: int = 0
    mtime: float = 0.0
    checksum: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


def measure(root: Path, path: str) -> Measured:
    """A photo that must be there and whole: labels without it would be lost on the way."""
    try:
        photo = decode(root / path, working_side=ANY_SIDE)
    except ImageError as error:
        raise ConfigError(
            f"{root}: expected the photo {path!r} of the labels, but {error}; leave {option('images')} out"
        ) from None
    return Measured(photo.width, photo.height, photo.orientation, photo.bytes, photo.mtime, photo.checksum)


def record_of(
    path: str, class_map: LabelMap, vocabulary: Vocabulary, photo: Measured, tally: Tally, scores: NDArray | None = None
) -> ImageRecord:
    """class_map: H x W, index in the vocabulary's classes, -1 = nothing. scores: per class, where there are any."""
    names = vocabulary.names
    given = [1.0] * len(names) if scores is None else [float(score) for score in scores]
    segments = tuple(Prediction(class_map, names, range(len(names)), given).segments())
    tally.photos += 1
    tally.nothing += int((class_map == NOTHING).sum())
    tally.background += sum(each.area for each in segments if each.class_id == vocabulary.background_class)
    return ImageRecord(
        path,
        "ok",
        bytes=photo.bytes,
        mtime=photo.mtime,
        width=photo.width,
        height=photo.height,
        orientation=photo.orientation,
        checksum=photo.checksum,
        segments=segments,
    )


def classes_named(names: list[str], source: Path) -> Vocabulary:
    """Classes of these very names, whatever signs are in them; one named background is the background."""
    for position, name in enumerate(names):
        if not name.strip() or name in names[:position]:
            problem = "stands there twice" if name.strip() else "is empty"
            raise ConfigError(
                f"{source}: expected a name of its own for every class, but {name!r} {problem}; rename it"
            )
    if not names:
        raise ConfigError(f"{source}: expected classes, but found none")
    background = next(filter(names_background, names), None)
    entries = tuple(ClassEntry(name, (name,), background=name == background) for name in names)
    return Vocabulary(entries, source=str(source))


def listed_classes(file: Path) -> Vocabulary:
    """The classes that a list in any of the vocabulary's forms writes."""
    return Vocabulary(Vocabulary.load(file).classes, source=str(file))


def refuse_outside(source: Path, path: str) -> None:
    """Raises for a photo's name that leads out of the folder that exports are written to."""
    if leads_out(path):
        raise ConfigError(
            f"{source}: expected photos by a path inside their folder, but found {path!r}; rename it there"
        )


def refuse_bomb(source: str, size: tuple[int, int]) -> None:
    """size: (height, width) as a file says it, before memory is taken for it."""
    height, width = size
    if not all(type(side) is int and side > 0 for side in size) or height * width > MAX_PIXELS:
        raise ConfigError(f"{source}: expected a photo of 1 to {MAX_PIXELS:,} pixels, but found {width} x {height}")
