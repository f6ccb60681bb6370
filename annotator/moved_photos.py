"""Where the photos of a run are that goes on: a project is moved, a list or a folder grows.

A run's rows name photos relative to one folder. A command that goes on with it may find its photos in another one:

- It names some of the run's photos, or others beside them, below the run's folder: they are called as from there.
- It names photos from a folder above: from then on every photo of the run is called as from there (`longer_paths`).
- The photos were moved: the same paths hold in the new folder, and most photos are still the same.
"""

from __future__ import annotations

from itertools import tee
from pathlib import Path
from typing import NamedTuple

from annotator import storage
from annotator.errors import RunError
from annotator.images import ImageSource
from annotator.photo_changes import verdict
from annotator.run import RunReader
from annotator.spelling import option
from annotator.storage import place
from annotator.whereabouts import example_of_none

COMPARED = 20
"""So many photos of a new place tell whether they are the run's."""


class Resumed(NamedTuple):
    """source: the photos, called as the run will call them. between: folders that its own paths have to begin with."""

    source: ImageSource
    between: str = ""


def resumed(directory: Path, old: str, source: ImageSource) -> Resumed:
    """For a run that goes on with these photos; raises `RunError` where not one of its own is there.

    old: where the run found its photos.
    """
    new = str(source.root)
    if old == new:
        return Resumed(source)
    run = RunReader(directory)
    down, up = _between(old, new), _between(new, old)
    if (down or up) and example_of_none(run) is None:
        return Resumed(source.seen_from(place(old))) if down else Resumed(source, up)
    _refuse_others(RunReader(directory, new), old)
    return Resumed(source)


def _refuse_others(run: RunReader, before: str) -> None:
    """Raises where a run's photos are not in a new place, or where others with their names are."""
    asked, records = tee(run.labelled())
    versions = storage.versions(run.image_root, (record.path for record in asked))
    first, there, changed = "", 0, 0
    for record, version in zip(records, versions, strict=True):
        first = first or record.path
        if version is not None:
            there += 1
            changed += verdict(record, run.image_root / record.path, version) == "changed"
        if there == COMPARED:
            break
    if first and 2 * changed >= there:
        found = "those there are others" if there else "none of them is there"
        raise RunError(
            f"{option('images', str(run.image_root))}: expected the photos of the run {run.directory}, but {found}, "
            f"such as {first!r}; the run found its own in {before}. {option('overwrite')} starts anew, "
            f"{option('out', 'DIR')} keeps both"
        )


def _between(upper: str, lower: str) -> str:
    """What leads from one folder to another below it; "" where that is not below."""
    upper = upper.rstrip("/") + "/"
    return lower[len(upper) :] if lower.startswith(upper) else ""
