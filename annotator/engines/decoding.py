"""Decoding in worker processes: ordered, bounded, and safe from photos that crash or hang a decoder."""

from __future__ import annotations

import json
import pickle
import select
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from annotator.engines import decode_worker
from annotator.errors import ImageError
from annotator.images import ImageRef, Photo, decode
from annotator.interrupts import leave_to_the_program
from annotator.stages import staged

SECONDS_PER_PHOTO = 120.0
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
        """Every photo, or the reason why there is none, in the order of `refs`."""
        waiting: deque[tuple[ImageRef, Future[Photo | ImageError]]] = deque()
        for ref in refs:
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
        except ImageError as error:
            return error

    def _worker(self) -> _Worker:
        """This thread's."""
        if not hasattr(self._own, "worker"):
            with self._lock:
                if self._ended:
                    raise ImageError("decoding was stopped")
                self._own.worker = _Worker()
                self._started.append(self._own.worker)
        worker: _Worker = self._own.worker
        return worker


@staged("waiting for decode")
def _next(waiting: deque[tuple[ImageRef, Future[Photo | ImageError]]]) -> Decoded:
    ref, future = waiting.popleft()
    return ref, future.result()


class _Worker:
    """One worker process; a new one is started when it died or had to be killed."""

    def __init__(self) -> None:
        self._ended = False
        self._lock = threading.Lock()
        self._process = self._start()

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps([str(Path(entry).resolve()) for entry in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the program, which then ends its workers
        )

    def decode(self, path: Path, working_side: int | None, max_pixels: int) -> Photo:
        requests, answers = _pipe(self._process.stdin), _pipe(self._process.stdout)
        try:
            pickle.dump((path, working_side, max_pixels), requests)
            requests.flush()
            if not _answers_within(answers, SECONDS_PER_PHOTO):
                self._restart()
                raise ImageError(f"decoding took longer than {SECONDS_PER_PHOTO:.0f} s")
            return decode_worker.receive(answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code = self._restart()
            raise ImageError(
                f"the decoder crashed on it ({'signal ' if code < 0 else 'exit code '}{abs(code)})"
            ) from None

    def _restart(self) -> int:
        """Ends the process, starts another; returns the old one's exit code."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with self._lock:
            if not self._ended:
                self._process = self._start()
        return code

    def end(self) -> None:
        with self._lock:
            self._ended = True
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # half a request was waiting in it
            _pipe(self._process.stdin).close()
        _pipe(self._process.stdout).close()


def _answers_within(answers: IO[bytes], seconds: float) -> bool:
    """`poll`, for `select` cannot wait for files numbered above 1,024."""
    waiting = select.poll()
    waiting.register(answers, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
