"""The photos that a run has left to label: found while it labels, each once, and counted."""

from __future__ import annotations

import pickle
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from annotator.images import ImageRef

MOST_AHEAD = 1_000_000
"""Photos that are found ahead of the run: about 10 MB, since sorted paths compress well."""
PACKED = 1024
"""Photos that are kept compressed together."""


class Listing:
    """Gives the photos in their order, at most `limit` of them, and may look ahead to count them.

    refs:     photos without a row.
    finished: says how many photos have one already.
    at_once:  how many photos are labelled together, so that their records come in one go; the engine knows.
    """

    def __init__(
        self,
        refs: Iterable[ImageRef],
        limit: int | None = None,
        finished: Callable[[], int] = lambda: 0,
        at_once: int = 1,
    ) -> None:
        self.at_once = at_once
        self._count_finished = finished
        self._refs = iter(refs)
        self._limit = limit
        self._lock = threading.Lock()  # an engine may ask in a thread of its own
        self._next: deque[ImageRef] = deque()
        self._packed: deque[bytes] = deque()
        self._last: list[ImageRef] = []
        self._given = 0
        self._found = 0
        self._is_complete = False

    def __iter__(self) -> Iterator[ImageRef]:
        return self

    def __next__(self) -> ImageRef:
        with self._lock:
            if self._given == self._limit or (ref := self._take()) is None:
                raise StopIteration
            self._given += 1
            return ref

    @property
    def finished(self) -> int:
        """How many photos have a row; fewer when changed ones are found, whose rows are taken out."""
        return self._count_finished()

    @property
    def total(self) -> int | None:
        """How many photos the iteration gives in all; None until they are found."""
        if self._limit is not None and self._found >= self._limit:
            return self._limit
        return self._found if self._is_complete else None

    def look_ahead(self, seconds: float, most: int = MOST_AHEAD) -> None:
        """Finds photos for at most so long, and at most so many, unless the total is known."""
        until = time.monotonic() + seconds
        with self._lock:
            while self.total is None and most > 0 and time.monotonic() < until:
                if self._found - self._given >= MOST_AHEAD or (ref := self._find()) is None:
                    return
                self._keep(ref)
                most -= 1

    def leaves_photos(self) -> bool:
        """Whether there are more photos than were given."""
        with self._lock:
            if (ref := self._take()) is not None:
                self._next.appendleft(ref)
            return ref is not None

    def _take(self) -> ImageRef | None:
        if not self._next and self._packed:
            self._next.extend(pickle.loads(zlib.decompress(self._packed.popleft())))
        if not self._next:
            self._next.extend(self._last)
            self._last = []
        return self._next.popleft() if self._next else self._find()

    def _find(self) -> ImageRef | None:
        if self._is_complete:
            return None
        ref = next(self._refs, None)
        if ref is None:
            self._is_complete = True
        else:
            self._found += 1
        return ref

    def _keep(self, ref: ImageRef) -> None:
        self._last.append(ref)
        if len(self._last) == PACKED:
            self._packed.append(zlib.compress(pickle.dumps(self._last), 1))
            self._last = []
