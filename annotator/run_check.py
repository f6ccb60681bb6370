"""Whether a run can be begun or resumed in a folder, decided by reading alone.

`RunWriter.open` asks before it writes anything, and `annotate run --dry-run` asks the same, so they always agree.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from annotator import locks, storage
from annotator.differences import differences
from annotator.errors import RunError
from annotator.files import refuse_leading_out
from annotator.identity import identity
from annotator.manifest import Manifest
from annotator.parts import parts_folder

WRITTEN = ("parts", "ledger", "todo")
"""Folders in a run that a run writes to."""
_LEFT_EARLY = re.compile(r"parts|run\.lock|\.run\.(json|lock)(\.[0-9a-f-]+)?\.tmp")


def check_run(directory: Path, manifest: Manifest, *, overwrite: bool = False) -> None:
    """Raises `RunError` where this run must not be written there. Nothing is written and no lock is kept."""
    try:
        _refuse_foreign(directory)
        if not storage.is_remote(directory):  # whether a store takes writes, only a write would tell
            for name in WRITTEN:
                refuse_leading_out(directory / name, directory)
            _require_writable(directory)
        locks.refuse_held(directory)
    except OSError as error:
        raise cannot_be_written(directory, error) from None
    if is_run(directory) and not overwrite:
        refuse_other_config(directory, manifest)


def is_run(directory: Path) -> bool:
    """Whether a run was begun there."""
    try:
        return storage.exists(directory / "run.json")
    except OSError as error:
        raise cannot_be_written(directory, error) from None


def refuse_other_config(directory: Path, manifest: Manifest, *, networks_known: bool = True) -> None:
    """Raises `RunError` where the run that is there was made with options that would give other labels.

    networks_known: whether `manifest` says which weights there are and in which precision they work.
    """
    found = Manifest.load(directory)
    if not networks_known:
        unknown: dict[str, Any] = {
            name: found.config[name] for name in ("weights", "precision") if name in found.config
        }
        manifest = replace(manifest, config={**manifest.config, **unknown}, pack=found.pack)
    if identity(found) != identity(manifest):
        options = "; ".join(differences(found, manifest)) or "the configuration differs"
        raise RunError(
            f"{directory}: this run was made with other options ({options}); "
            "--overwrite starts anew, --out DIR keeps both"
        )


def cannot_be_written(directory: Path, error: OSError) -> RunError:
    return RunError(f"{directory}: cannot be written ({error.strerror or error}); choose another --out")


def _refuse_foreign(directory: Path) -> None:
    """A folder must be new, or a run, or hold what a process leaves that was killed before it wrote `run.json`."""
    if storage.exists(directory / "run.json"):
        return
    is_remote = storage.is_remote(directory)
    names = storage.walk(directory) if is_remote else (path.name for path in directory.rglob("*"))
    if any(_LEFT_EARLY.fullmatch(name) is None for name in names):
        raise RunError(f"{directory}: expected an empty or new folder, but it holds other files; choose another --out")


def _require_writable(directory: Path) -> None:
    """Raises the `OSError` that making the folder and files in it would raise."""
    parts = parts_folder(directory)
    for folder in {_nearest(parts), _nearest(directory)}:
        if not folder.is_dir():
            raise _os_error(errno.ENOTDIR, folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
            raise _os_error(errno.EROFS if read_only else errno.EACCES, folder)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _os_error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
