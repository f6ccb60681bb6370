"""Whether a run's photos are where it says, for whoever needs their pixels again: folders are moved."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from annotator.errors import RunError
from annotator.run import RunReader, open_run
from annotator.spelling import option
from annotator.storage import each, exists


def open_run_at(directory: str | Path, images: str | Path | None) -> RunReader:
    """Opens a run whose photos may have moved to the folder or URL `images`, where at least one of them must be."""
    run = open_run(directory, images)
    if images is not None and (lost := example_of_none(run)) is not None:
        raise RunError(
            f"{option('images', str(images))}: expected the run's photos, but none of them is there, such as {lost!r}; "
            f"the run found them in {run.manifest.image_root}"
        )
    return run


def refuse_all_gone(run: RunReader, otherwise: str = "") -> None:
    """Raises where not one of the run's photos is where it should be. otherwise: what else the user may do."""
    if (lost := example_of_none(run)) is not None:
        raise RunError(
            f"{run.image_root}: expected the run's photos, but none of them is there any more, such as {lost!r}; say "
            f"where they are now with {option('images', 'DIR')}{otherwise}"
        )


def example_of_none(run: RunReader) -> str | None:
    """Path of a labelled photo, where not one of them is there; None where one is, or none was labelled."""
    labelled = (record.path for record in run.labelled())
    first = next(labelled, None)
    if first is None or any(each(exists, (run.image_root / path for path in chain([first], labelled)))):
        return None
    return first
