"""Classes that a person added while correcting a run: names that are not in its vocabulary.

They come after the vocabulary's, in the order in which they were added, so that no number of a class ever changes. The
run's own vocabulary stays as it is: it says what the labeler was asked for, so that the run can be resumed, and what is
scored. Every pull's file holds the whole list as it was then, and the newest file that is not undone holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from annotator.characters import refuse_invisible
from annotator.errors import ConfigError
from annotator.vocabulary import Vocabulary, names_background

KEY = "added_classes"
"""In the metadata of a pull's file."""


def to_metadata(added: Sequence[str]) -> dict[str, str]:
    return {KEY: json.dumps(list(added))} if added else {}


def from_metadata(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Raises ValueError where it is not what was written."""
    try:
        added = json.loads(metadata.get(KEY, "[]"))
    except RecursionError:  # of brackets by the thousand
        added = None
    if not isinstance(added, list) or not all(isinstance(name, str) for name in added):
        raise ValueError("the added classes are no list of names")
    return tuple(added)


def extended(vocabulary: Vocabulary, added: Sequence[str]) -> tuple[str, ...]:
    """The names of all classes; raises `ConfigError` for one that cannot be added."""
    names = list(vocabulary.names)
    for name in added:
        if name not in names:
            if reason := why_no_class(name, vocabulary, names):
                raise ConfigError(f"expected the name of a new class, but {reason}; choose another")
            names.append(name)
    return tuple(names)


def why_no_class(name: str, vocabulary: Vocabulary, names: Sequence[str]) -> str:
    """What keeps a name from becoming a class besides `names`; "" where nothing does."""
    try:
        refuse_invisible(name, "a name")
    except ConfigError as error:
        return str(error)
    if not name or name != name.strip():
        return f"{name!r} begins or ends with a space" if name else "the name is empty"
    if names_background(name):
        return f"{name!r} is the background, which only the run's vocabulary can name"
    for entry in vocabulary.entries:
        if entry.name.casefold() == name.casefold() and entry.name not in vocabulary.names:
            return f"{name!r} is ignored by the run" if entry.ignore else f"{name!r} counts as {entry.merge_into!r}"
    alike = next((known for known in names if known.casefold() == name.casefold()), None)
    return "" if alike is None else f"{name!r} is the class {alike!r} but for its case"
