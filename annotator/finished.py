"""Which photos of a run have a row already: tens of millions of them as sorted digests, 16 bytes each.

A digest has two halves. The higher one is of the path (BLAKE2b), the lower one of the path and of the size and time
of the file that the row was made from. So what is asked for is told apart in 128 bits where path and file are the
same, which two of 100 million photos share with a chance of 10^-23. By its path alone a photo is known with 64 bits,
which err in one of some thousand such runs: whoever asks so looks into the parts before a photo is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]
"""n x 2: the higher and the lower half."""

Bools = NDArray[np.bool_]

NO_DIGESTS: Digests = np.zeros((0, 2), dtype=np.uint64)


def digests_of(
    paths: Iterable[str], sizes: NDArray[np.int64] | None = None, mtimes: NDArray[np.float64] | None = None
) -> Digests:
    """In the order of `paths`. sizes, mtimes: of the files; 0, as in the rows of photos that could not be opened, and
    nothing give the same digests."""
    joined = b"".join([blake2b(path.encode(), digest_size=16).digest() for path in paths])
    digests = np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return digests if sizes is None or mtimes is None else of_files(digests, sizes, mtimes)


def of_files(digests: Digests, sizes: NDArray[np.int64], mtimes: NDArray[np.float64]) -> Digests:
    """Of paths alone -> of paths and of files."""
    mixed = _mixed(_mixed(sizes.astype(np.uint64)) ^ (mtimes.astype(np.float64) + 0.0).view(np.uint64))
    return np.stack([digests[:, 0], digests[:, 1] + mixed], axis=1)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The last step of SplitMix64, which scatters numbers that are alike; 0 stays 0."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Finished:
    """It does not follow what is written after it was made."""

    def __init__(self, high: Digests | None = None, low: Digests | None = None) -> None:
        """high, low: n numbers each, the halves of digests in any order; both are sorted in place."""
        self._high = NO_DIGESTS[:, 0] if high is None else high
        self._low = NO_DIGESTS[:, 1] if low is None else low
        order = np.argsort(self._high)
        self._high[:] = self._high[order]
        self._low[:] = self._low[order]

    @classmethod
    def of(cls, paths: Iterable[str]) -> Finished:
        """Of photos that could not be opened."""
        digests = digests_of(paths)
        return cls(digests[:, 0].copy(), digests[:, 1].copy())

    def __len__(self) -> int:
        return len(self._high)

    def __contains__(self, path: str) -> bool:
        return bool(self.among([path])[0])

    def has(self, path: str, size: int, mtime: float) -> bool:
        """Whether the photo has a row that was made from this very file."""
        return bool(self.holds(digests_of([path], np.array([size]), np.array([mtime])))[0])

    def among(self, paths: Sequence[str]) -> Bools:
        """For each path whether it has a row, with a chance to err of 64 bits; a thousand at once take a sixth of the
        time of asking each."""
        return self.knows(digests_of(paths))

    def knows(self, digests: Digests) -> Bools:
        """The same of their digests, of which only the higher half counts."""
        places = np.searchsorted(self._high, digests[:, 0])
        inside = places < len(self._high)
        inside[inside] = self._high[places[inside]] == digests[inside, 0]
        return inside

    def holds(self, digests: Digests) -> Bools:
        """For each photo whether it has a row that was made from that very file."""
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
