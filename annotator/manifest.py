"""`run.json`: what a run was asked for, with which weights, and how it went."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from annotator import storage
from annotator.errors import RunError
from annotator.vocabulary import Vocabulary
from annotator.wording import one_line, shown

SCHEMA_VERSION = 1
MOVING: Literal["moving"] = "moving"
"""A process was ended while it gave the run's photos other paths; the next writer finishes that."""
DIGEST = "digest"
"""Of all the rest of run.json."""


@dataclass
class Manifest:
    """`run.json`. `config` holds what decides the labels, and `config_hash` is over it alone;
    `execution` holds what only decides speed; `generation` is how often the run was started anew."""

    config: dict[str, Any]
    config_hash: str
    image_root: str
    tool_version: str
    labeler: str
    vocabulary: dict[str, Any] | None = None
    pack: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    state: Literal["running", "interrupted", "partial", "complete", "moving"] = "running"
    schema: int = SCHEMA_VERSION
    generation: int = 0

    @property
    def open_labels(self) -> bool:
        """Whether the labeler named the classes itself, in free text."""
        return self.vocabulary is None

    def encoded(self) -> bytes:
        content = asdict(self)
        content[DIGEST] = _digest(content)
        return f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode()

    def save(self, directory: Path) -> None:
        storage.write_bytes(directory / "run.json", self.encoded())

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        path = directory / "run.json"
        try:
            content = json.loads(storage.read_bytes(path))
            if not isinstance(content, dict):
                raise TypeError(f"expected names and values, but found {type(content).__name__}")
            if content["schema"] != SCHEMA_VERSION:
                raise RunError(
                    f"{path}: expected schema {SCHEMA_VERSION}, but found {content['schema']!r}; "
                    "read it with the version of the tool that made it"
                )
            if DIGEST in content and content.pop(DIGEST) != _digest(content):
                raise ValueError(f"it is not what was written; if you changed it, take its line {DIGEST!r} out")
            _refuse_other_values(cls, content)
            if content.get("generation", 0) < 0:
                raise ValueError("generation is negative")
            found = cls(**content)
            if found.vocabulary is not None:
                Vocabulary.from_dict(found.vocabulary)
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{directory}: no run here (run.json is missing); `annotate run` makes one") from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = one_line(error)
            raise RunError(
                f"{path}: damaged ({reason}); the parts beside it are unharmed: put a copy of it back, such as "
                "`annotate run` with --limit 0 and another --out writes, or start anew with --overwrite"
            ) from None
        return found


def generation_of(directory: Path) -> int:
    """0 where `run.json` does not tell, as those of older versions, or cannot be read."""
    try:
        generation = json.loads(storage.read_bytes(directory / "run.json"))["generation"]
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, RecursionError):
        return 0
    return generation if type(generation) is int and generation > 0 else 0


def _refuse_other_values(kind: type[Manifest], content: dict[str, Any]) -> None:
    """Raises TypeError; a name too many or too few is the class's own."""
    for name, hint in get_type_hints(kind).items():
        if name in content and not _fits(content[name], hint):
            raise TypeError(f"{name} is {shown(content[name])}")


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin is UnionType:
        return any(_fits(value, each) for each in arguments)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(each, arguments[1]) for each in value.values())
    return kind is Any or type(value) is kind or (kind is float and type(value) is int)


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """The file has its old or its new content at every moment, even when the process is killed."""
    storage.write_bytes(path, text.encode())
