"""The folder that a report lies in, whose content changes as a whole.

    report/
        index.html      the first page
        files-1/        everything else

A new report goes into a new `files-N` and is in place from the moment in which its index.html takes the place of the
old one; only then the old files go. A process that is killed leaves the old report as it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from annotator.errors import ConfigError
from annotator.gallery.markup import escaped
from annotator.locks import alone_in
from annotator.run import write_atomically

INDEX = "index.html"
MARK = '<meta name="annotate-run" content="'
"""Followed by the run's hash: tells an index.html that is ours."""

HEAD = 4096
"""Bytes of an index.html that hold it."""


@contextmanager
def new_edition(out: Path, run_hash: str, overwrite: bool) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """An empty folder for the new files, and what to call with the new index.html once they are all there.

    overwrite: takes the place of a report of another run, too; never that of anything else.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made a folder ({error.strerror}); choose another --out") from None
    with ExitStack() as stack:
        try:
            stack.enter_context(alone_in(out, wait=False))
        except BlockingIOError:
            raise ConfigError(
                f"{out}: another process is writing this report; wait for it or choose another --out"
            ) from None
        _check(out, run_hash, overwrite)
        yield from _fill(out)


def _fill(out: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    old = _editions(out)
    folder = out / f"files-{max(map(_number, old), default=0) + 1}"
    folder.mkdir()
    kept = False

    def publish(index: str) -> None:
        nonlocal kept
        write_atomically(out / INDEX, index)
        kept = True

    try:
        yield folder, publish
    finally:
        for gone in old if kept else [folder]:
            gone.unlink() if gone.is_symlink() else shutil.rmtree(gone)


def _check(out: Path, run_hash: str, overwrite: bool) -> None:
    index = out / INDEX
    if not index.exists():
        others = sorted(set(out.iterdir()) - set(_editions(out)))
        if others:
            raise ConfigError(
                f"{out}: expected an empty or new folder, but it holds {others[0].name}; choose another --out"
            )
        return
    with open(index, "rb") as file:
        head = file.read(HEAD).decode(errors="replace")
    if MARK not in head:
        raise ConfigError(f"{out}: expected a report, but its {INDEX} is something else; choose another --out")
    if f'{MARK}{escaped(run_hash)}"' not in head and not overwrite:
        raise ConfigError(f"{out}: holds the report of another run; --overwrite takes its place, --out DIR keeps both")


def _editions(out: Path) -> list[Path]:
    return [path for path in out.glob("files-*") if path.name.removeprefix("files-").isdecimal()]


def _number(edition: Path) -> int:
    return int(edition.name.removeprefix("files-"))
