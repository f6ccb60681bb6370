"""Lets all paths of a run begin with some folders more, since its photos are now named from a folder above.

Every file with paths is first written again in the folder `moved`. Then run.json says that these hold (`MOVING`), and
they take the places of the old ones; in a store the parts are of a new generation. A process killed before that has
changed nothing, and what one leaves undone that is killed later, the next command does.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from annotator import corrections, ledger, storage
from annotator.errors import RunError
from annotator.files import make_folder, move, refuse_leading_out
from annotator.locks import acquire, alone_in
from annotator.manifest import MOVING, Manifest
from annotator.parts import (
    encoded,
    outdated_parts,
    part_files,
    part_number,
    part_path,
    parts_folder,
    read_columns,
)
from annotator.record import ROW

FOLDER = "moved"


def lengthen(directory: Path, root: str, between: str) -> None:
    """Before a run goes on. root: the folder above. between: leads from it to the run's own; "" to finish only."""
    if not between and Manifest.load(directory).state != MOVING:
        return
    lock = acquire(directory)
    no_pull = nullcontext() if storage.is_remote(directory) else alone_in(directory, wait=True)
    try:
        lock.sign()
        with no_pull:
            _lengthen(directory, root, between)
    finally:
        lock.release()


def _lengthen(directory: Path, root: str, between: str) -> None:
    found = Manifest.load(directory)
    if found.state != MOVING and found.image_root == f"{root.rstrip('/')}/{between}":
        _write_beside(directory, between)
        generation = found.generation + storage.is_remote(directory)
        found = replace(found, state=MOVING, image_root=root, generation=generation)
        found.save(directory)
    if found.image_root != root:
        raise RunError(f"{directory}: another process has changed where this run's photos are; try again")
    if found.state == MOVING:
        _take_places(directory, found.generation)
        replace(found, state="interrupted").save(directory)


def _write_beside(directory: Path, between: str) -> None:
    for left in _written(directory):
        storage.delete(left)
    beside = directory / FOLDER
    if not storage.is_remote(directory):
        for folder in (parts_folder(beside), corrections.folder_of(beside)):
            refuse_leading_out(folder, directory)
            make_folder(folder)
    longer = partial(_longer, between=between)
    for part in part_files(directory):
        storage.write_bytes(parts_folder(beside) / part.name, encoded(longer(read_columns(part, ROW.names))))
    for pull in corrections.files(directory):
        storage.write_bytes(corrections.folder_of(beside) / pull.name, corrections.with_rows(pull, longer))


def _take_places(directory: Path, generation: int) -> None:
    ledger.remove_ledgers(directory)
    for new in _written(directory):
        if storage.is_remote(new):
            storage.write_bytes(part_path(directory, part_number(new.name), generation), storage.read_bytes(new))
            storage.delete(new)
        else:
            move(new, directory / new.relative_to(directory / FOLDER), durable=True)
    for part in outdated_parts(directory):
        storage.delete(part)
    if not storage.is_remote(directory):
        shutil.rmtree(directory / FOLDER, ignore_errors=True)


def _written(directory: Path) -> list[Path]:
    folders = (parts_folder(directory / FOLDER), corrections.folder_of(directory / FOLDER))
    return [folder / file.name for folder in folders for file in storage.list_files(folder)]


def _longer(rows: pa.Table, between: str) -> pa.Table:
    """In the same order, as all of them begin alike."""
    place = rows.schema.get_field_index("path")
    return rows.set_column(place, rows.schema.field(place), pc.binary_join_element_wise(between, rows["path"], "/"))
