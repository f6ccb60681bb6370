"""Signals, processes and waiting: a test that uses these depends neither on who started it nor on how busy the machine
is."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds that a busy machine may take for what a quiet one does at once."""
DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
"""Handlers of a Python that was started from a terminal."""


@contextmanager
def default_signals(ignored: Sequence[signal.Signals] = ()) -> Iterator[None]:
    """As if this process had been started from a terminal, or with some signals ignored.

    Processes that are started meanwhile inherit it: what has a handler here has the system's default there.
    """
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFAULTS)
    before = {number: signal.getsignal(number) for number in DEFAULTS}
    try:
        for number, handler in DEFAULTS.items():
            signal.signal(number, signal.SIG_IGN if number in ignored else handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextmanager
def started(
    command: Sequence[str | Path], ignored: Sequence[signal.Signals] = (), **options: Any
) -> Iterator[subprocess.Popen]:
    """A process with default signals, which is killed if it still runs when the block ends.

    options: as in subprocess.Popen.
    """
    with default_signals(ignored):
        process = subprocess.Popen(command, **options)
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], Any], process: subprocess.Popen | None = None) -> Any:
    """Returns what the condition gives once that is true; fails when it takes too long, or when the process ends."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process is None or process.poll() is None, f"it ended with {process.returncode} before it was true"
        assert time.monotonic() < deadline, f"it was not true within {PATIENCE:.0f} s"
        time.sleep(0.02)
    return found


def is_alive(process: int) -> bool:
    """Whether a process of this id runs; one that left nothing but its exit status does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def free_port() -> int:
    """A port that is free, below those that Linux gives to connections while a server is still starting."""
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything: be somebody else for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
