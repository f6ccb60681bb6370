"""Ground truth for the photos of a run: a folder of mask PNGs, or COCO JSON.

A folder holds one single-channel PNG per photo whose values are class indices: 8-bit gray or palette (255 =
not scored) or 16-bit gray (65535 = not scored). `a/b.jpg` belongs to `a/b.jpg.png` or `a/b.png`; where no mask
lies at that path, to the only `b.jpg.png` or `b.png` anywhere in the folder. What the indices mean is said by
a class list: a given file, else `classes.txt` in the folder or beside it, else it is the run's class order.

COCO JSON is `evaluation.coco`'s; its photos are found by `file_name`, then by the name without folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from annotator.errors import ConfigError
from annotator.run import RunReader
from annotator.vocabulary import BACKGROUND_NAME, ClassEntry, Vocabulary, names_background
from evaluation.coco import CocoFile
from evaluation.matching import (
    COCO_KEYS,
    IGNORE,
    MASK_KEYS,
    ClassMatch,
    Key,
    Size,
    TruthError,
    TruthMask,
    match_classes,
    pair_photos,
    refuse_other_size,
    stem,
)

CLASSES_FILE = "classes.txt"
NAMES_SHOWN = 8
MODES = ("1", "L", "P", "I;16")
"""Pillow's names of what a mask's PNG may hold."""
STRANGER = IGNORE - 1
"""Marks values in a lookup table that belong to no class."""

Read = Callable[[str, Size], TruthMask]


@dataclass(frozen=True)
class Truth:
    """Masks in the class order of `names`: the vocabulary's classes, then `missing`, those that only the truth has.

    vocabulary: the classes to score by: the run's, or the truth's own.
    unused:   masks for which the run has no photo.
    notes:    sentences for the user on how the truth was read.
    unscored: classes of the truth that are not scored, such as its background where the run has none.
    """

    source: str
    vocabulary: Vocabulary
    names: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    unused: int
    pairs: dict[str, str] = field(repr=False)
    read: Read = field(repr=False)
    unscored: tuple[str, ...] = ()

    def mask(self, photo: str, size: Size) -> TruthMask | None:
        """Of a photo by its path in the run; None where it has no truth. Never resized: another size is an error."""
        mask = self.whole_mask(photo, size)
        if mask is not None and self.unscored:
            mask[mask >= len(self.names)] = IGNORE
        return mask

    def whole_mask(self, photo: str, size: Size) -> TruthMask | None:
        """The same, where the classes that are not scored have the numbers after those of `names`; IGNORE is left for
        pixels of no class."""
        return self.read(self.pairs[photo], size) if photo in self.pairs else None


@dataclass(frozen=True)
class _Source:
    candidates: Sequence[str]
    keys: tuple[tuple[Key, Key], ...]
    vocabulary: Vocabulary
    classes: ClassMatch
    read: Read
    notes: tuple[str, ...] = ()


def open_truth(
    path: str | Path, run: RunReader, classes_file: str | Path | None = None, *, own_classes: bool = False
) -> Truth:
    """Truth for a run's photos; needs memory for their paths, and for a COCO file as a whole.

    path:         a folder of masks or a COCO JSON file.
    classes_file: the class list of a folder, in any form that `Vocabulary.load` reads.
    own_classes:  score by the truth's classes instead of the run's: for labels that are brought to them.
    """
    path = Path(path)
    vocabulary = None if own_classes else run.vocabulary
    if vocabulary is None and not own_classes:
        raise ConfigError(
            f"{run.directory}: miou needs a run with a vocabulary, but {run.manifest.labeler} names its own classes"
        )
    if path.is_dir():
        class_list = Path(classes_file) if classes_file else _class_list_of(path)
        source = _open_folder(path, vocabulary or _own_classes(path, class_list, run), class_list)
    elif path.is_file():
        if classes_file:
            raise ConfigError(f"{path}: COCO JSON names its own categories; leave the class list {classes_file} out")
        source = _open_coco(path, vocabulary)
    else:
        raise TruthError(f"{path}: no such file or folder; expected a folder of mask PNGs or a COCO JSON file")
    photos = [record.path for record in run.records(segments=False)]
    pairs, ambiguous = pair_photos(photos, source.candidates, source.keys)
    if not pairs:
        raise TruthError(_nothing_found(path, photos, source.candidates, ambiguous))
    notes = [*source.notes, *_class_notes(source.classes)]
    if ambiguous:
        notes.append(
            f"{len(ambiguous)} photos share their name with others, so their truth is not clear: {_some(ambiguous)}."
        )
    return Truth(
        source=str(path),
        vocabulary=source.vocabulary,
        names=source.classes.names,
        missing=source.classes.missing,
        notes=tuple(notes),
        unused=len(source.candidates) - len(pairs),
        pairs=pairs,
        read=source.read,
        unscored=source.classes.ignored,
    )


def _open_folder(folder: Path, vocabulary: Vocabulary, class_list: Path | None) -> _Source:
    notes: tuple[str, ...] = ()
    if class_list is None:
        listed: list[tuple[str, ...]] = [(name,) for name in vocabulary.names]
        notes = (f"No {CLASSES_FILE} in or beside {folder}: mask values are read in the run's class order.",)
    else:
        listed = [(entry.name, *entry.prompts) for entry in Vocabulary.load(class_list).classes]
    classes = match_classes(listed, vocabulary)
    _refuse_strangers(class_list or folder, classes, vocabulary)
    masks = [
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(".png")
    ]
    read = partial(_read_mask, folder, _tables(classes.numbered), str(class_list or "the run"))
    return _Source(sorted(masks), MASK_KEYS, vocabulary, classes, read, notes)


def _open_coco(path: Path, vocabulary: Vocabulary | None) -> _Source:
    """vocabulary: None for the file's own categories and the background, which may be one of them."""
    file = CocoFile.load(path)
    background = next(filter(names_background, file.categories), BACKGROUND_NAME)
    names = (*file.categories, background)
    vocabulary = vocabulary or Vocabulary(
        tuple(ClassEntry(name, (name,), background=name == background) for name in dict.fromkeys(names)),
        source=str(path),
    )
    classes = match_classes([(name,) for name in names], vocabulary)
    _refuse_strangers(path, classes, vocabulary)
    *targets, empty = classes.numbered
    notes = ("Pixels without an annotation are background.",)
    read = partial(file.mask, targets, empty)
    return _Source(list(file.images), COCO_KEYS, vocabulary, classes, read, notes)


def _own_classes(folder: Path, class_list: Path | None, run: RunReader) -> Vocabulary:
    if class_list is not None:
        return Vocabulary.load(class_list)
    if run.vocabulary is None:
        raise TruthError(
            f"{folder}: expected a {CLASSES_FILE} in or beside it that names the masks' values, but found none; "
            "give one with --truth-classes"
        )
    return run.vocabulary


def _class_list_of(folder: Path) -> Path | None:
    beside = (folder / CLASSES_FILE, folder.resolve().parent / CLASSES_FILE)
    return next((file for file in beside if file.is_file()), None)


def _tables(targets: Sequence[int]) -> dict[str, TruthMask]:
    """Per Pillow mode the target of every value a mask can hold; STRANGER where it has none."""
    tables = {}
    for mode, highest in (("L", 255), ("I;16", 65535)):
        table = np.full(highest + 1, STRANGER, dtype=np.uint16)
        known = targets[:highest]
        table[: len(known)] = known
        table[highest] = IGNORE
        tables[mode] = table
    return {"1": tables["L"], "P": tables["L"], **tables}


def read_indices(file: Path, size: Size) -> tuple[TruthMask, str]:
    """H x W values of a PNG as they stand, and Pillow's name of what they are.

    Straight through Pillow's PNG reader: a photo with a mask's name is refused, and the size is checked
    against the photo's before a pixel is decoded, so that no other size limit is needed."""
    try:
        with PngImageFile(file) as image:
            if image.mode not in MODES:
                raise TruthError(f"{file}: expected one channel of class indices, but found {image.mode}")
            refuse_other_size(str(file), (image.height, image.width), size)
            return np.asarray(image).astype(np.uint16), image.mode
    except (OSError, SyntaxError, ValueError) as error:
        raise TruthError(f"{file}: expected a PNG mask, but it cannot be read ({error})") from None


def _read_mask(folder: Path, tables: dict[str, TruthMask], classes_from: str, name: str, size: Size) -> TruthMask:
    file = folder / name
    values, mode = read_indices(file, size)
    table = tables[mode]
    mask = table[values]
    if (strange := values[mask == STRANGER]).size:
        known = int((table < STRANGER).sum())
        raise TruthError(
            f"{file}: value {strange[0]} names no class; {classes_from} has {known} (0 to {known - 1}), "
            f"and {len(table) - 1} is not scored"
        )
    return mask


def _refuse_strangers(source: Path, classes: ClassMatch, vocabulary: Vocabulary) -> None:
    """No class in common, but for background, is a mistake and not a score of 0."""
    common = set(range(len(vocabulary.names))).intersection(classes.targets)
    if not common - {vocabulary.background_class}:
        found, expected = _some(classes.missing), _some(vocabulary.names)
        raise TruthError(f"{source}: expected some of the run's classes ({expected}), but found others ({found})")


def _nothing_found(path: Path, photos: Sequence[str], candidates: Sequence[str], ambiguous: Sequence[str]) -> str:
    if not photos:
        return f"{path}: the run has no photo yet"
    if ambiguous:
        return f"{path}: no truth is clear, because several photos or masks share a name: {_some(ambiguous)}"
    kind, wanted = ("PNG mask", f"{stem(photos[0])}.png") if path.is_dir() else ("image", photos[0])
    found = f"{len(candidates)} such as {candidates[0]!r}" if candidates else "none"
    return (
        f"{path}: no {kind} for any of the run's {len(photos)} photos; looked for {wanted!r} and so on, found {found}"
    )


def _class_notes(classes: ClassMatch) -> list[str]:
    notes = []
    if classes.missing:
        notes.append(f"Classes of the truth that the run does not know: {_some(classes.missing)}.")
    if classes.untold:
        notes.append(
            f"Classes of the run that the truth never names, so that they can only be wrong: {_some(classes.untold)}."
        )
    return notes


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
