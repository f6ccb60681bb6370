"""Photos in an object store, in the order and by the rules of `images`, but never opened without need.

A store has no folders, links or odd names, and asking it costs: a file is taken by its name alone, and only one
whose name has no suffix at all is taken where it begins like an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from annotator import storage
from annotator.decode import HEAD_BYTES, image_format
from annotator.errors import ConfigError
from annotator.image_names import IMAGE_NAME, Pattern, alternatives, below, selects
from annotator.storage import Version


class _Level(NamedTuple):
    """A folder that a walk is in. path: "" or ends with a slash; patterns: empty where nothing in it is wanted."""

    path: str
    patterns: frozenset[Pattern]


def kind(named: Path) -> Literal["file", "folder"] | None:
    """What a URL names, None where there is nothing."""
    try:
        info = storage.ask(named, lambda files, name: files.info(name))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(named, error) from None
    return "file" if info["type"] == "file" else "folder"


def walk(root: Path, pattern: Pattern) -> Iterator[tuple[str, Version]]:
    """Paths of photos relative to the root, sorted, with what the listing says of each."""
    levels = [_Level("", frozenset(alternatives(pattern)))]
    try:
        for path, version in storage.walk_versions(root):
            while not path.startswith(levels[-1].path):
                levels.pop()
            *folders, name = path[len(levels[-1].path) :].split("/")
            for folder in folders:
                levels.append(_enter(root, levels[-1], folder))
            if selects(levels[-1].patterns, name) and _is_image(root, path, name):
                yield path, version
    except OSError as error:
        raise _unreadable(root, error) from None


def _enter(root: Path, level: _Level, folder: str) -> _Level:
    path = f"{level.path}{folder}/"
    patterns = below(level.patterns, folder)
    return _Level(path, frozenset() if patterns and _is_run(root, path) else patterns)


def _is_run(root: Path, folder: str) -> bool:
    """A folder that `annotate run` made; what is in it was exported, not photographed."""
    return _type(root, f"{folder}run.json") == "file" and _type(root, f"{folder}parts") == "directory"


def _type(root: Path, path: str) -> str | None:
    """As the store calls it; None where there is nothing, but never where the store only did not say."""
    try:
        return str(storage.ask(root, lambda files, name: files.info(f"{name}/{path}"))["type"])
    except FileNotFoundError:
        return None


def _is_image(root: Path, path: str, name: str) -> bool:
    if IMAGE_NAME.search(name):
        return True
    if "." in name:
        return False
    head = storage.ask(root, lambda files, folder: files.cat_file(f"{folder}/{path}", start=0, end=HEAD_BYTES))
    return image_format(head) is not None


def _unreadable(named: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{named}: cannot be read: {error.strerror or error}")
