"""Objects that wait on the disk: added in one order, read in another."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Iterator
from typing import IO, Generic, TypeVar

Item = TypeVar("Item")


class Spool(Generic[Item]):
    """Over an empty file, open for both; memory holds 8 bytes a place."""

    def __init__(self, file: IO[bytes], places: int) -> None:
        self._file = file
        self._offsets = array("q", [-1]) * places

    def put(self, place: int, item: Item) -> None:
        self._offsets[place] = self._file.seek(0, 2)
        pickle.dump(item, self._file)

    def filled(self) -> list[int]:
        """Places that have an item."""
        return [place for place, offset in enumerate(self._offsets) if offset >= 0]

    def read(self, places: list[int]) -> Iterator[Item]:
        for place in places:
            self._file.seek(self._offsets[place])
            yield pickle.load(self._file)
