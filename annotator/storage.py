"""Where things lie: folders of this machine, and URLs of object stores (`s3://bucket/photos`, `gs://...`).

`place` makes a path of what a user names. A URL becomes a `UPath` of universal_pathlib, which has the methods of a
`Path` that are used here and is typed as one; nothing of it is imported for a folder. Files appear whole or not at
all in both: by renaming here, and there because a PUT does so by itself.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
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

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds, more or less, before a request to a store is made again: six tries in all, then its error counts."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

_FINAL_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_FINAL_NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EINVAL, errno.ENAMETOOLONG})

Result = TypeVar("Result")


class Version(NamedTuple):
    """What tells, without opening a file, whether it is still the same one. mtime: in seconds since 1970."""

    size: int
    mtime: float


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
    """`store`, for one try. Drivers have error trees of their own: what is no `OSError` comes out as one."""
    try:
        yield store(path)
    except (OSError, AnnotatorError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise OSError(errno.EIO, f"{type(error).__name__}: {reason}", str(path)) from error


def ask(path: Path, request: Callable[[Any, str], Result]) -> Result:
    """What a store answers to a request, which is made again after errors that may pass.

    request: gets the store's file system and its name for the path; making it twice must do no harm.
    """
    for pause in PAUSES:
        try:
            with asking(path) as (files, name):
                return request(files, name)
        except OSError as error:
            if not _may_pass(error):
                raise
        time.sleep(pause * random.uniform(0.5, 1.5))  # apart from the others that wait for the same store
    with asking(path) as (files, name):
        return request(files, name)


def _may_pass(error: OSError) -> bool:
    """Whether the same request may succeed later: the store is busy, or the way to it was cut."""
    if isinstance(error, _FINAL_ERRORS) or error.errno in _FINAL_NUMBERS:
        return False
    origin = type(error.__cause__ or error)
    if issubclass(origin, OSError):
        return True
    # an error of a network or of a server has a class of its driver's; a builtin one is a mistake in a call
    return origin.__module__ != "builtins" and "credential" not in origin.__name__.lower()


def read_bytes(path: Path) -> bytes:
    if not is_remote(path):
        return path.read_bytes()
    return ask(path, lambda files, name: bytes(files.cat_file(name)))


def write_bytes(path: Path, content: bytes) -> None:
    """The file has its old or its new content at every moment, even when the process is killed."""
    if is_remote(path):
        ask(path, lambda files, name: files.pipe_file(name, bytes(content)))  # drivers take no other buffers
        return
    with replacing(path, durable=True) as file:
        file.write(content)


def delete(path: Path) -> None:
    """Also where it is gone already."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        ask(path, lambda files, name: files.rm_file(name))


def list_files(folder: Path) -> list[StoredFile]:
    """What lies in a folder itself, in no order; nothing where there is no such folder."""
    try:
        if is_remote(folder):
            entries = ask(folder, lambda files, name: files.ls(name, detail=True))
            return [_remote_file(info) for info in entries if info["type"] == "file"]
        with os.scandir(folder) as found:
            return [file for entry in found if (file := _listed(entry))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(folder: Path) -> Iterator[str]:
    """Files at any depth below a folder of a store, relative to it, sorted; S3 is read a page at a time."""
    return (path for path, _ in walk_versions(folder))


def walk_versions(folder: Path) -> Iterator[tuple[str, Version]]:
    """The same with what the listing says of each, which costs no request more."""
    yield from _walk_pages(folder) if is_s3(folder) else _walk_folders(folder, "")


def is_s3(path: Path) -> bool:
    protocol = store(path)[0].protocol
    return "s3" in ((protocol,) if isinstance(protocol, str) else protocol)


def _page(folder: Path, after: str) -> tuple[list[tuple[str, Version]], bool]:
    """What S3 names at once behind `after`, and whether that is all. Keys come in the order of code points."""
    bucket, _, key = store(folder)[1].partition("/")
    prefix = f"{key}/" if key else ""
    query = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE_KEYS}
    if after:
        query["StartAfter"] = prefix + after
    page = ask(folder, lambda files, _: files.call_s3("list_objects_v2", **query))
    found = [(each["Key"][len(prefix) :], Version(each["Size"], modified(each))) for each in page.get("Contents", ())]
    return found, not page.get("IsTruncated")


def _walk_pages(folder: Path) -> Iterator[tuple[str, Version]]:
    after, is_last = "", False
    while not is_last:
        found, is_last = _page(folder, after)
        yield from (each for each in found if each[0] and not each[0].endswith("/"))
        after = found[-1][0] if found else after


def _walk_folders(root: Path, below: str) -> Iterator[tuple[str, Version]]:
    """Depth first, a folder's names in memory at a time; they end with a slash, for so they stand in paths."""
    for last, version in sorted(_folder(root, below).items()):
        yield from _walk_folders(root, below + last) if version is None else ((below + last, version),)


def _folder(root: Path, below: str) -> dict[str, Version | None]:
    """What is in a folder; None for folders, whose names end with a slash."""
    try:
        entries = ask(root, lambda files, name: files.ls(f"{name}/{below}".rstrip("/"), detail=True))
    except FileNotFoundError:
        return {}
    names = {info["name"].rstrip("/").rsplit("/", 1)[-1]: info for info in entries}
    return {
        f"{last}/" if info["type"] == "directory" else last: None if info["type"] == "directory" else _version(info)
        for last, info in names.items()
    }


def versions(root: Path, paths: Iterable[str]) -> Iterator[Version | None]:
    """Of each of these files, whose paths are sorted; None where there is none that can be asked about.

    A store is not asked for each: S3 is read a page at a time, from the next path on, other stores a folder at a time.
    """
    if not is_remote(root):
        yield from (_local_version(f"{root}/{path}") for path in paths)
    else:
        yield from _versions_by_page(root, paths) if is_s3(root) else _versions_by_folder(root, paths)


def _local_version(file: str) -> Version | None:
    try:
        found = os.stat(file)  # noqa: PTH116  a `Path` would cost twice as much
    except (OSError, ValueError):
        return None
    return Version(found.st_size, found.st_mtime)


def _versions_by_page(root: Path, paths: Iterable[str]) -> Iterator[Version | None]:
    page: dict[str, Version] = {}
    last, is_last = "", False
    for path in paths:
        while path > last and not is_last:
            found, is_last = _page(root, max(last, path[:-1]))  # the longest name before `path` that is known
            page, last = dict(found), found[-1][0] if found else path
        yield page.get(path)


def _versions_by_folder(root: Path, paths: Iterable[str]) -> Iterator[Version | None]:
    folders: dict[str, dict[str, Version | None]] = {}
    for path in paths:
        folder, _, last = path.rpartition("/")
        below = f"{folder}/" if folder else ""
        folders = {known: names for known, names in folders.items() if below.startswith(known)}
        if below not in folders:
            folders[below] = _folder(root, below)
        yield folders[below].get(last)


def describe(path: Path) -> StoredFile:
    """The same for one file."""
    if not is_remote(path):
        return _local_file(path.name, path.stat())
    return _remote_file(ask(path, lambda files, name: files.info(name)))


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
    """When an object was written, in seconds since 1970; 0 where its store does not say.

    Whole seconds of S3, which says more in listings than of one object.
    """
    value = next((info[key] for key in ("LastModified", "mtime", "updated", "created") if info.get(key)), 0.0)
    if isinstance(value, str):
        from datetime import datetime

        value = datetime.fromisoformat(value)
    seconds = float(value.timestamp() if hasattr(value, "timestamp") else value)
    return seconds // 1 if "LastModified" in info else seconds


def _listed(entry: os.DirEntry[str]) -> StoredFile | None:
    try:
        return _local_file(entry.name, entry.stat()) if entry.is_file() else None
    except FileNotFoundError:  # renamed or removed since the folder was read
        return None


def _local_file(name: str, status: os.stat_result) -> StoredFile:
    return StoredFile(name, status.st_size, str(status.st_mtime_ns))


def _version(info: dict[str, Any]) -> Version:
    return Version(int(info["size"] or 0), modified(info))


def _remote_file(info: dict[str, Any]) -> StoredFile:
    stamp = info.get("ETag") or info.get("etag") or modified(info)
    return StoredFile(info["name"].rstrip("/").rsplit("/", 1)[-1], int(info["size"] or 0), str(stamp))
