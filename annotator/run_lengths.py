"""COCO's compressed run lengths as numbers, without going through pixels.

A string holds the lengths of gap, run, gap, run, ... in column-major order. A character is 48 + five bits of a number,
lowest first, + 32 where more follow; the last one's bit 4 is the sign. From the fourth number on it is the difference
to the number two before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FIRST = np.uint8(48)
DIGIT, SIGN, MORE, MOST_BITS = 0x1F, 0x10, 0x20, 0x3F
LONGEST_NUMBER = 7
"""Characters: 35 bits, more than a run can have pixels."""
LONGEST_RUN = 2**31

Ints = NDArray[np.int64]


class Totals(NamedTuple):
    """Per string: all its pixels, those of its runs alone, and whether the string can be read at all."""

    pixels: Ints
    area: Ints
    whole: NDArray[np.bool_]


def run_lengths(rle: bytes) -> Ints:
    """One string -> lengths of gap, run, gap, run, ..."""
    lengths, _, _ = _numbers(np.frombuffer(rle, dtype=np.uint8) - FIRST)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def totals(strings: NDArray[np.uint8], bounds: Ints) -> Totals:
    """Many strings in a row, of which number i begins at bounds[i] and ends at bounds[i + 1]; any bytes will do."""
    bits = strings[bounds[0] : bounds[-1]] - FIRST
    bounds = bounds - bounds[0]
    whole = np.diff(bounds) > 0
    there = np.flatnonzero(whole)
    pixels, area = np.zeros(len(whole), np.int64), np.zeros(len(whole), np.int64)
    if not there.size:
        return Totals(pixels, area, whole)

    def spoil(characters: Ints) -> None:
        whole[np.searchsorted(bounds, characters, side="right") - 1] = False

    spoil(np.flatnonzero(bits > MOST_BITS))
    closing = bounds[there + 1] - 1
    whole[there] &= bits[closing] & MORE == 0
    bits[closing] &= MORE - 1  # so that no number goes on into the next string
    values, ends, sizes = _numbers(bits)
    spoil(ends[sizes > LONGEST_NUMBER])

    numbers = np.searchsorted(ends, bounds[there])  # the first one of each string
    counts = np.diff(numbers, append=len(ends))
    gaps = values[numbers]  # those that strings begin with; nothing is told as the difference to them
    values[numbers] = 0
    pairs, begins = _in_pairs(values, numbers, counts)
    lengths = np.cumsum(pairs, axis=0)
    lengths -= np.repeat(lengths[begins], np.diff(begins, append=len(pairs)), axis=0)
    lengths[np.append(begins[1:], len(pairs))[counts % 2 == 0] - 1, 1] = 0  # there is no last gap
    if lengths.min() < 0 or lengths.max() > LONGEST_RUN:
        wrong = np.flatnonzero(((lengths < 0) | (lengths > LONGEST_RUN)).any(axis=1))
        whole[there[np.searchsorted(begins, wrong, side="right") - 1]] = False
    whole[there] &= (gaps >= 0) & (gaps <= LONGEST_RUN)
    runs_and_gaps = np.add.reduceat(lengths, begins)
    area[there] = runs_and_gaps[:, 0]
    pixels[there] = gaps + runs_and_gaps.sum(axis=1)
    return Totals(pixels, area, whole)


def _in_pairs(values: Ints, numbers: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Rows (0, first gap), (run, gap), (run, gap), ... of each string, the last gap 0 where it has none, and in which
    row each string begins."""
    rows = counts // 2 + 1
    begins = np.cumsum(rows) - rows
    pairs = np.zeros((int(rows.sum()), 2), np.int64)
    cells = np.arange(len(values))
    cells += np.repeat(2 * begins + 1 - numbers, counts)
    pairs.reshape(-1)[cells] = values
    return pairs, begins


def _numbers(bits: NDArray[np.uint8]) -> tuple[Ints, Ints, Ints]:
    """Numbers as they stand there, differences included; where the last character of each is, and how many it has."""
    ends = np.flatnonzero(bits & MORE == 0)
    begins = np.append(0, ends[:-1] + 1)
    further = ends - begins
    values = (bits[begins] & DIGIT).astype(np.int64)
    longer = np.flatnonzero(further)
    for digit in range(1, LONGEST_NUMBER + 1):
        values[longer] |= (bits[begins[longer] + digit] & DIGIT).astype(np.int64) << 5 * digit
        longer = longer[further[longer] > digit]
    negative = np.flatnonzero(bits[ends] & SIGN)
    values[negative] -= np.int64(32) << 5 * np.minimum(further[negative], LONGEST_NUMBER)
    return values, ends, further + 1
