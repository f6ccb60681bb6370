"""How fast a run is, and how long the rest of it takes."""

from __future__ import annotations

TOGETHER = 0.1
"""A batch that comes within this share of a batch's usual time was finished together with the one before it, as the
last one is, which waits for no other."""


class Pace:
    """Photos per second, from the times at which their records come.

    Records come in batches, and the first one waits for all that happens only once. A batch takes the time from the
    first record of the batch before it to its own first record, so only these times count, and there is no rate until
    the second batch is there.
    """

    def __init__(self, at_once: int) -> None:
        """at_once: photos of a batch."""
        self.done = 0
        self._at_once = at_once
        self._first = 0.0
        self._seconds = 0.0
        self._timed = 0

    def add(self, now: float) -> None:
        """Takes in that a record came."""
        if not self.done:
            self._first = now
        elif self.done % self._at_once == 0:
            seconds = now - self._first
            usual = self._seconds * self._at_once / self._timed if self._timed else 0.0
            if seconds - self._seconds >= TOGETHER * usual:
                self._seconds, self._timed = seconds, self.done
        self.done += 1

    @property
    def rate(self) -> float | None:
        """None before it can be known."""
        return self._timed / self._seconds if self._seconds else None


def pace_text(rate: float | None, left: int | None) -> str:
    """0.5 and 30 -> "0.50/s, 1 min left". left: photos; None where it is not known how many there are."""
    if left == 0:
        return "" if rate is None else f"{rate:.2f}/s"
    if rate is None:
        return "estimating"
    return f"{rate:.2f}/s" if left is None else f"{rate:.2f}/s, {duration(left / rate)} left"


def duration(seconds: float) -> str:
    """3725 -> 1 h 2 min."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours / 24:.1f} days"
