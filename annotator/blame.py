"""Errors of the system that name no file: of a disk that is full in the middle of writing, for one."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OF_A_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


@contextmanager
def blaming(place: Path) -> Iterator[None]:
    """What is wrong with a disk while the block writes to this file or folder comes out naming it."""
    try:
        yield
    except OSError as error:
        names_source = error.filename2 is not None  # of a copy, whose target is what cannot be written
        if error.errno in OF_A_DISK and (error.filename is None or names_source):
            error.filename = str(place)
        raise
