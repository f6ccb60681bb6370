"""COCO's compressed run lengths as numbers, without going through pixels.

A string holds the lengths of gap, run, gap, run, ... in column-major order. A character is 48 + five bits of a number,
lowest first, + 32 where more follow; the last one's bit 4 is the sign. From the fourth number on it is the difference
to the number two before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    lengths, _ = _numbers(np.frombuffer(rle, dtype=np.uint8))
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def totals(strings: NDArray[np.uint8], bounds: Ints) -> Totals:
    """Many strings in a row, of which number i begins at bounds[i] and ends at bounds[i + 1]; any bytes will do."""
    sizes = np.diff(bounds)
    there = np.flatnonzero(sizes)
    whole = sizes > 0
    pixels, area = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64)
    if not there.size:
        return Totals(pixels, area, whole)
    characters = strings[bounds[0] : bounds[-1]]
    string_of = np.repeat(np.arange(len(sizes)), sizes)
    whole[string_of[(characters < 48) | (characters > 111)]] = False
    closing = bounds[there + 1] - bounds[0] - 1
    whole[there] &= (characters[closing] - 48) & 0x20 == 0
    readable = characters.copy()
    readable[closing] = 48 + ((characters[closing] - 48) & 0x1F)  # so that no number goes on into the next string
    values, ends = _numbers(readable)
    long = np.diff(ends, prepend=-1) > LONGEST_NUMBER
    whole[string_of[ends[long]]] = False
    owner = string_of[ends]
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    whole[owner[(place == 0) & ((values < 0) | (values > LONGEST_RUN))]] = False
    pixels[owner[place == 0]] = values[place == 0]
    for chain in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        if chain.any():
            first, lengths, strings_met = _summed_up(values[chain], owner[chain])
            whole[owner[chain][(lengths < 0) | (lengths > LONGEST_RUN)]] = False
            sums = np.add.reduceat(lengths, first)
            pixels[strings_met] += sums
            if place[chain][0] == 1:
                area[strings_met] = sums
    return Totals(pixels, area, whole)


def _numbers(characters: NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Numbers as they stand there, differences included, and where the last character of each is."""
    bits = characters.astype(np.int64) - 48
    ends = np.flatnonzero(bits & 0x20 == 0)
    starts = np.append(0, ends[:-1] + 1)
    shifts = 5 * (np.arange(bits.size) - np.repeat(starts, ends - starts + 1))
    np.minimum(shifts, 5 * LONGEST_NUMBER, out=shifts)
    values = np.add.reduceat((bits & 0x1F) << shifts, starts)
    values -= np.where(bits[ends] & 0x10, np.int64(32) << shifts[ends], 0)
    return values, ends


def _summed_up(differences: Ints, owner: Ints) -> tuple[Ints, Ints, Ints]:
    """Sums from the first difference of each owner on; with where each owner begins, and which it is."""
    first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    sums = np.cumsum(differences)
    before = sums[first] - differences[first]
    counts = np.diff(np.append(first, len(owner)))
    return first, sums - np.repeat(before, counts), owner[first]
