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
    lengths, _ = _numbers(np.frombuffer(rle, dtype=np.uint8) - FIRST)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def totals(strings: NDArray[np.uint8], bounds: Ints) -> Totals:
    """Many strings in a row, of which number i begins at bounds[i] and ends at bounds[i + 1]; any bytes will do."""
    bits = strings[bounds[0] : bounds[-1]] - FIRST
    bounds = bounds - bounds[0]
    there = np.flatnonzero(np.diff(bounds))
    whole = np.diff(bounds) > 0
    pixels, area = np.zeros(len(whole), np.int64), np.zeros(len(whole), np.int64)
    if not there.size:
        return Totals(pixels, area, whole)

    def spoil(characters: Ints) -> None:
        whole[np.searchsorted(bounds, characters, side="right") - 1] = False

    spoil(np.flatnonzero(bits > MOST_BITS))
    closing = bounds[there + 1] - 1
    whole[there] &= bits[closing] & MORE == 0
    bits[closing] &= MORE - 1  # so that no number goes on into the next string
    values, ends = _numbers(bits)
    spoil(ends[np.diff(ends, prepend=-1) > LONGEST_NUMBER])

    first = np.searchsorted(ends, bounds[there])  # number of each string
    counts = np.diff(first, append=len(ends))
    place = np.arange(len(ends)) - np.repeat(first, counts)
    pixels[there] = values[first]
    odd = place & 1 == 1
    for chain in (odd, ~odd & (place > 0)):
        begins = np.cumsum(chain) - chain  # of each string's part of the chain, where it has one
        begins = np.append(begins[first], np.count_nonzero(chain))
        has = np.flatnonzero(np.diff(begins))
        if has.size:
            lengths = _summed_up(values[chain], begins[has], np.diff(begins)[has])
            values[chain] = lengths
            sums = np.add.reduceat(lengths, begins[has])
            pixels[there[has]] += sums
            if chain is odd:
                area[there[has]] = sums
    spoil(ends[(values < 0) | (values > LONGEST_RUN)])
    return Totals(pixels, area, whole)


def _numbers(bits: NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Numbers as they stand there, differences included, and where the last character of each is."""
    ends = np.flatnonzero(bits & MORE == 0)
    begins = np.append(0, ends[:-1] + 1)
    sizes = ends - begins
    values = (bits[begins] & DIGIT).astype(np.int64)
    for digit in range(1, min(int(sizes.max(initial=0)), LONGEST_NUMBER) + 1):
        longer = np.flatnonzero(sizes >= digit)
        values[longer] |= (bits[begins[longer] + digit] & DIGIT).astype(np.int64) << 5 * digit
    negative = np.flatnonzero(bits[ends] & SIGN)
    values[negative] -= np.int64(32) << 5 * np.minimum(sizes[negative], LONGEST_NUMBER)
    return values, ends


def _summed_up(differences: Ints, begins: Ints, counts: Ints) -> Ints:
    """Sums of each group from its own beginning on."""
    sums = np.cumsum(differences)
    return sums - np.repeat(sums[begins] - differences[begins], counts)
