"""`run.json`: what a run was asked for, with which weights, and how it went."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from annotator import storage
from annotator.errors import RunError

SCHEMA_VERSION = 1


@dataclass
class Manifest:
    """`run.json`. `config` holds what decides the labels, and `config_hash` is over it alone;
    `execution` holds what only decides speed."""

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
    state: Literal["running", "interrupted", "partial", "complete"] = "running"
    schema: int = SCHEMA_VERSION

    @property
    def open_labels(self) -> bool:
        """Whether the labeler named the classes itself, in free text."""
        return self.vocabulary is None

    def save(self, directory: Path) -> None:
        write_atomically(directory / "run.json", json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        path = directory / "run.json"
        try:
            content = json.loads(storage.read_bytes(path))
            if content["schema"] == SCHEMA_VERSION:
                return cls(**content)
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{directory}: no run here (run.json is missing); `annotate run` makes one") from None
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}: damaged ({error}); the parts beside it are unharmed: put it back, "
                "or start anew with --overwrite"
            ) from None
        raise RunError(
            f"{path}: expected schema {SCHEMA_VERSION}, but found {content['schema']}; "
            "read it with the version of the tool that made it"
        )


def write_atomically(path: Path, text: str) -> None:
    """The file has its old or its new content at every moment, even when the process is killed."""
    storage.write_bytes(path, text.encode())
