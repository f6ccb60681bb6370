"""One writer per run: a locked file in a folder of this machine, an object with a heartbeat in a store."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
LONGEST = 64
"""Bytes of what a lock file says."""
_SAYS = re.compile(rb"(pid \d+)?")


class Lock(Protocol):
    def sign(self) -> None:
        """Says who holds the lock, for others to read. Until then nothing in the folder was changed."""

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
        handle = _open(directory / NAME)  # which complains of a file that cannot be written, too
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if not _flock(handle, fcntl.LOCK_SH):
            raise _held(directory, handle)
    finally:
        os.close(handle)


@contextmanager
def alone_in(folder: Path, *, wait: bool) -> Iterator[None]:
    """One process at a time in a folder of this machine, without a lock file in it.

    wait: for the one before, else a `BlockingIOError`.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


class _FileLock:
    """Held by the open file, so it goes with the process however that ends."""

    def __init__(self, directory: Path) -> None:
        self._handle = _open(directory / NAME, os.O_CREAT)
        for _ in range(LOCK_TRIES):
            if _flock(self._handle, fcntl.LOCK_EX):
                break
            time.sleep(TRY_SECONDS)
        else:
            error = _held(directory, self._handle)
            os.close(self._handle)
            raise error

    def sign(self) -> None:
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"pid {os.getpid()}".encode(), 0)

    def check(self) -> None:
        pass

    def release(self) -> None:
        os.close(self._handle)


def _open(file: Path, flags: int = 0) -> int:
    """A lock file and nothing else: a pipe is a `RunError`, and a link, symbolic or hard, to some other file."""
    try:
        handle = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunError(f"{file}: expected the lock of a run, but found a link; delete it") from None
        raise
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and (status.st_nlink < 2 or _SAYS.fullmatch(os.pread(handle, LONGEST + 1, 0))):
        return handle
    os.close(handle)
    raise RunError(f"{file}: expected the lock of a run, but found another file under that name; delete it")


def _flock(handle: int, kind: int) -> bool:
    """Whether the lock was to be had at once."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(directory: Path, handle: int) -> RunError:
    holder = os.pread(handle, LONGEST, 0).decode(errors="replace").strip()
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

    def sign(self) -> None:
        pass  # it was made with its holder's name in it

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
