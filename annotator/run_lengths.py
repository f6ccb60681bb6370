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
    gaps = values[numbers]  # those that strings begin with; nothing is told as the difference to them
    values[numbers] = 0
    lengths = _summed_up(values, numbers)
    if lengths.min() < 0 or lengths.max() > LONGEST_RUN:
        spoil(ends[(lengths < 0) | (lengths > LONGEST_RUN)])
    whole[there] &= (gaps >= 0) & (gaps <= LONGEST_RUN)
    both = np.add.reduceat(lengths, numbers)
    lengths[::2] *= -1
    runs_less_gaps = np.add.reduceat(lengths, numbers) * (1 - 2 * (numbers % 2))
    area[there] = (both + runs_less_gaps) // 2
    pixels[there] = gaps + both
    return Totals(pixels, area, whole)


def _summed_up(values: Ints, numbers: Ints) -> Ints:
    """Each the sum of every second one up to it, from the first of its string on."""
    lengths = np.empty_like(values)
    for parity in (0, 1):
        sums = np.cumsum(values[parity::2])
        begins = (numbers + 1 - parity) // 2  # among these, of each string
        before = np.append(0, sums)[begins]
        lengths[parity::2] = sums - np.repeat(before, np.diff(begins, append=len(sums)))
    return lengths


def _numbers(bits: NDArray[np.uint8]) -> tuple[Ints, Ints, Ints]:
    """Numbers as they stand there, differences included; where the last character of each is, and how many it has."""
    ends = np.flatnonzero(bits & MORE == 0)
    begins = np.append(0, ends[:-1] + 1)
    further = ends - begins
    last = ((bits & DIGIT ^ SIGN).view(np.int8) - np.int8(SIGN))[ends]
    values = last.astype(np.int64)
    longer = np.flatnonzero(further)
    values[longer] <<= 5 * np.minimum(further[longer], LONGEST_NUMBER)
    for digit in range(LONGEST_NUMBER):
        values[longer] += (bits[begins[longer] + digit] & DIGIT).astype(np.int64) << 5 * digit
        longer = longer[further[longer] > digit + 1]
    return values, ends, further + 1
