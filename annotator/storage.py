"""Where things lie: folders of this machine, and URLs of object stores (`s3://bucket/photos`, `gs://...`).

`place` makes a path of what a user names. A URL becomes a `UPath` of universal_pathlib, which has the methods of a
`Path` that are used here and is typed as one; nothing of it is imported for a folder. Files appear whole or not at
all in both: by renaming here, and there because a PUT does so by itself.
"""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar

from annotator.errors import AnnotatorError, ConfigError
from annotator.files import replacing

PAGE_KEYS = 1000
"""So many names S3 gives at once, at most."""
REMOTE_READS = 16
"""So many requests to a store are under way at once."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

Result = TypeVar("Result")


class StoredFile(NamedTuple):
    """size: in bytes; stamp: changes when the file is written again (time of writing, or the store's checksum)."""

    name: str
    size: int
    stamp: str


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def place(named: str | Path) -> Path:
    """A folder or file as a user names it. Raises `ConfigError` for a URL that cannot be followed here."""
    if not isinstance(named, str) or not is_url(named):
        return Path(named) if isinstance(named, str) else named
    if named.startswith("file://"):
        return Path(named.removeprefix("file://"))
    try:
        from upath import UPath

        found = UPath(_without_end(named), use_listings_cache=False)  # others write there too
        found.fs  # noqa: B018  the store's own package is imported here
    except ImportError as error:
        raise ConfigError(
            f"{named}: needs packages that are not installed ({error}): pip install 'annotate[remote]'"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{named}: expected a folder or the URL of a known store, such as s3://: {error}") from None
    return found  # type: ignore[return-value]


def _without_end(url: str) -> str:
    """Without the slashes at its end, which make no other folder."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rstrip('/')}"


def is_remote(path: Path) -> bool:
    return not isinstance(path, PurePath)


def store(path: Path) -> tuple[Any, str]:
    """The fsspec file system of a remote path, and its name for the path."""
    return path.fs, path.path.rstrip("/")  # type: ignore[attr-defined]


@contextmanager
def asking(path: Path) -> Iterator[tuple[Any, str]]:
    """`store`, for a block. Drivers have error trees of their own: what is no `OSError` comes out as one."""
    try:
        yield store(path)
    except (OSError, AnnotatorError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise OSError(errno.EIO, f"{type(error).__name__}: {reason}", str(path)) from error


def read_bytes(path: Path) -> bytes:
    if not is_remote(path):
        return path.read_bytes()
    with asking(path) as (files, name):
        return bytes(files.cat_file(name))


def write_bytes(path: Path, content: bytes) -> None:
    """The file has its old or its new content at every moment, even when the process is killed."""
    if is_remote(path):
        with asking(path) as (files, name):
            files.pipe_file(name, bytes(content))  # drivers take no other buffers
        return
    with replacing(path, durable=True) as file:
        file.write(content)


def delete(path: Path) -> None:
    """Also where it is gone already."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError), asking(path) as (files, name):
        files.rm_file(name)


def list_files(folder: Path) -> list[StoredFile]:
    """What lies in a folder itself, in no order; nothing where there is no such folder."""
    try:
        if is_remote(folder):
            with asking(folder) as (files, name):
                return [_remote_file(info) for info in files.ls(name, detail=True) if info["type"] == "file"]
        with os.scandir(folder) as entries:
            return [file for entry in entries if (file := _listed(entry))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(folder: Path) -> Iterator[str]:
    """Files at any depth below a folder of a store, relative to it, sorted; S3 is read a page at a time."""
    with asking(folder) as (files, name):
        yield from _walk_store(files, name)


def _walk_store(files: Any, name: str) -> Iterator[str]:
    return _walk_pages(files, name) if is_s3(files) else _walk_folders(files, name, "")


def is_s3(files: Any) -> bool:
    return "s3" in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol)


def _walk_pages(files: Any, name: str) -> Iterator[str]:
    """Keys come in the order of their UTF-8, which is that of code points."""
    bucket, _, key = name.partition("/")
    prefix = f"{key}/" if key else ""
    request = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE_KEYS}
    while True:
        page = files.call_s3("list_objects_v2", **request)
        yield from (each["Key"][len(prefix) :] for each in page.get("Contents", ()) if not each["Key"].endswith("/"))
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _walk_folders(files: Any, name: str, below: str) -> Iterator[str]:
    """Depth first, a folder's names in memory at a time; they end with a slash, for so they stand in paths."""
    try:
        entries = files.ls(f"{name}/{below}".rstrip("/"), detail=True)
    except FileNotFoundError:
        return
    ends = {"directory": "/", "file": ""}
    for last in sorted(info["name"].rstrip("/").rsplit("/", 1)[-1] + ends[info["type"]] for info in entries):
        yield from _walk_folders(files, name, below + last) if last.endswith("/") else (below + last,)


def describe(path: Path) -> StoredFile:
    """The same for one file."""
    if not is_remote(path):
        return _local_file(path.name, path.stat())
    with asking(path) as (files, name):
        return _remote_file(files.info(name))


def exists(path: Path) -> bool:
    """Whether a file is there; a store that does not answer is an error and no answer."""
    try:
        describe(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def each(read: Callable[[Path], Result], paths: Iterable[Path]) -> Iterator[Result]:
    """`map`, in the order of `paths`; on a store, which answers late, a few paths ahead of the caller."""
    paths = iter(paths)
    head = list(islice(paths, 1))
    if not head or not is_remote(head[0]):
        yield from map(read, head)
        yield from map(read, paths)
        return
    with ThreadPoolExecutor(REMOTE_READS, thread_name_prefix="storage") as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(read, path) for path in head)
        for path in paths:
            waiting.append(pool.submit(read, path))
            if len(waiting) > REMOTE_READS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def modified(info: dict[str, Any]) -> float:
    """When an object was written, in seconds since 1970; 0 where its store does not say."""
    value = next((info[key] for key in ("LastModified", "mtime", "updated", "created") if info.get(key)), 0.0)
    if isinstance(value, str):
        from datetime import datetime

        value = datetime.fromisoformat(value)
    return float(value.timestamp() if hasattr(value, "timestamp") else value)


def _listed(entry: os.DirEntry[str]) -> StoredFile | None:
    try:
        return _local_file(entry.name, entry.stat()) if entry.is_file() else None
    except FileNotFoundError:  # renamed or removed since the folder was read
        return None


def _local_file(name: str, status: os.stat_result) -> StoredFile:
    return StoredFile(name, status.st_size, str(status.st_mtime_ns))


def _remote_file(info: dict[str, Any]) -> StoredFile:
    stamp = info.get("ETag") or info.get("etag") or modified(info)
    return StoredFile(info["name"].rstrip("/").rsplit("/", 1)[-1], int(info["size"] or 0), str(stamp))
