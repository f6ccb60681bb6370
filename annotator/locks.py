"""One writer per run: a locked file in a folder of this machine, an object with a heartbeat in a store."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from annotator import storage
from annotator.errors import RunError

FRESH_SECONDS = 120.0
"""A lock in a store whose holder was silent for longer is taken over."""
BEAT_SECONDS = 30.0
SETTLE_SECONDS = 1.0
"""After a takeover: time for others who take over at the same moment to show up."""

NAME = "run.lock"


class Lock(Protocol):
    def check(self) -> None:
        """Raises `RunError` when another process has taken over."""

    def release(self) -> None: ...


def acquire(directory: Path) -> Lock:
    """Raises `RunError` while another process holds the run's lock."""
    return _StoreLock(directory) if storage.is_remote(directory) else _FileLock(directory)


class _FileLock:
    """Held by the open file, so it goes with the process however that ends."""

    def __init__(self, directory: Path) -> None:
        self._handle = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._handle, 64).decode(errors="replace").strip()
            os.close(self._handle)
            raise RunError(
                f"{directory}: another process ({holder}) is writing this run; wait for it or choose another --out"
            ) from None
        os.ftruncate(self._handle, 0)
        os.write(self._handle, f"pid {os.getpid()}".encode())

    def check(self) -> None:
        pass

    def release(self) -> None:
        os.close(self._handle)


class _StoreLock:
    """An object that names its holder and the time of its last sign of life; a thread renews it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._object = directory / NAME
        self._token = secrets.token_hex(8)
        self._lost = False
        self._released = threading.Event()
        if not self._create():
            self._refuse_fresh()
            storage.delete(self._object)
            created = self._create()
            time.sleep(SETTLE_SECONDS)
            if not created or not self._is_mine():
                self._refuse_fresh()
                raise RunError(f"{directory}: another process took this run over just now; choose another --out")
        threading.Thread(target=self._beat, name="run lock", daemon=True).start()

    def check(self) -> None:
        if self._lost:
            raise RunError(
                f"{self._directory}: this process was silent for {FRESH_SECONDS:.0f} s and another one has taken the "
                "run over; what was written is safe, the same command goes on when that one has ended"
            )

    def release(self) -> None:
        self._released.set()
        if self._is_mine():
            storage.delete(self._object)

    def _create(self) -> bool:
        return storage.create(self._object, self._content())

    def _content(self) -> bytes:
        holder = f"pid {os.getpid()} on {socket.gethostname()}"
        return json.dumps({"holder": holder, "token": self._token, "time": time.time()}).encode()

    def _read(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(storage.read_bytes(self._object)))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _is_mine(self) -> bool:
        found = self._read()
        return found is not None and found.get("token") == self._token

    def _refuse_fresh(self) -> None:
        found = self._read() or {"time": 0.0}
        silent = time.time() - found["time"]
        if silent < FRESH_SECONDS:
            raise RunError(
                f"{self._directory}: another process ({found.get('holder')}) is writing this run; wait for it (where "
                f"it was killed, {max(FRESH_SECONDS - silent, 1):.0f} s) or choose another --out"
            )

    def _beat(self) -> None:
        beaten = time.monotonic()
        while not self._released.wait(BEAT_SECONDS):
            try:
                if not self._is_mine():
                    self._lost = True
                    return
                storage.write_bytes(self._object, self._content())
                beaten = time.monotonic()
            except Exception:  # the store may be back at the next beat
                self._lost = time.monotonic() - beaten > FRESH_SECONDS
