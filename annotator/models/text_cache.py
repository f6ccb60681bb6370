"""Text embeddings on disk, shared by all processes of a user.

The key holds all that decides their bytes: the weights' hash, the prompts, and what computed them (`computed_by`). So a
run writes the same masks whether its classes were embedded before or not, and whatever other devices left there: on a
GPU it takes up only what such a GPU made. Making all of them on the CPU would need no such key, but a class of 80
prompts takes a core a second with the embedded pack, and several with the papers' networks.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from annotator.models.weights import cache_folder
from annotator.step_progress import tell

KEEP_SECONDS = 1.0
"""A start that is killed loses no more than that."""
STEP = "embedding class names"

DIGEST = hashlib.sha256().digest_size
CPU = torch.device("cpu")
Embed = Callable[[Sequence[str], Sequence[str]], Tensor]


class TextCache:
    """weights_id: SHA-256 of the model's weights; "" switches the cache off (models made in memory)."""

    def __init__(self, weights_id: str) -> None:
        self._weights_id = weights_id

    def get(self, names: Sequence[str], templates: Sequence[str], embed: Embed, device: torch.device = CPU) -> Tensor:
        """Embeddings N x d of `names`, float32 on the CPU; `embed(names, templates)` makes the missing ones.

        device: on which it makes them.
        """
        if not self._weights_id:
            return embed(names, templates)
        vectors = bytearray()  # all of them, and never twice
        computer = computed_by(device)
        with _Entries(cache_folder() / "text-embeddings.sqlite") as entries:
            for done, name in enumerate(names, start=1):
                key = self._key(name, templates, computer)
                vector = entries.get(key)
                if vector is None:
                    vector = embed([name], templates)[0].numpy().astype("<f4").tobytes()
                    entries.add(key, vector)
                vectors += vector
                tell(STEP, done, len(names))
        return torch.from_numpy(np.frombuffer(vectors, dtype="<f4").reshape(len(names), -1))

    def _key(self, name: str, templates: Sequence[str], computer: str) -> bytes:
        return hashlib.sha256(json.dumps([self._weights_id, computer, list(templates), name]).encode()).digest()


def computed_by(device: torch.device) -> str:
    """What decides the last bits of a result besides its inputs: torch's version and the kind of processor."""
    model = ""
    if device.type == "cuda":
        model = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        model = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__} {device.type} {model}"


def _sealed(key: bytes, vector: bytes) -> bytes:
    """With a digest in front, so that no vector is taken for another's, or for what it was before it was damaged."""
    return hashlib.sha256(key + vector).digest() + vector


def _opened(key: bytes, sealed: object) -> bytes | None:
    """None where it is not what was written."""
    vector = sealed[DIGEST:] if isinstance(sealed, bytes) else b""
    return vector if sealed == _sealed(key, vector) else None


class _Entries:
    """What lies on the disk. A full or read-only one costs time, not the run: once it fails it is left alone."""

    def __init__(self, file: Path) -> None:
        self._database: sqlite3.Connection | None = None
        self._made: list[tuple[bytes, bytes]] = []
        self._kept = time.monotonic()
        with self._giving_up():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=30)
            self._database.execute("CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB)")

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep()
        self._close()

    def get(self, key: bytes) -> bytes | None:
        row = None
        with self._giving_up():
            if self._database is not None:
                row = self._database.execute("SELECT vector FROM embeddings WHERE key = ?", (key,)).fetchone()
        return _opened(key, row[0]) if row else None

    def add(self, key: bytes, vector: bytes) -> None:
        self._made.append((key, _sealed(key, vector)))
        if time.monotonic() - self._kept > KEEP_SECONDS:
            self._keep()

    def _keep(self) -> None:
        """Writes what was made, in one transaction."""
        with self._giving_up():
            if self._database is not None:
                with self._database:
                    self._database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", self._made)
        self._made.clear()
        self._kept = time.monotonic()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError):  # SQLite quotes a damaged table in its message
            self._close()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
