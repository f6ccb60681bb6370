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
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from annotator.models.weights import cache_folder

KEEP_SECONDS = 1.0
"""An interrupted start loses no more than that."""

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
        try:
            return self._through_disk(names, templates, embed, computed_by(device))
        except (sqlite3.Error, OSError):  # a full or read-only disk costs time, not the run
            return embed(names, templates)

    def _through_disk(self, names: Sequence[str], templates: Sequence[str], embed: Embed, computer: str) -> Tensor:
        file = cache_folder() / "text-embeddings.sqlite"
        file.parent.mkdir(parents=True, exist_ok=True)
        vectors = bytearray()  # all of them, and never twice
        made: list[tuple[bytes, bytes]] = []
        kept = time.monotonic()
        with closing(sqlite3.connect(file, timeout=30)) as database:
            database.execute("CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB)")
            for name in names:
                key = self._key(name, templates, computer)
                row = database.execute("SELECT vector FROM embeddings WHERE key = ?", (key,)).fetchone()
                vector = _opened(key, row[0]) if row else None
                if vector is None:
                    vector = embed([name], templates)[0].numpy().astype("<f4").tobytes()
                    made.append((key, _sealed(key, vector)))
                vectors += vector
                if time.monotonic() - kept > KEEP_SECONDS:
                    _keep(database, made)
                    kept = time.monotonic()
            _keep(database, made)
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


def _keep(database: sqlite3.Connection, made: list[tuple[bytes, bytes]]) -> None:
    """Writes what was made, in one transaction, and empties the list."""
    with database:
        database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", made)
    made.clear()
