"""Which photos of a run have a row already: tens of millions of paths as sorted digests, 16 bytes each.

A path's digest has 128 bits (BLAKE2b). Two of 100 million paths share one with a chance of 10^-23, and a bit less
would do; 64 bits would lose a photo in one of some thousand such runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

ASKED_AT_ONCE = 1024

Digests = NDArray[np.uint64]
"""n x 2: the higher and the lower half."""

NO_DIGESTS: Digests = np.zeros((0, 2), dtype=np.uint64)


class _HasPath(Protocol):
    @property
    def path(self) -> str: ...


Ref = TypeVar("Ref", bound=_HasPath)


def digests_of(paths: Iterable[str]) -> Digests:
    """In the order of `paths`."""
    joined = b"".join([blake2b(path.encode(), digest_size=16).digest() for path in paths])
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2)


class Finished:
    """Asked like a set of paths. It does not follow what is written after it was made."""

    def __init__(self, high: Digests | None = None, low: Digests | None = None) -> None:
        """high, low: n numbers each, the halves of digests in any order; both are sorted in place."""
        self._high = NO_DIGESTS[:, 0] if high is None else high
        self._low = NO_DIGESTS[:, 1] if low is None else low
        order = np.argsort(self._high)
        self._high[:] = self._high[order]
        self._low[:] = self._low[order]

    @classmethod
    def of(cls, paths: Iterable[str]) -> Finished:
        digests = digests_of(paths)
        return cls(digests[:, 0].copy(), digests[:, 1].copy())

    def __len__(self) -> int:
        return len(self._high)

    def __contains__(self, path: str) -> bool:
        return bool(self.among([path])[0])

    def among(self, paths: Sequence[str]) -> NDArray[np.bool_]:
        """For each path whether it is finished; a thousand at once take a sixth of the time of asking each."""
        digests = digests_of(paths)
        high, low = digests[:, 0], digests[:, 1]
        found = np.zeros(len(digests), dtype=np.bool_)
        places = np.searchsorted(self._high, high)
        left = np.arange(len(digests))
        while len(left):  # a second turn only where higher halves are shared
            left = left[places[left] < len(self._high)]
            left = left[self._high[places[left]] == high[left]]
            found[left] = self._low[places[left]] == low[left]
            left = left[~found[left]]
            places[left] += 1
        return found

    def left_of(self, refs: Iterable[Ref]) -> Iterator[Ref]:
        """Those of the photos that have no row, in their order."""
        refs = iter(refs)
        if not len(self):
            yield from refs
            return
        while chunk := list(islice(refs, ASKED_AT_ONCE)):
            finished = self.among([ref.path for ref in chunk]).tolist()
            yield from (ref for ref, known in zip(chunk, finished, strict=True) if not known)
