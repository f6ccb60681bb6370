"""Decoding in worker processes: ordered, bounded, and safe from photos that crash or hang a decoder.

A worker that dies is started again. Where it had a photo, that is tried once more, alone; a photo that kills two
workers is to blame. Where workers die without a photo, decoding is broken, and so is where the photos are gone.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pickle
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from annotator.engines import decode_worker
from annotator.engines.photo_folders import PhotoFolders
from annotator.errors import BrokenError, ImageError, UnclearError
from annotator.images import ImageRef, Photo, decode
from annotator.interrupts import leave_to_the_program
from annotator.stages import staged

SECONDS_PER_PHOTO = 120.0
START_SECONDS = 120.0
"""A worker that has taken no photo by then is started again."""
PIPE_BYTES = 1 << 20
"""A photo fits: through the 64 KiB that pipes have by themselves it goes in a dozen pieces, and both wait for each."""
STARTS = 5
"""After so many workers in a row that took no photo, none is started any more."""
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from annotator.engines.decode_worker import main; main()"
)

Decoded = tuple[ImageRef, Photo | ImageError]


class DecodePool:
    """Decodes photos in `workers` processes (0: in this one), at most `ahead` photos ahead of the caller."""

    def __init__(self, workers: int, ahead: int, *, working_side: int | None, max_pixels: int) -> None:
        self._workers = workers
        self._ahead = max(ahead, 1)
        self._working_side = working_side
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(
            max(workers, 1),
            thread_name_prefix="decode",
            initializer=leave_to_the_program,  # where every process gets SIGTERM, no photo fails for it
        )
        self._folders = PhotoFolders()
        self._alone = threading.Lock()  # of photos that killed a worker, one is tried again at a time
        self._own = threading.local()
        self._started: list[_Worker] = []
        self._ended = False
        self._lock = threading.Lock()  # a thread must not start a worker that nobody would end

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._ended = True
        for worker in self._started:
            worker.end()

    def decode(self, refs: Iterable[ImageRef]) -> Iterator[Decoded]:
        """Every photo, or the reason why there is none, in the order of `refs`.

        Raises `BrokenError` where no photo can be decoded any more.
        """
        waiting: deque[tuple[ImageRef, Future[Photo | ImageError]]] = deque()
        for ref in refs:
            self._folders.remember(ref.root)
            waiting.append((ref, self._threads.submit(self._decode, ref)))
            if len(waiting) > self._ahead:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)

    @staged("decode")
    def _decode(self, ref: ImageRef) -> Photo | ImageError:
        try:
            if not self._workers:
                return decode(ref.file, working_side=self._working_side, max_pixels=self._max_pixels)
            return self._worker().decode(ref.file, self._working_side, self._max_pixels)
        except UnclearError as error:
            self._folders.check(ref.root)
            return error
        except ImageError as error:
            return error

    def _worker(self) -> _Worker:
        """This thread's."""
        if not hasattr(self._own, "worker"):
            with self._lock:
                if self._ended:
                    raise ImageError("decoding was stopped")
                self._own.worker = _Worker(self._alone)
                self._started.append(self._own.worker)
        worker: _Worker = self._own.worker
        return worker


@staged("waiting for decode")
def _next(waiting: deque[tuple[ImageRef, Future[Photo | ImageError]]]) -> Decoded:
    ref, future = waiting.popleft()
    return ref, future.result()


class _Died(Exception):
    """A worker did, while it had a photo; said is how."""


class _Worker:
    """One worker process; a new one is started when it died or had to be killed.

    alone: held while a photo is tried again that killed a worker.
    """

    def __init__(self, alone: threading.Lock) -> None:
        self._alone = alone
        self._ended = False
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps([str(Path(entry).resolve()) for entry in sys.path])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the program, which then ends its workers
            )
        except OSError as error:
            raise BrokenError(
                f"cannot start a process that decodes photos: {error.strerror or error}; end what else runs here, or "
                "lower --workers"
            ) from None
        with suppress(OSError, AttributeError):  # where there is none so large
            fcntl.fcntl(_pipe(self._process.stdout), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._answers = _Answers(_pipe(self._process.stdout))
        self._reader = io.BufferedReader(self._answers)

    def decode(self, path: Path, working_side: int | None, max_pixels: int) -> Photo:
        request = path, working_side, max_pixels
        try:
            return self._decode(request)
        except _Died:  # of the photo, or of the memory that others took, or by a hand
            with self._alone:
                try:
                    return self._decode(request)
                except _Died as death:
                    raise UnclearError(f"decoding it killed its process twice ({death})") from None

    def _decode(self, request: object) -> Photo:
        self._hand_over(request)
        self._answers.deadline = time.monotonic() + SECONDS_PER_PHOTO
        try:
            return decode_worker.receive(self._reader)
        except TimeoutError:
            self._restart()
            raise ImageError(f"decoding took longer than {SECONDS_PER_PHOTO:.0f} s") from None
        except (EOFError, pickle.UnpicklingError):
            raise _Died(self._restart()) from None

    def _hand_over(self, request: object) -> None:
        """Returns when a worker has taken the request; one that died before did not die of it."""
        for _ in range(STARTS):
            self._answers.deadline = time.monotonic() + START_SECONDS
            with suppress(BrokenPipeError, TimeoutError):
                pickle.dump(request, requests := _pipe(self._process.stdin))
                requests.flush()
                if self._reader.read(1) == decode_worker.TAKEN:
                    return
            death = self._restart()
        raise BrokenError(
            f"the processes that decode photos do not start: {STARTS} in a row ended ({death}) before they took a "
            "photo; see what ends them, or decode in this process with --workers 0"
        )

    def _restart(self) -> str:
        """Ends the process, starts another; says how the old one ended."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with self._lock:
            if not self._ended:
                self._close()
                self._start()
        return f"{'signal ' if code < 0 else 'exit code '}{abs(code)}"

    def end(self) -> None:
        with self._lock:
            self._ended = True
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        with suppress(BrokenPipeError):  # half a request was waiting in it
            _pipe(self._process.stdin).close()
        self._reader.close()  # waits for a thread that reads from it


class _Answers(io.RawIOBase):
    """What comes out of a worker's pipe; `TimeoutError` where that stays away until `deadline`."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._ready = select.poll()  # `select` cannot wait for files numbered above 1,024
        self._ready.register(pipe, select.POLLIN)
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ready.poll(max(self.deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError
        return os.readv(self._pipe.fileno(), [buffer])

    def close(self) -> None:
        super().close()
        self._pipe.close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
