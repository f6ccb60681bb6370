"""Class names and what may be said about them: synonyms, colours, thresholds, background.

Two file forms. `classes.txt` holds a class per line, synonyms after commas. A comment starts at a `#` that begins the
line or follows white space, so `c#` is a name:

    background
    dog, puppy, hound
    traffic light  # any colour

YAML says more, per class, all of it optional:

    background: {background: true, prompts: [sky, wall, ground]}
    dog: {prompts: [dog, puppy], color: "#ff8800", threshold: 0.4}
    watermark: {ignore: true}        # competes for pixels, but its pixels are written as nothing
    puppy: {merge_into: dog}         # competes under its own name, counts as dog

In both, a class named `background` is the background unless another class says `background: true`. A name is read
letter for letter, so that YAML's `1.10`, `no` and `2020-01-01` need no quotes as names, prompts or merge targets. Only
`merge_into: null`, or nothing after the colon, means no target. Names that differ in case alone are one name. Only LF,
CR and CR LF end a line, and names hold no character that cannot be seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from annotator.characters import refuse_invisible
from annotator.errors import VocabularyError
from annotator.vocabulary_yaml import read_classes
from annotator.wording import shown

Color = tuple[int, int, int]
BACKGROUND_NAME = "background"
LINE_BREAK = re.compile("\r\n|\r|\n")
COMMENT = re.compile(r"(?:^|\s)#.*")
FIELDS = ("prompts", "color", "threshold", "background", "ignore", "merge_into")
LABELLING_FIELDS = tuple(name for name in FIELDS if name != "color")
"""Those that can change a label."""


@dataclass(frozen=True)
class ClassEntry:
    """One name that competes for pixels. `prompts` are the words put into the templates (synonyms)."""

    name: str
    prompts: tuple[str, ...]
    color: Color | None = None
    threshold: float | None = None
    background: bool = False
    ignore: bool = False
    merge_into: str | None = None


@dataclass(frozen=True)
class Vocabulary:
    """All entries that compete, in file order. What is *written* are the `classes`: the entries that are
    neither ignored nor merged into another; `Prediction.class_ids` index them.

    templates: prompts with one `{}` each, or () for the labeler's own.
    source:    where it came from, for messages.
    last_line: number of the file's last line, for messages; 0 where the classes were not read from one.
    """

    entries: tuple[ClassEntry, ...]
    templates: tuple[str, ...] = ()
    source: str = "vocabulary"
    last_line: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def classes(self) -> tuple[ClassEntry, ...]:
        """The entries that appear in outputs."""
        return tuple(entry for entry in self.entries if not entry.ignore and entry.merge_into is None)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of `classes`."""
        return tuple(entry.name for entry in self.classes)

    @cached_property
    def class_of_entry(self) -> NDArray[np.int32]:
        """Index in `classes` per entry; -1 for an ignored one."""
        index = {name: position for position, name in enumerate(self.names)}
        return np.array([index.get(entry.merge_into or entry.name, -1) for entry in self.entries], dtype=np.int32)

    @cached_property
    def background_entry(self) -> int | None:
        """Index in `entries` of the background, if there is one: what labelers give pixels to."""
        return _first_background(self.entries)

    @cached_property
    def background_class(self) -> int | None:
        """Index in `classes` of the background: what outputs hold. None where it is ignored or merged into another."""
        return _first_background(self.classes)

    def require_background(self, labeler: str) -> int:
        """Returns the background's index in `entries`; raises where there is none."""
        if self.background_entry is None:
            where = f"{self.source}:{self.last_line}" if self.last_line else self.source
            raise VocabularyError(
                f"{where}: no background among {len(self)} classes, and {labeler} needs one; "
                'add a class named "background"'
            )
        return self.background_entry

    def fingerprint(self) -> str:
        """SHA-256 over everything that can change a label."""
        entries = [{name: getattr(entry, name) for name in ("name", *LABELLING_FIELDS)} for entry in self.entries]
        content = {"entries": entries, "templates": self.templates}
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """For the run's manifest; `from_dict` reads it back."""
        return {"source": self.source, "templates": list(self.templates), "entries": [asdict(e) for e in self.entries]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Vocabulary:
        """Takes what any version wrote: a run that was labelled stays readable when the rules for new lists change."""
        entries = tuple(_entry_from_dict(entry) for entry in content["entries"])
        templates = tuple(content["templates"])
        if not entries or not all(isinstance(text, str) for text in (*templates, content["source"])):
            raise ValueError("the vocabulary has no classes, or its templates are no text")
        return cls(entries, templates, content["source"])

    @classmethod
    def of(cls, names: Iterable[str]) -> Vocabulary:
        """From names in memory; each may carry synonyms after commas, as a line of classes.txt does, but no comment.

        Numbers are refused rather than turned into text: the name 1.10 would become "1.1".
        """
        origin, given = _Origin("vocabulary", "name"), list(names)
        for number, name in enumerate(given, start=1):
            if not isinstance(name, str):
                raise VocabularyError(f"{origin.at(number)}: expected text, but found {name!r}; put it in quotes")
        return _from_lines(given, origin)

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """From classes.txt or a .yaml / .yml file."""
        path = Path(path)
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            raise VocabularyError(
                f"{path}: no such file; a vocabulary is a file with a class per line, or names: 'cat, dog'"
            ) from None
        except IsADirectoryError:
            raise VocabularyError(f"{path}: expected a file with a class per line, but found a folder") from None
        except OSError as error:
            raise VocabularyError(f"{path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            raise VocabularyError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
        except ValueError:
            raise VocabularyError(f"{str(path)!r}: expected a file's name, but no file can have this one") from None
        if path.suffix.lower() in (".yaml", ".yml"):
            return _from_yaml(text, str(path))
        return _from_lines([COMMENT.sub("", line) for line in _lines(text)], _Origin(str(path), "line"))


def _entry_from_dict(content: dict[str, Any]) -> ClassEntry:
    """Raises ValueError, TypeError or KeyError for what is none."""
    color = content["color"]
    entry = ClassEntry(**{**content, "prompts": tuple(content["prompts"]), "color": tuple(color) if color else None})
    texts = (entry.name, *entry.prompts, *([] if entry.merge_into is None else [entry.merge_into]))
    parts = entry.color or (0, 0, 0)
    if (
        not all(isinstance(text, str) for text in texts)
        or len(parts) != 3
        or not all(type(part) is int and 0 <= part <= 255 for part in parts)
        or not isinstance(entry.threshold, int | float | None)
        or not all(type(flag) is bool for flag in (entry.background, entry.ignore))
    ):
        raise ValueError(f"{entry.name!r} is no class as a vocabulary has them")
    return entry


def as_vocabulary(source: Vocabulary | str | Path | Sequence[str]) -> Vocabulary:
    """A vocabulary, a path, a list of names, or "cat, dog, background" (names joined by commas)."""
    if isinstance(source, Vocabulary):
        return source
    if isinstance(source, str) and "," in source and not os.path.exists(source):  # noqa: PTH110 (any length will do)
        return Vocabulary.of(name for name in source.split(",") if name.strip())
    if isinstance(source, str | Path):
        return Vocabulary.load(source)
    return Vocabulary.of(source)


def names_background(name: str) -> bool:
    """Whether a class of this name is the background where nobody says otherwise."""
    return name.casefold() == BACKGROUND_NAME


def _first_background(entries: Sequence[ClassEntry]) -> int | None:
    return next((index for index, entry in enumerate(entries) if entry.background), None)


@dataclass(frozen=True)
class _Origin:
    """Where classes were read, for messages: the lines of a file, or names in memory, which have no lines."""

    source: str
    unit: Literal["line", "name"]

    def at(self, number: int) -> str:
        return f"{self.source}:{number}" if self.unit == "line" else f"{self.source}, name {number}"


def _lines(text: str) -> list[str]:
    """Without the empty one after the last line break. `splitlines` would break names at U+2028 and a few others."""
    lines = LINE_BREAK.split(text)
    return lines if lines[-1] else lines[:-1]


def _from_lines(lines: Sequence[str], origin: _Origin) -> Vocabulary:
    entries: list[tuple[int, ClassEntry]] = []
    for number, line in enumerate(lines, start=1):
        names = [name.strip() for name in line.split(",")]
        if names == [""]:
            continue
        if "" in names:
            raise VocabularyError(
                f"{origin.at(number)}: an empty name between commas in {line.strip()!r}; remove the comma"
            )
        entries.append((number, ClassEntry(names[0], tuple(dict.fromkeys(names)))))
    return _checked(entries, (), origin, len(lines))


def _from_yaml(text: str, source: str) -> Vocabulary:
    origin = _Origin(source, "line")
    listed, templates = read_classes(text, source)
    entries = [(line, _entry(name, value, origin.at(line))) for line, name, value in listed]
    return _checked(entries, templates, origin, len(_lines(text)))


def _entry(name: str, value: Any, where: str) -> ClassEntry:
    if value is None:
        return ClassEntry(name, (name,))
    if isinstance(value, list):
        value = {"prompts": value}
    if not isinstance(value, dict):
        raise VocabularyError(f"{where}: expected {{{', '.join(FIELDS)}}} for {name!r}, but found {shown(value)}")
    if unknown := sorted(set(value) - set(FIELDS)):
        raise VocabularyError(f"{where}: unknown key {unknown[0]!r} for {name!r}; known are {', '.join(FIELDS)}")
    prompts = value.get("prompts") or [name]
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        listed = shown(prompts)
        raise VocabularyError(f"{where}: expected prompts of {name!r} to be a list of words, but found {listed}")
    threshold = value.get("threshold")
    if threshold is not None and not (type(threshold) in (int, float) and 0 <= threshold <= 1):
        raise VocabularyError(f"{where}: expected threshold of {name!r} between 0 and 1, but found {shown(threshold)}")
    for flag in ("background", "ignore"):
        if not isinstance(value.get(flag, False), bool):
            raise VocabularyError(
                f"{where}: expected {flag} of {name!r} to be true or false, but found {shown(value[flag])}"
            )
    target = value.get("merge_into")
    if target is not None and not (isinstance(target, str) and target.strip()):
        raise VocabularyError(f"{where}: expected merge_into of {name!r} to be a class name, but found {shown(target)}")
    if target is not None and value.get("ignore"):
        raise VocabularyError(
            f"{where}: expected {name!r} to be ignored or merged into {target!r}, but found both; keep one of the two"
        )
    return ClassEntry(
        name=name,
        prompts=tuple(dict.fromkeys(prompt.strip() for prompt in prompts)),
        color=_color(value["color"], f"{where}: color of {name!r}") if value.get("color") is not None else None,
        threshold=float(threshold) if threshold is not None else None,
        background=value.get("background", False),
        ignore=value.get("ignore", False),
        merge_into=target.strip() if target is not None else None,
    )


def _color(value: Any, where: str) -> Color:
    is_hex = isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value)
    channels = [*bytes.fromhex(value[1:])] if is_hex else value
    if (
        not isinstance(channels, list)
        or len(channels) != 3
        or not all(type(channel) is int and 0 <= channel <= 255 for channel in channels)
    ):
        raise VocabularyError(f'{where}: expected "#rrggbb" or [r, g, b], but found {shown(value)}')
    red, green, blue = channels
    return red, green, blue


def _checked(
    entries: Sequence[tuple[int, ClassEntry]], templates: tuple[str, ...], origin: _Origin, last: int
) -> Vocabulary:
    """entries: each with the number of its line or name; last: the highest number there is."""
    if not entries:
        if origin.unit == "name":
            raise VocabularyError(f"{origin.source}: no class found; give at least one name")
        raise VocabularyError(f"{origin.at(max(last, 1))}: no class found; write a class name per line")
    for number, entry in entries:
        for text in (entry.name, *entry.prompts):
            refuse_invisible(text, origin.at(number), VocabularyError)
    _refuse_repeated_names(entries, origin)
    backgrounds = [(number, entry.name) for number, entry in entries if entry.background]
    if len(backgrounds) > 1:
        number, name = backgrounds[1]
        raise VocabularyError(
            f"{origin.at(number)}: {name!r} is a second background; {backgrounds[0][1]!r} is one already"
        )
    plain = {entry.name for _, entry in entries if not entry.ignore and entry.merge_into is None}
    for number, entry in entries:
        if entry.merge_into is not None and entry.merge_into not in plain:
            raise VocabularyError(
                f"{origin.at(number)}: {entry.name!r} merges into {entry.merge_into!r}, which is no class here"
            )
    if not plain:
        raise VocabularyError(f"{origin.at(last)}: every class is ignored; leave at least one to write")
    found = [entry for _, entry in entries]
    if not backgrounds:
        found = [replace(entry, background=names_background(entry.name)) for entry in found]
    return Vocabulary(tuple(found), templates, origin.source, last if origin.unit == "line" else 0)


def _refuse_repeated_names(entries: Sequence[tuple[int, ClassEntry]], origin: _Origin) -> None:
    known: dict[str, tuple[int, str]] = {}
    for number, entry in entries:
        name = entry.name
        if not name:
            raise VocabularyError(f"{origin.at(number)}: a class without a name")
        if name.casefold() in known:
            first, spelling = known[name.casefold()]
            but_for_case = "" if name == spelling else f" ({spelling!r}) but for its case"
            raise VocabularyError(
                f"{origin.at(number)}: class {name!r} repeats {origin.unit} {first}{but_for_case}; remove one"
            )
        known[name.casefold()] = number, name
