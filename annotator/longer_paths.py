"""Lets all paths of a run begin with some folders more, since its photos are now named from a folder above.

Every file with paths is first written again beside the old one. Then run.json says that the new ones hold
(`MOVING`), and they take the places of the old ones. A process killed before that has changed nothing, and what
one leaves undone that is killed later, the next command does. In a store the new parts are of a new generation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from annotator import corrections, ledger, storage
from annotator.errors import RunError
from annotator.files import move
from annotator.locks import acquire
from annotator.manifest import MOVING, Manifest
from annotator.parts import (
    begin_generation,
    current_generation,
    part_files,
    part_number,
    part_path,
    parts_folder,
    read_columns,
    write_table,
)
from annotator.record import ROW

NEW = ".moved"


def lengthen(directory: Path, root: str, between: str) -> None:
    """Before a run goes on. root: the folder above. between: leads from it to the run's own; "" to finish only."""
    if not between and Manifest.load(directory).state != MOVING:
        return
    lock = acquire(directory)
    try:
        lock.sign()
        found = Manifest.load(directory)
        if found.state != MOVING and found.image_root == f"{root.rstrip('/')}/{between}":
            _write_beside(directory, between)
            found = replace(found, state=MOVING, image_root=root)
            found.save(directory)
        if found.image_root != root:
            raise RunError(f"{directory}: another process has changed where this run's photos are; try again")
        if found.state == MOVING:
            _take_places(directory)
            replace(found, state="interrupted").save(directory)
    finally:
        lock.release()


def _write_beside(directory: Path, between: str) -> None:
    for left in _written(directory):
        storage.delete(left)
    generation = current_generation(directory) + 1
    for part in part_files(directory):
        is_remote = storage.is_remote(part)
        new = part_path(directory, part_number(part.name), generation) if is_remote else _beside(part)
        write_table(new, _longer(read_columns(part, ROW.names), between))
    for pull in corrections.files(directory):
        storage.write_bytes(_beside(pull), corrections.written(_longer(corrections.read(pull), between)))


def _take_places(directory: Path) -> None:
    ledger.remove_ledgers(directory)
    if not storage.is_remote(directory):
        for new in _written(directory):
            move(new, new.with_name(new.name.removesuffix(NEW)), durable=True)
    elif _written(directory):
        old = part_files(directory)
        begin_generation(directory)
        for part in old:
            storage.delete(part)


def _written(directory: Path) -> list[Path]:
    if storage.is_remote(directory):
        return part_files(directory, current_generation(directory) + 1)
    folders = (parts_folder(directory), corrections.folder_of(directory))
    return [folder / file.name for folder in folders for file in storage.list_files(folder) if file.name.endswith(NEW)]


def _beside(file: Path) -> Path:
    return file.with_name(file.name + NEW)


def _longer(rows: pa.Table, between: str) -> pa.Table:
    """In the same order, as all of them begin alike."""
    place = rows.schema.get_field_index("path")
    return rows.set_column(place, rows.schema.field(place), pc.binary_join_element_wise(between, rows["path"], "/"))
