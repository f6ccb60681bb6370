"""Writes to an object store that never go over what another process wrote.

S3 decides by itself (`If-None-Match`, `If-Match`), and the stores of other drivers whether a file is new. Where a
driver cannot say which file may be replaced, that is looked up just before.

A store may do what it was asked and its answer may still be lost; the driver then asks again and is refused because of
its own file. So a refusal counts only where the store holds other content. Content should therefore tell its writer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from annotator.files import hidden_name
from annotator.storage import asking, delete, describe, is_s3, modified, read_bytes, write_bytes


def create(path: Path, content: bytes) -> str | None:
    """Writes a file that is not there yet, and gives its stamp, which is what `storage.describe` calls so.

    None where another file is there. Of many who try at once one succeeds.
    """
    try:
        with asking(path) as (files, name):
            if is_s3(files):
                return _put(files, name, content, IfNoneMatch="*")
            files.pipe_file(name, content, mode="create")
        return describe(path).stamp
    except FileExistsError:
        return _stamp_of(path, content)


def replace(path: Path, content: bytes, stamp: str) -> str | None:
    """Writes over the file of this stamp, and gives the new one; None where that file has changed or is gone."""
    try:
        with asking(path) as (files, name):
            if is_s3(files):
                return _put(files, name, content, IfMatch=stamp)
            if describe(path).stamp != stamp:
                return None
            files.pipe_file(name, content)
        return describe(path).stamp
    except FileNotFoundError:
        return None
    except OSError as error:
        if _is_refusal(error):
            return _stamp_of(path, content)
        raise


def seconds_since_written(path: Path) -> float:
    """By the clock of the store, which it is told from a file that is written for that; no machine's clock is read."""
    probe = hidden_name(path)
    write_bytes(probe, b"now")
    try:
        now = _written_at(probe)
    finally:
        delete(probe)
    return now - _written_at(path)


def _written_at(path: Path) -> float:
    with asking(path) as (files, name):
        return modified(files.info(name))


def _put(files: Any, name: str, content: bytes, **condition: str) -> str:
    bucket, _, key = name.partition("/")
    return str(files.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)["ETag"])


def _stamp_of(path: Path, content: bytes) -> str | None:
    """None where the file holds other content."""
    try:
        stamp = describe(path).stamp
        return stamp if read_bytes(path) == content else None
    except FileNotFoundError:
        return None


def _is_refusal(error: OSError) -> bool:
    """Whether S3 says that the file is another one; s3fs has no error class for that."""
    answer: Any = getattr(error.__cause__, "response", None) or {}
    return answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412")
