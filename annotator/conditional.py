"""Writes to an object store that never go over what another process wrote.

S3 decides by itself (`If-None-Match`, `If-Match`), and the stores of other drivers whether a file is new. Where a
driver cannot say which file may be replaced, that is looked up just before.

A store may do what it was asked and its answer may still be lost; it is then asked again, and refuses because of
its own file. So a refusal counts only where the store holds other content. Content should therefore tell its writer.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from annotator.files import hidden_name
from annotator.storage import ask, delete, describe, is_s3, modified, read_bytes, store, write_bytes


def create(path: Path, content: bytes) -> str | None:
    """Writes a file that is not there yet, and gives its stamp, which is what `storage.describe` calls so.

    None where another file is there. Of many who try at once one succeeds.
    """
    try:
        if is_s3(path):
            return _put(path, content, IfNoneMatch="*")
        ask(path, lambda files, name: files.pipe_file(name, content, mode="create"))
        return describe(path).stamp
    except FileExistsError:
        return _stamp_of(path, content)


def replace(path: Path, content: bytes, stamp: str) -> str | None:
    """Writes over the file of this stamp, and gives the new one; None where that file has changed or is gone."""
    try:
        if is_s3(path):
            return _put(path, content, IfMatch=stamp)
        if describe(path).stamp != stamp:
            return None
        ask(path, lambda files, name: files.pipe_file(name, content))
        return describe(path).stamp
    except FileNotFoundError:
        return None
    except FileExistsError:
        return _stamp_of(path, content)


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
    return modified(ask(path, lambda files, name: files.info(name)))


def _put(path: Path, content: bytes, **condition: str) -> str:
    bucket, _, key = store(path)[1].partition("/")

    def put(files: Any, _: str) -> str:
        try:
            return str(files.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)["ETag"])
        except OSError as error:
            if _is_refusal(error):
                raise FileExistsError(errno.EEXIST, "another file is there", str(path)) from error
            raise

    return ask(path, put)


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
