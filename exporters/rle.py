"""COCO's compressed run lengths as numbers, without going through pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def run_lengths(rle: bytes) -> NDArray[np.int64]:
    """COCO's `counts` string -> lengths of gap, run, gap, run, ... in column-major order.

    A character is 48 + five bits of a number, lowest first, + 32 where more follow; the last one's bit 4 is
    the sign. From the fourth number on it is the difference to the number two before.
    """
    characters = np.frombuffer(rle, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(characters & 0x20 == 0)
    starts = np.append(0, ends[:-1] + 1)
    shifts = 5 * (np.arange(characters.size) - np.repeat(starts, ends - starts + 1))
    lengths = np.add.reduceat((characters & 0x1F) << shifts, starts)
    lengths -= np.where(characters[ends] & 0x10, np.int64(32) << shifts[ends], 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def runs_of(values: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Values in a row -> lengths of gap, run, gap, run, ...; only the first may be 0."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    bounds = np.concatenate(([0] * (1 + bool(values[0])), changes, [values.size]))
    return np.diff(bounds)
