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
LOCK_TRIES = 5
TRY_SECONDS = 0.02
"""Between them: `refuse_held` of another process holds a file for less than that, to ask whether it is locked."""

NAME = "run.lock"


class Lock(Protocol):
    def check(self) -> None:
        """Raises `RunError` when another process has taken over."""

    def release(self) -> None: ...


def acquire(directory: Path) -> Lock:
    """Raises `RunError` while another process holds the run's lock."""
    return _StoreLock(directory) if storage.is_remote(directory) else _FileLock(directory)


def refuse_held(directory: Path) -> None:
    """Raises `RunError` where `acquire` would, as another process holds the lock. Makes and keeps none."""
    if storage.is_remote(directory):
        _refuse_fresh(directory, _read(directory))
        return
    try:
        handle = os.open(directory / NAME, os.O_RDWR)  # which complains of a file that cannot be written, too
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if not _flock(handle, fcntl.LOCK_SH):
            raise _held(directory, handle)
    finally:
        os.close(handle)


class _FileLock:
    """Held by the open file, so it goes with the process however that ends."""

    def __init__(self, directory: Path) -> None:
        self._handle = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        for _ in range(LOCK_TRIES):
            if _flock(self._handle, fcntl.LOCK_EX):
                break
            time.sleep(TRY_SECONDS)
        else:
            error = _held(directory, self._handle)
            os.close(self._handle)
            raise error
        os.ftruncate(self._handle, 0)
        os.write(self._handle, f"pid {os.getpid()}".encode())

    def check(self) -> None:
        pass

    def release(self) -> None:
        os.close(self._handle)


def _flock(handle: int, kind: int) -> bool:
    """Whether the lock was to be had at once."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(directory: Path, handle: int) -> RunError:
    holder = os.pread(handle, 64, 0).decode(errors="replace").strip()
    return RunError(f"{directory}: another process ({holder}) is writing this run; wait for it or choose another --out")


class _StoreLock:
    """An object that names its holder and the time of its last sign of life; a thread renews it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._object = directory / NAME
        self._token = secrets.token_hex(8)
        self._lost = False
        self._released = threading.Event()
        if not self._create():
            _refuse_fresh(directory, _read(directory))
            storage.delete(self._object)
            created = self._create()
            time.sleep(SETTLE_SECONDS)
            if not created or not self._is_mine():
                _refuse_fresh(directory, _read(directory))
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

    def _is_mine(self) -> bool:
        found = _read(self._directory)
        return found is not None and found.get("token") == self._token

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


def _read(directory: Path) -> dict[str, Any] | None:
    """What a store's lock says; None where there is none."""
    try:
        return dict(json.loads(storage.read_bytes(directory / NAME)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _refuse_fresh(directory: Path, found: dict[str, Any] | None) -> None:
    found = found or {"time": 0.0}
    silent = time.time() - found["time"]
    if silent < FRESH_SECONDS:
        raise RunError(
            f"{directory}: another process ({found.get('holder')}) is writing this run; wait for it (where "
            f"it was killed, {max(FRESH_SECONDS - silent, 1):.0f} s) or choose another --out"
        )
