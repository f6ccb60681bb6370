"""A benchmark's files on disk: which there are, which are missing, and their masks in the benchmark's class order.

Files are named by patterns such as `gtFine/val/*_gtFine_labelIds.png`, below a root that the user gives. What `*`
stands for, folders included, is a photo's key: the same for the photo, its truth and its line in the split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from evaluation.coco import CocoFile
from evaluation.matching import IGNORE, Size, TruthError, TruthMask, refuse_other_size
from evaluation.truth import STRANGER, read_indices

VALUES = 1 << 16
LABEL_MAP = "LabelMap"
"""The variable of PASCAL Context's .mat files."""


@dataclass(frozen=True)
class TruthForm:
    """One form in which a benchmark's ground truth may lie on disk.

    files:   pattern of PNGs with one channel of values or of .mat files with a LabelMap; or one COCO .json file.
    values:  the values of the classes in the benchmark's order ("0-10, 12"), of JSON its category ids.
    names:   instead, for .mat: a file of lines `value: name` that has the benchmark's class names among its own.
    ignored: values that are not scored.
    others:  what all other values are: a mistake, the background class (which `values` then leaves out), or not
             scored. In JSON these are the pixels without an annotation.
    """

    files: str
    values: str = ""
    names: str = ""
    ignored: str = ""
    others: Literal["refused", "background", "ignored"] = "refused"

    def __post_init__(self) -> None:
        if self.is_json and self.others == "refused":
            raise ValueError("others: expected background or ignored, which pixels without an annotation are")
        if bool(self.values) == bool(self.names):
            raise ValueError("expected either values or names")

    @property
    def is_json(self) -> bool:
        return self.files.endswith(".json")

    def table(self, root: Path, classes: Sequence[str]) -> TruthMask:
        """Class index per value, 65536; IGNORE for those that are not scored, STRANGER for those that are a mistake."""
        first = 1 if self.others == "background" else 0
        values = values_of_names(root / self.names, classes[first:]) if self.names else numbers(self.values)
        if len(values) != len(classes) - first:
            raise TruthError(f"{self.files}: expected values of {len(classes) - first} classes, but got {len(values)}")
        others = {"refused": STRANGER, "background": 0, "ignored": IGNORE}[self.others]
        table = np.full(VALUES, others, dtype=np.uint16)
        table[numbers(self.ignored)] = IGNORE
        table[values] = np.arange(first, len(classes))
        return table


class TruthFiles(Protocol):
    """The masks of one form below one root, by key."""

    @property
    def source(self) -> Path: ...

    @property
    def keys(self) -> Set[str]: ...

    def where(self, key: str) -> str:
        """The file that should hold this photo's truth, for messages."""
        ...

    def mask(self, key: str, size: Size) -> TruthMask:
        """Of a photo, in class order; never resized: another size than the photo's is an error."""
        ...


@dataclass(frozen=True)
class Pattern:
    """`folder/*suffix` below a root, in folders of the folder too."""

    root: Path
    text: str

    @property
    def folder(self) -> Path:
        return self.root / self.text.partition("*")[0]

    @property
    def suffix(self) -> str:
        return self.text.partition("*")[2]

    @cached_property
    def keys(self) -> set[str]:
        """Of the files that are there."""
        return {
            Path(parent, name).relative_to(self.folder).as_posix().removesuffix(self.suffix)
            for parent, _, names in os.walk(self.folder, followlinks=True)
            for name in names
            if name.endswith(self.suffix)
        }

    def file(self, key: str) -> Path:
        return self.folder / f"{key}{self.suffix}"


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """PNG or .mat files, one per photo."""

    pattern: Pattern
    table: TruthMask

    @property
    def source(self) -> Path:
        return self.pattern.folder

    @property
    def keys(self) -> Set[str]:
        return self.pattern.keys

    def where(self, key: str) -> str:
        return str(self.pattern.file(key))

    def mask(self, key: str, size: Size) -> TruthMask:
        file = self.pattern.file(key)
        values = _label_map(file, size) if file.suffix == ".mat" else read_indices(file, size)[0]
        mask = self.table[values]
        if (strange := values[mask == STRANGER]).size:
            known = ranges(np.flatnonzero((self.table != STRANGER) & (self.table != IGNORE)).tolist())
            raise TruthError(f"{file}: value {strange[0]} is none of the benchmark's; its classes have {known}")
        return mask


@dataclass(frozen=True, eq=False)
class InstanceFile:
    """One COCO JSON file; a photo's key is its file name without the extension."""

    source: Path
    table: TruthMask

    @cached_property
    def _file(self) -> CocoFile:
        file = CocoFile.load(self.source)
        expected = set(np.flatnonzero((self.table != STRANGER) & (self.table != self._empty)).tolist())
        if expected != file.index.keys():
            odd = sorted(expected ^ file.index.keys())[0]
            raise TruthError(f"{self.source}: expected categories of id {ranges(sorted(expected))}; {odd} differs")
        return file

    @property
    def _empty(self) -> int:
        """Class of pixels without an annotation: that of value 0, which no category has."""
        return int(self.table[0])

    @cached_property
    def _names(self) -> dict[str, str]:
        return {Path(name).stem: name for name in self._file.images}

    @property
    def keys(self) -> Set[str]:
        return self._names.keys()

    def where(self, key: str) -> str:
        return f"{self.source}: image {key}"

    def mask(self, key: str, size: Size) -> TruthMask:
        targets = [int(self.table[category]) for category in self._file.index]
        return self._file.mask(targets, self._empty, self._names[key], size)


@dataclass(frozen=True)
class Dataset:
    """What lies below a root of one benchmark.

    keys:     of the photos to label, sorted: those in the split, else all with a photo or truth.
    problems: one sentence per missing file or folder, which name what was expected there; empty where all is there.
    """

    photos: Pattern
    truth: TruthFiles | None
    keys: tuple[str, ...]
    problems: tuple[str, ...]


def find_dataset(
    root: Path, images: Sequence[str], splits: Sequence[str], forms: Sequence[TruthForm], classes: Sequence[str]
) -> Dataset:
    """Of each, the first that is there counts."""
    problems = [] if root.is_dir() else [f"{root}: no such folder"]
    patterns = [Pattern(root, text) for text in images]
    photos = next((pattern for pattern in patterns if pattern.keys), patterns[0])
    if not photos.keys:
        problems.append(f"no photo: expected {_either(root, images)}")
    form = next((form for form in forms if _is_there(root, form)), None)
    truth = None
    if form is None:
        problems.append(f"no ground truth: expected {_either(root, [form.files for form in forms])}")
    elif form.names and not (root / form.names).is_file():
        problems.append(f"{root / form.names}: missing; expected lines `value: name` that say what {form.files} hold")
    else:
        truth = open_form(root, form, classes)
    split = next((root / text for text in splits if (root / text).is_file()), None)
    if splits and split is None:
        problems.append(f"no split: expected {_either(root, splits)}")
    if problems or truth is None:
        return Dataset(photos, None, (), tuple(problems))
    keys = _listed(split) if split else photos.keys | truth.keys
    for key in sorted(keys):
        if key not in photos.keys:
            problems.append(f"{photos.file(key)}: missing; expected a photo{_because(split, truth, key)}")
        if key not in truth.keys:
            problems.append(f"{truth.where(key)}: missing; expected the truth of {photos.file(key)}")
    return Dataset(photos, truth, tuple(sorted(keys)), tuple(problems))


def open_form(root: Path, form: TruthForm, classes: Sequence[str]) -> TruthFiles:
    table = form.table(root, classes)
    if form.is_json:
        return InstanceFile(root / form.files, table)
    return MaskFiles(Pattern(root, form.files), table)


def numbers(text: str) -> list[int]:
    """ "0-2, 5" -> [0, 1, 2, 5]."""
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or int(match[2] or match[1]) >= VALUES:
            raise TruthError(f'expected values such as "0-10, 12" below {VALUES}, but got {text!r}')
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def ranges(values: Sequence[int]) -> str:
    """Sorted [0, 1, 2, 5] -> "0-2, 5"."""
    known = set(values)
    starts = [value for value in values if value - 1 not in known]
    ends = [value for value in values if value + 1 not in known]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def values_of_names(file: Path, classes: Sequence[str]) -> list[int]:
    """Of a file of lines `12: bed`; spaces in names do not count, for the papers write "potted plant"."""
    lines = (line.partition(":") for line in file.read_text(encoding="utf-8").splitlines() if ":" in line)
    known = {_joined(name): int(value) for value, _, name in lines if value.strip().isdecimal()}
    if absent := [name for name in classes if _joined(name) not in known]:
        raise TruthError(f"{file}: expected a line `value: {absent[0]}`, but there is none among {len(known)} names")
    return [known[_joined(name)] for name in classes]


def _joined(name: str) -> str:
    return "".join(name.split())


def _label_map(file: Path, size: Size) -> TruthMask:
    from scipy.io import loadmat

    try:
        content = loadmat(file)
    except Exception as error:  # scipy raises of all kinds on a damaged file
        raise TruthError(f"{file}: expected a .mat file, but it cannot be read ({error})") from None
    if LABEL_MAP not in content:
        raise TruthError(f"{file}: expected a variable {LABEL_MAP}, but there is none")
    values = content[LABEL_MAP]
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise TruthError(f"{file}: expected {LABEL_MAP} to be rows of whole numbers, but found {values.dtype}")
    refuse_other_size(str(file), values.shape, size)
    return values.astype(np.uint16)


def _is_there(root: Path, form: TruthForm) -> bool:
    return (root / form.files).is_file() if form.is_json else bool(Pattern(root, form.files).keys)


def _listed(split: Path) -> set[str]:
    """The first word of each line."""
    return {line.split()[0] for line in split.read_text(encoding="utf-8").splitlines() if line.strip()}


def _because(split: Path | None, truth: TruthFiles, key: str) -> str:
    return f", as {split} lists it" if split else f", as its truth is there: {truth.where(key)}"


def _either(root: Path, texts: Iterable[str]) -> str:
    return " or ".join(str(root / text) for text in texts)
