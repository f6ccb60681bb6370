"""Where the photos of a run are that goes on: a project is moved, a list or a folder grows.

A run's rows name photos relative to one folder. A command that goes on with it may find its photos in another one:

- It names some of the run's photos, or others beside them, below the run's folder: they are called as from there.
- It names photos from a folder above: from then on every photo of the run is called as from there (`longer_paths`).
- The photos were moved: the same paths hold in the new folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from annotator.errors import RunError
from annotator.images import ImageSource
from annotator.manifest import Manifest
from annotator.run import RunReader
from annotator.spelling import option
from annotator.storage import place
from annotator.whereabouts import example_of_none


class Resumed(NamedTuple):
    """source: the photos, called as the run will call them. between: folders that its own paths have to begin with."""

    source: ImageSource
    between: str = ""


def resumed(directory: Path, source: ImageSource) -> Resumed:
    """For a run that goes on with these photos; raises `RunError` where not one of its own is there."""
    old, new = Manifest.load(directory).image_root, str(source.root)
    if old == new:
        return Resumed(source)
    run = RunReader(directory)
    down, up = _between(old, new), _between(new, old)
    if (down or up) and example_of_none(run) is None:
        return Resumed(source.seen_from(place(old))) if down else Resumed(source, up)
    if (lost := example_of_none(RunReader(directory, new))) is None:
        return Resumed(source)
    raise RunError(
        f"{option('images', new)}: expected the photos of the run {directory}, but none of them is there, such as "
        f"{lost!r}; the run found them in {old}. {option('overwrite')} starts anew, {option('out', 'DIR')} keeps both"
    )


def _between(upper: str, lower: str) -> str:
    """What leads from one folder to another below it; "" where that is not below."""
    upper = upper.rstrip("/") + "/"
    return lower[len(upper) :] if lower.startswith(upper) else ""
