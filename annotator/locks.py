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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from annotator import conditional, storage
from annotator.errors import RunError

FRESH_SECONDS = 120.0
"""A lock in a store whose holder was silent for longer is taken over."""
BEAT_SECONDS = 30.0
"""How often its holder renews it."""
LOCK_TRIES = 5
TRY_SECONDS = 0.02
"""Between them: `refuse_held` of another process holds a file for less than that, to ask whether it is locked."""

NAME = "run.lock"
LONGEST = 64
"""Bytes of what a lock file says."""
LONGEST_STORED = 1000
"""The same of a lock in a store."""
_SAYS = re.compile(rb"(pid \d+)?")


class Lock(Protocol):
    @property
    def token(self) -> str:
        """Of this taking, in a store; "" in a folder."""

    def sign(self) -> None:
        """Says who holds the lock, for others to read. Until then nothing in the folder was changed."""

    def check(self, *, closely: bool = False) -> None:
        """Raises `RunError` when another process has taken over. closely: by looking at the lock itself."""

    def release(self) -> None: ...


def acquire(directory: Path) -> Lock:
    """Raises `RunError` while another process holds the run's lock."""
    return _StoreLock(directory) if storage.is_remote(directory) else _FileLock(directory)


def refuse_held(directory: Path) -> None:
    """Raises `RunError` where `acquire` would, as another process holds the lock. Makes and keeps none."""
    if storage.is_remote(directory):
        _refuse_fresh(directory)
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

    token = ""

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

    def check(self, *, closely: bool = False) -> None:
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
    """An object that names its holder, who writes it again and again; the store's time tells how long ago it was.

    It keeps processes from doing the same work, and no more: a process that was stopped for minutes cannot know what
    happened meanwhile. That such a one harms nothing is what `annotator.conditional` is for.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._object = directory / NAME
        self.token = secrets.token_hex(8)
        self._beats = 0
        self._lost = False
        self._released = threading.Event()
        self._beaten = time.monotonic()  # of when it was begun: its answer may come to a process that was stopped
        self._take()
        self._heart = threading.Thread(target=self._keep_alive, name="run lock", daemon=True)
        self._heart.start()

    def sign(self) -> None:
        pass  # it was made with its holder's name in it

    def check(self, *, closely: bool = False) -> None:
        if closely or time.monotonic() - self._beaten > 2 * BEAT_SECONDS:
            self._lost = self._lost or not self._is_mine()
        if self._lost:
            raise RunError(
                f"{self._directory}: this process was silent for {FRESH_SECONDS:.0f} s and another one has taken the "
                f"run over, or {self._object} was deleted; what was written is safe, the same command goes on when "
                "that one has ended"
            )

    def release(self) -> None:
        self._released.set()
        self._heart.join()  # a beat under way must not bring the lock back
        if self._is_mine():
            storage.delete(self._object)

    def _take(self) -> None:
        if conditional.create(self._object, self._content()):
            return
        found = _refuse_fresh(self._directory)
        if found is None:
            taken = conditional.create(self._object, self._content())
        else:
            taken = conditional.replace(self._object, self._content(), found.stamp)
        if taken is None:
            raise RunError(f"{self._directory}: another process took this run over just now; choose another --out")

    def _content(self) -> bytes:
        """beats: makes each differ from the one before, and so its stamp."""
        holder = f"pid {os.getpid()} on {socket.gethostname()}"
        return json.dumps({"holder": holder, "token": self.token, "beats": self._beats}).encode()

    def _is_mine(self) -> bool:
        found = _read(self._directory)
        return found is not None and found.token == self.token

    def _keep_alive(self) -> None:
        while not self._lost and not self._released.wait(BEAT_SECONDS):
            with suppress(Exception):  # the store may be back at the next beat
                self._beat()

    def _beat(self) -> None:
        """Only over what was just read: what another process wrote since then is left alone, and read next time."""
        begun = time.monotonic()
        self._beats += 1
        found = _read(self._directory)
        if found is None or found.token != self.token:
            self._lost = True
        elif conditional.replace(self._object, self._content(), found.stamp):
            self._beaten = begun


class _Found(NamedTuple):
    """A lock in a store. stamp: as `storage.describe` says."""

    holder: str
    token: str
    stamp: str


def _read(directory: Path) -> _Found | None:
    """None where there is none. Raises `RunError` for an object that no version of this tool wrote."""
    file = directory / NAME
    try:
        described = storage.describe(file)
        content = storage.read_bytes(file) if described.size <= LONGEST_STORED else b""
    except FileNotFoundError:
        return None
    try:
        said = json.loads(content)
        holder, token = said["holder"], said["token"]
        if not (isinstance(holder, str) and isinstance(token, str)):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RunError(
            f"{file}: expected the lock of a run, but found something else ({described.size} bytes); delete it once no "
            f"process writes to {directory}"
        ) from None
    return _Found(" ".join(holder.split()), token, described.stamp)


def _refuse_fresh(directory: Path) -> _Found | None:
    """The lock of a holder who is silent; None where there is none."""
    found = _read(directory)
    if found is None:
        return None
    try:
        silent = conditional.seconds_since_written(directory / NAME)
    except FileNotFoundError:  # released meanwhile
        return None
    if silent < FRESH_SECONDS:
        raise RunError(
            f"{directory}: another process ({found.holder}) is writing this run; wait for it or choose another --out "
            f"(where it was killed, wait {max(FRESH_SECONDS - silent, 1):.0f} s, or delete {directory / NAME})"
        )
    return found
