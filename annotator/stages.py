"""Where the time goes: named stages, timed per thread, and only while somebody measures.

    @staged("classify")
    def probabilities(...): ...

    with stage("write"):
        ...

Outside of `measuring` a stage costs a fraction of a microsecond. A stage inside another one is taken out of it, so
that the stages of one thread never add up to more than the wall clock. A stage must not span a `yield`.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ParamSpec, TypeVar

Item = TypeVar("Item")
Given = ParamSpec("Given")
Result = TypeVar("Result")
Spent = tuple[str, str]
"""Name of a thread, name of a stage."""
_END = object()


class Clock:
    """Seconds per thread and stage.

    synchronise: waits for work that was only handed over, as a GPU's is; called wherever a stage begins or ends in the
    thread that made the clock.
    """

    def __init__(self, synchronise: Callable[[], None] = lambda: None) -> None:
        self._synchronise = synchronise
        self._maker = threading.get_ident()
        self._own = threading.local()
        self._lock = threading.Lock()
        self._threads: list[_ThreadClock] = []

    def seconds(self) -> dict[Spent, float]:
        """Of all stages that have ended; threads of one name count as one."""
        total: defaultdict[Spent, float] = defaultdict(float)
        with self._lock:
            for thread in self._threads:
                for name, seconds in list(thread.seconds.items()):
                    total[thread.name, name] += seconds
        return dict(total)

    def synchronise(self) -> None:
        if threading.get_ident() == self._maker:
            self._synchronise()

    def of_this_thread(self) -> _ThreadClock:
        if not hasattr(self._own, "clock"):
            self._own.clock = _ThreadClock(threading.current_thread().name)
            with self._lock:
                self._threads.append(self._own.clock)
        clock: _ThreadClock = self._own.clock
        return clock


class _ThreadClock:
    """running: stages under way, the innermost last; since: when the time that is not booked yet began."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.running: list[str] = []
        self.since = 0.0

    def book(self) -> None:
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now


class _Running:
    """One stage while a clock runs."""

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._name = name

    def __enter__(self) -> None:
        self._clock.synchronise()
        self._thread = self._clock.of_this_thread()
        self._thread.book()
        self._thread.running.append(self._name)

    def __exit__(self, *_: object) -> None:
        self._clock.synchronise()
        self._thread.book()
        self._thread.running.pop()


class _NotMeasured:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


_NOT_MEASURED = _NotMeasured()
_clock: Clock | None = None


def stage(name: str) -> AbstractContextManager[None]:
    """Books the time inside to that name."""
    return _NOT_MEASURED if _clock is None else _Running(_clock, name)


def staged(name: str) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Decorator of a function (not of a generator): every call is such a stage."""

    def decorate(function: Callable[Given, Result]) -> Callable[Given, Result]:
        @functools.wraps(function)
        def call(*arguments: Given.args, **named: Given.kwargs) -> Result:
            with stage(name):
                return function(*arguments, **named)

        return call

    return decorate


def staged_items(name: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items, and the time that it takes to get each is booked to that name."""
    source = iter(items)
    while True:
        with stage(name):
            item = next(source, _END)
        if item is _END:
            return
        yield item  # type: ignore[misc]


@contextmanager
def measuring(clock: Clock) -> Iterator[Clock]:
    """Stages of all threads are booked to this clock."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield clock
    finally:
        _clock = before
