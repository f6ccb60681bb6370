"""How two runs were asked for differently, in words: which option, and the value of each side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from annotator.identity import identity, read_back
from annotator.manifest import Manifest
from annotator.vocabulary import LABELLING_FIELDS
from annotator.wording import count

NAMES_SHOWN = 4
VALUE_LENGTH = 80
HASH_LENGTH = 12


def differences(run: Manifest, command: Manifest) -> list[str]:
    """One sentence per option that decides labels and has another value; the run's value comes first.

    A labeler has settings and networks of its own, so these are not compared where the labelers differ.
    """
    old, new = _flat(identity(run)), _flat(identity(command))
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if "labeler" in changed:
        changed = ["labeler", *(name for name in changed if _group(name) in ("vocabulary", "precision"))]
    return list(dict.fromkeys(_sentence(name, old, new, run, command) for name in changed))


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"settings": {"gamma": 1}} -> {"settings.gamma": 1}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat


def _group(name: str) -> str:
    return name.partition(".")[0]


def _sentence(name: str, old: dict[str, Any], new: dict[str, Any], run: Manifest, command: Manifest) -> str:
    if name == "vocabulary" and run.vocabulary and command.vocabulary:
        parts = list(_vocabulary_differences(run.vocabulary, command.vocabulary))
        return f"vocabulary: {', '.join(parts) or 'the class lists differ'}"
    if name == "vocabulary" and (run.vocabulary or command.vocabulary):
        return _both(name, _class_count(run.vocabulary), _class_count(command.vocabulary))
    packs = run.pack.get("name"), command.pack.get("name")
    if _group(name) == "weights" and packs[0] != packs[1]:
        return _both("pack", *packs)
    if _group(name) == "weights":
        return _both(f"{name} (SHA-256)", *(_short(each.get(name)) for each in (old, new)))
    return _both(name, old.get(name), new.get(name))


def _both(name: str, run: Any, command: Any) -> str:
    return f"{name}: the run has {_shown(run)}, this command has {_shown(command)}"


def _short(sha256: str | None) -> str | None:
    return sha256 and sha256[:HASH_LENGTH]


def _shown(value: Any) -> str:
    """As YAML and the command line write it."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_LENGTH else f"{text[:VALUE_LENGTH]}…"


def _vocabulary_differences(run: dict[str, Any], command: dict[str, Any]) -> Iterator[str]:
    run, command = read_back(run), read_back(command)
    old, new = ({entry["name"]: entry for entry in each["entries"]} for each in (run, command))
    gone, added = [name for name in old if name not in new], [name for name in new if name not in old]
    if gone:
        yield f"only the run has {_quoted(gone)}"
    if added:
        yield f"only this command has {_quoted(added)}"
    if not gone and not added and list(old) != list(new):
        yield "the classes come in another order"
    for field in LABELLING_FIELDS:
        if other := [name for name in old if name in new and old[name].get(field) != new[name].get(field)]:
            yield f"{_quoted(other)} with other {field}"
    if run["templates"] != command["templates"]:
        yield "other prompt templates"


def _class_count(vocabulary: dict[str, Any] | None) -> str | None:
    if vocabulary is None:
        return None
    return count(len(vocabulary["entries"]), "class")


def _quoted(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + (f" and {more:,} more" if more > 0 else "")
