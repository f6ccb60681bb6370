"""`todo/` of a run directory while Ray labels it: what is left to do, and parts that are not yet the run's.

    todo/TOKEN/plan-000000.parquet            photos to label, a row per part
    todo/TOKEN/parts/part-000123.parquet      written by an actor, moved into the run by the driver

The token is new in every session. The driver holds the run's lock and alone moves parts into the run, so an actor
that outlived its driver can only write where nobody looks any more.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotator import storage
from annotator.images import ImageRef
from annotator.parts import list_parts, part_number, parts_folder

FIRST_PARTS = 16
PLAN_PARTS = 256
"""Rows of a plan file: the first one has few, so that actors soon have work, and each next one twice as many."""

_PLAN = pa.schema(
    [
        ("part", pa.int64()),
        ("paths", pa.list_(pa.string())),
        ("names", pa.list_(pa.binary())),  # on disk, where that is not valid UTF-8 and so differs from the path
    ]
)


class Todo:
    """One session's folder. Only who holds the run's lock may make one."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "todo" / secrets.token_hex(8)
        remove_todo(directory)
        if not storage.is_remote(directory):
            parts_folder(self.folder).mkdir(parents=True)

    def plan(self, refs: Iterable[ImageRef], size: int) -> Iterator[str]:
        """Divides photos into parts of `size`, numbered from 0; gives the name of each plan file when it is there."""
        rows = _rows(iter(refs), size)
        for number in count():
            if not (chunk := list(islice(rows, min(FIRST_PARTS << min(number, 16), PLAN_PARTS)))):
                return
            content = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(chunk, schema=_PLAN), content, compression="zstd")
            name = f"plan-{number:06d}.parquet"
            storage.write_bytes(self.folder / name, content.getvalue())
            yield name

    def written(self) -> list[int]:
        """Numbers of the parts that actors wrote and that are not yet in the run."""
        return [part_number(file.name) for file in list_parts(self.folder)]


def remove_todo(directory: Path) -> None:
    """What sessions left there that were killed. Only who holds the run's lock may do this."""
    folder = directory / "todo"
    if not storage.is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)  # an actor of a dead session may be writing there
        return
    for _ in storage.each(storage.delete, [folder / name for name in storage.walk(folder)]):
        pass


def read_plan(file: Path) -> list[dict[str, Any]]:
    """The rows of a plan file."""
    return pq.read_table(pa.BufferReader(storage.read_bytes(file))).to_pylist()


def refs_of(row: dict[str, Any], root: Path) -> list[ImageRef]:
    """The photos of a row."""
    names = (name if name is None else os.fsdecode(name) for name in row["names"])
    return [ImageRef(root, path, name) for path, name in zip(row["paths"], names, strict=True)]


def _rows(refs: Iterator[ImageRef], size: int) -> Iterator[dict[str, Any]]:
    for number in count():
        if not (part := list(islice(refs, size))):
            return
        names = [None if ref.name_on_disk is None else os.fsencode(ref.name_on_disk) for ref in part]
        yield {"part": number, "paths": [ref.path for ref in part], "names": names}
