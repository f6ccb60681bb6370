"""Class names and what may be said about them: synonyms, colours, thresholds, background.

Two file forms. `classes.txt` holds a class per line, synonyms after commas, `#` starts a comment:

    background
    dog, puppy, hound
    traffic light

YAML says more, per class, all of it optional:

    background: {background: true, prompts: [sky, wall, ground]}
    dog: {prompts: [dog, puppy], color: "#ff8800", threshold: 0.4}
    watermark: {ignore: true}        # competes for pixels, but its pixels are written as nothing
    puppy: {merge_into: dog}         # competes under its own name, counts as dog

In both, a class named `background` is the background unless another class says `background: true`.
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
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from annotator.errors import VocabularyError

Color = tuple[int, int, int]
BACKGROUND_NAME = "background"
FIELDS = ("prompts", "color", "threshold", "background", "ignore", "merge_into")


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
    def background(self) -> int | None:
        """Index in `entries` of the background, if there is one."""
        return next((index for index, entry in enumerate(self.entries) if entry.background), None)

    def require_background(self, labeler: str) -> int:
        if self.background is None:
            raise VocabularyError(
                f"{self.source}:{self.last_line}: no background among {len(self)} classes, and {labeler} needs one; "
                'add a line "background"'
            )
        return self.background

    def fingerprint(self) -> str:
        """SHA-256 over everything that can change a label."""
        content = {"entries": [asdict(entry) for entry in self.entries], "templates": self.templates}
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """For the run's manifest; `from_dict` reads it back."""
        return {"source": self.source, "templates": list(self.templates), "entries": [asdict(e) for e in self.entries]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Vocabulary:
        entries = tuple(
            ClassEntry(
                **{
                    **entry,
                    "prompts": tuple(entry["prompts"]),
                    "color": tuple(entry["color"]) if entry["color"] else None,
                }
            )
            for entry in content["entries"]
        )
        return cls(entries, tuple(content["templates"]), content["source"], len(entries))

    @classmethod
    def of(cls, names: Iterable[str]) -> Vocabulary:
        """From names in memory; each may carry synonyms after commas, as a line of classes.txt does."""
        return _from_lines(list(names), "vocabulary")

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
        if path.suffix.lower() in (".yaml", ".yml"):
            return _from_yaml(text, str(path))
        return _from_lines(text.splitlines(), str(path))


def as_vocabulary(source: Vocabulary | str | Path | Sequence[str]) -> Vocabulary:
    """A vocabulary, a path, a list of names, or "cat, dog, background" (names joined by commas)."""
    if isinstance(source, Vocabulary):
        return source
    if isinstance(source, str) and "," in source and not os.path.exists(source):  # noqa: PTH110 (any length will do)
        return Vocabulary.of(name for name in source.split(",") if name.strip())
    if isinstance(source, str | Path):
        return Vocabulary.load(source)
    return Vocabulary.of(source)


def _from_lines(lines: Sequence[str], source: str) -> Vocabulary:
    entries: list[tuple[int, ClassEntry]] = []
    for number, line in enumerate(lines, start=1):
        names = [name.strip() for name in line.split("#", 1)[0].split(",")]
        if names == [""]:
            continue
        if "" in names:
            raise VocabularyError(
                f"{source}:{number}: an empty name between commas in {line.strip()!r}; remove the comma"
            )
        entries.append((number, ClassEntry(names[0], tuple(dict.fromkeys(names)))))
    return _checked(entries, (), source, len(lines))


def _from_yaml(text: str, source: str) -> Vocabulary:
    try:
        return _from_nodes(yaml.compose(text, Loader=yaml.SafeLoader), source, len(text.splitlines()))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise VocabularyError(f"{source}:{line}: not valid YAML: {problem}") from None


def _from_nodes(root: yaml.Node | None, source: str, last_line: int) -> Vocabulary:
    """The YAML comes as a node tree, because only that knows line numbers and repeated keys."""
    if root is None:
        return _checked([], (), source, last_line)
    templates: tuple[str, ...] = ()
    keys = {str(key.value): value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    if "classes" in keys and set(keys) <= {"classes", "templates"}:
        templates = _templates(keys.get("templates"), source)
        root = keys["classes"]
    if isinstance(root, yaml.SequenceNode):
        pairs: list[tuple[yaml.Node, Any]] = [(node, None) for node in root.value]
    elif isinstance(root, yaml.MappingNode):
        pairs = [(key, _construct(value)) for key, value in root.value]
    else:
        raise VocabularyError(f"{source}:1: expected `name: {{...}}` per class, but found {str(root.value)[:40]!r}")
    entries = []
    for key, value in pairs:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise VocabularyError(f"{source}:{line}: expected a class name, but found a nested list or mapping")
        entries.append((line, _entry(str(key.value).strip(), value, f"{source}:{line}")))
    return _checked(entries, templates, source, last_line)


def _construct(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _templates(node: yaml.Node | None, source: str) -> tuple[str, ...]:
    found = _construct(node) if node is not None else []
    for template in found if isinstance(found, list) else [found]:
        if not isinstance(template, str) or template.count("{}") != 1:
            line = node.start_mark.line + 1 if node is not None else 1
            raise VocabularyError(
                f'{source}:{line}: expected templates such as "a photo of a {{}}", but found {template!r}'
            )
    return tuple(found) if isinstance(found, list) else (found,)


def _entry(name: str, value: Any, where: str) -> ClassEntry:
    if value is None:
        return ClassEntry(name, (name,))
    if isinstance(value, list):
        value = {"prompts": value}
    if not isinstance(value, dict):
        raise VocabularyError(f"{where}: expected {{{', '.join(FIELDS)}}} for {name!r}, but found {value!r}")
    if unknown := sorted(set(map(str, value)) - set(FIELDS)):
        raise VocabularyError(f"{where}: unknown key {unknown[0]!r} for {name!r}; known are {', '.join(FIELDS)}")
    prompts = value.get("prompts") or [name]
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise VocabularyError(f"{where}: expected prompts of {name!r} to be a list of words, but found {prompts!r}")
    threshold = value.get("threshold")
    if threshold is not None and not (type(threshold) in (int, float) and 0 <= threshold <= 1):
        raise VocabularyError(f"{where}: expected threshold of {name!r} between 0 and 1, but found {threshold!r}")
    for flag in ("background", "ignore"):
        if not isinstance(value.get(flag, False), bool):
            raise VocabularyError(
                f"{where}: expected {flag} of {name!r} to be true or false, but found {value[flag]!r}"
            )
    return ClassEntry(
        name=name,
        prompts=tuple(dict.fromkeys(prompt.strip() for prompt in prompts)),
        color=_color(value["color"], f"{where}: color of {name!r}") if value.get("color") is not None else None,
        threshold=float(threshold) if threshold is not None else None,
        background=value.get("background", False),
        ignore=value.get("ignore", False),
        merge_into=str(value["merge_into"]) if value.get("merge_into") is not None else None,
    )


def _color(value: Any, where: str) -> Color:
    is_hex = isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value)
    channels = [*bytes.fromhex(value[1:])] if is_hex else value
    if (
        not isinstance(channels, list)
        or len(channels) != 3
        or not all(type(channel) is int and 0 <= channel <= 255 for channel in channels)
    ):
        raise VocabularyError(f'{where}: expected "#rrggbb" or [r, g, b], but found {value!r}')
    red, green, blue = channels
    return red, green, blue


def _checked(
    entries: Sequence[tuple[int, ClassEntry]], templates: tuple[str, ...], source: str, last_line: int
) -> Vocabulary:
    if not entries:
        raise VocabularyError(f"{source}:{max(last_line, 1)}: no class found; write a class name per line")
    first_line: dict[str, int] = {}
    for line, entry in entries:
        if not entry.name:
            raise VocabularyError(f"{source}:{line}: a class without a name")
        if entry.name in first_line:
            raise VocabularyError(
                f"{source}:{line}: class {entry.name!r} stands already in line {first_line[entry.name]}; remove one"
            )
        first_line[entry.name] = line
    backgrounds = [(line, entry.name) for line, entry in entries if entry.background]
    if len(backgrounds) > 1:
        line, name = backgrounds[1]
        raise VocabularyError(f"{source}:{line}: {name!r} is a second background; {backgrounds[0][1]!r} is one already")
    plain = {entry.name for _, entry in entries if not entry.ignore and entry.merge_into is None}
    for line, entry in entries:
        if entry.merge_into is not None and entry.merge_into not in plain:
            raise VocabularyError(
                f"{source}:{line}: {entry.name!r} merges into {entry.merge_into!r}, which is no class here"
            )
    if not plain:
        raise VocabularyError(f"{source}:{last_line}: every class is ignored; leave at least one to write")
    found = [entry for _, entry in entries]
    if not backgrounds:
        found = [replace(entry, background=entry.name.lower() == BACKGROUND_NAME) for entry in found]
    return Vocabulary(tuple(found), templates, source, last_line)
