"""Signals that ask the program to end: Ctrl-C and SIGTERM.

One that was ignored when the program was started, as `nohup` and shells do for background jobs, stays ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether a signal has come; a second signal acts as it did before."""
    stopped = False
    before = {number: signal.getsignal(number) for number in ENDING}
    heeded = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        heeded = {}

    def restore() -> None:
        for number, handler in heeded.items():
            signal.signal(number, handler)

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        restore()
        stopped = True

    for number in heeded:
        signal.signal(number, stop)
    try:
        yield lambda: stopped
    finally:
        restore()


@contextmanager
def ignored_stay_ignored() -> Iterator[None]:
    """Around a library that sets handlers of its own without a look at what was ignored."""
    ignored = [number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN]
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)


def leave_to_the_program() -> None:
    """Keeps these signals from this thread and from the processes that it starts, which the program ends itself."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
