"""Class lists in YAML, whose names are read letter for letter.

YAML takes an unquoted `1.10` for a number, `no` for false and `2020-01-01` for a day. In the places of names, prompts
and merge targets the scalar's own text is used instead; everything else is as YAML reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from annotator.characters import refuse_invisible
from annotator.errors import VocabularyError
from annotator.wording import shown

NULL = "tag:yaml.org,2002:null"
READ_AS_TEXT = frozenset(
    {NULL, *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp", "merge", "value"))}
)

Listed = list[tuple[int, str, Any]]
"""Per class the number of its line, its name, and what the file says of it: None, a dict of fields, or a mistake."""


def read_classes(text: str, source: str) -> tuple[Listed, tuple[str, ...]]:
    """The classes and the templates of a file; source is its name, for messages."""
    try:
        return _from_nodes(yaml.compose(text, Loader=yaml.SafeLoader), source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise VocabularyError(f"{source}:{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise VocabularyError(f"{source}:1: not valid YAML: nested too deeply; write it flatter") from None


def _from_nodes(root: yaml.Node | None, source: str) -> tuple[Listed, tuple[str, ...]]:
    """The YAML comes as a node tree, because only that knows line numbers, repeated keys and the text of scalars."""
    if root is None:
        return [], ()
    templates: tuple[str, ...] = ()
    keys = {str(key.value): value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    if "classes" in keys and set(keys) <= {"classes", "templates"}:
        templates = _templates(keys.get("templates"), source)
        root = keys["classes"]
    if isinstance(root, yaml.SequenceNode):
        pairs: list[tuple[yaml.Node, Any]] = [(node, None) for node in root.value]
    elif isinstance(root, yaml.MappingNode):
        pairs = [(key, _fields(value)) for key, value in root.value]
    else:
        raise VocabularyError(f"{source}:1: expected `name: {{...}}` per class, but found {str(root.value)[:40]!r}")
    listed = []
    for key, value in pairs:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise VocabularyError(f"{source}:{line}: expected a class name, but found a nested list or mapping")
        listed.append((line, str(key.value).strip(), value))
    return listed, templates


def _fields(node: yaml.Node) -> Any:
    """What stands beside a class: prompts and the merge target as text, the rest as YAML reads it."""
    if isinstance(node, yaml.SequenceNode):
        return {"prompts": _texts(node)}
    if not isinstance(node, yaml.MappingNode):
        return _construct(node)
    SafeConstructor().flatten_mapping(node)  # `<<: *anchor`
    readings: dict[str, Callable[[yaml.Node], Any]] = {"prompts": _texts, "merge_into": _text_or_none}
    named = [(str(_text(key)), value) for key, value in node.value]
    return {name: readings.get(name, _construct)(value) for name, value in named}


def _texts(node: yaml.Node) -> Any:
    return [_text(item) for item in node.value] if isinstance(node, yaml.SequenceNode) else _construct(node)


def _text_or_none(node: yaml.Node) -> Any:
    return None if node.tag == NULL else _text(node)


def _text(node: yaml.Node) -> Any:
    """A scalar's own text, whatever YAML takes it for; a list or mapping as YAML reads it."""
    return node.value if node.tag in READ_AS_TEXT else _construct(node)


def _construct(node: yaml.Node) -> Any:
    try:
        return SafeConstructor().construct_object(node, deep=True)
    except (yaml.YAMLError, RecursionError):
        raise
    except Exception:  # each kind of value has its own: of the 31st of February, of `!!bool 5`, of `!!int ""`
        problem = f"no value can be read from {shown(node.value)}"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


def _templates(node: yaml.Node | None, source: str) -> tuple[str, ...]:
    found = _construct(node) if node is not None else []
    where = f"{source}:{node.start_mark.line + 1 if node is not None else 1}"
    for template in found if isinstance(found, list) else [found]:
        if not isinstance(template, str) or re.findall("[{}]", template) != ["{", "}"] or "{}" not in template:
            wrong = shown(template)
            raise VocabularyError(f'{where}: expected templates such as "a photo of a {{}}", but found {wrong}')
        refuse_invisible(template, where, VocabularyError)
    return tuple(found) if isinstance(found, list) else (found,)
