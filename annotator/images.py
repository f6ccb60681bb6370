"""Finds photos: what a user names (folder, glob, list file, file, paths, URLs) -> `ImageRef`s in a fixed order.

Folders are walked as they are read: memory holds the names of the folders between the root and the current
one, never those of the whole tree. Names are plain strings here: a `Path` per name would cost more than the
walk itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from glob import has_magic
from pathlib import Path

from annotator import stored_images
from annotator.decode import HEAD_BYTES, MAX_PIXELS, Photo, decode, image_format, open_regular, storable
from annotator.errors import AnnotatorError, ConfigError, ImageError
from annotator.image_names import EVERYTHING, IMAGE_NAME, RAW_NAME, Pattern, alternatives, below, selects
from annotator.storage import Version, is_remote, is_url, place, read_bytes

__all__ = ["IMAGE_NAME", "MAX_PIXELS", "ImageRef", "ImageSource", "Photo", "decode", "open_source"]

Identity = tuple[int, int]
"""(st_dev, st_ino): the same for all names of one folder."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A photo that was found.

    path: relative to `root`, POSIX, always valid UTF-8.
    name_on_disk: what the file system calls it, where that is not valid UTF-8 and so differs from `path`;
        `decode` refuses such a file, as no label file could name it.
    version: of the file, where finding it told: in a store.
    """

    root: Path
    path: str
    name_on_disk: str | None = None
    version: Version | None = field(default=None, compare=False)

    @property
    def file(self) -> Path:
        return self.root / (self.name_on_disk or self.path)


@dataclass(frozen=True)
class ImageSource:
    """What the user named. Iterating gives each photo once, in strictly increasing order of `path`.

    A tree is searched anew by each iteration. Hidden names (leading dot) and run folders with all their
    exports are passed over, links are followed, and only regular files are given: those named like an image,
    and of the others those that begin like one. A folder that cannot be read comes up as a ref `folder/`,
    which `decode` refuses.

    Below a URL there are no links, a file whose name ends in no known suffix is not opened (`stored_images`), and
    what cannot be listed is an error.

    refs: the photos themselves, where they were named one by one; these are given whatever they are.
    below: the tree begins in this folder below the root, and all paths with it.
    """

    root: Path
    pattern: Pattern = EVERYTHING
    refs: tuple[ImageRef, ...] | None = None
    below: str = ""

    def __iter__(self) -> Iterator[ImageRef]:
        if self.refs is not None:
            return iter(self.refs)
        start = self.root / self.below if self.below else self.root
        found = _walk_store(start, self.pattern) if is_remote(start) else _walk(start, self.pattern)
        return (_seen_from(self.root, self.below, ref) for ref in found) if self.below else found

    def seen_from(self, root: Path) -> ImageSource:
        """The same photos with paths relative to a folder above."""
        between = str(self.root)[len(str(root).rstrip("/")) + 1 :]
        if self.refs is not None:
            return replace(self, root=root, refs=tuple(_seen_from(root, between, ref) for ref in self.refs))
        return replace(self, root=root, below=f"{between}/{self.below}".rstrip("/"))


def open_source(images: str | Path | Sequence[str | Path]) -> ImageSource:
    """Resolves a folder, a glob, a list file (`.txt`: a path per line, relative to its folder or absolute),
    one file, or a sequence of files; each may be a URL. Raises `ConfigError` where there is no photo."""
    try:
        if isinstance(images, Iterable) and not isinstance(images, str):
            source = _from_files(images, Path.cwd())
        else:
            source = _resolve(str(images))
        is_empty = next(iter(source), None) is None
    except AnnotatorError:
        raise
    except OSError as error:
        raise ConfigError(f"{images}: cannot read it: {(error.strerror or str(error)).lower()}") from None
    if str(source.root) != storable(str(source.root)):
        raise ConfigError(f"{storable(str(source.root))}: the folder's name is not valid UTF-8; rename it")
    if is_empty:
        raise ConfigError(f"{images}: expected photos, but found none")
    return source


def _resolve(text: str) -> ImageSource:
    if not text:
        raise ConfigError("expected a folder, a glob, a .txt list or an image, but got an empty name")
    named = place(text)
    if is_remote(named):
        return _resolve_url(named)
    if named.is_dir():
        return ImageSource(named.resolve())
    if named.is_file() and named.suffix.lower() == ".txt":
        return _from_list(named.absolute())
    if named.exists() or named.is_symlink():
        return _from_files([named], Path.cwd())
    if has_magic(text):
        return _from_glob(text)
    raise ConfigError(f"{text}: expected a folder, a glob, a .txt list or an image, but there is nothing of that name")


def _resolve_url(named: Path) -> ImageSource:
    kind = stored_images.kind(named)
    if kind == "file":
        return _from_list(named) if named.suffix.lower() == ".txt" else _from_urls([str(named)])
    if kind is None and has_magic(str(named)):
        parts = str(named).split("/")
        fixed = next(index for index, part in enumerate(parts) if has_magic(part))
        return ImageSource(place("/".join(parts[:fixed])), tuple(parts[fixed:]))
    return ImageSource(named)


def _from_list(file: Path) -> ImageSource:
    lines = read_bytes(file).decode("utf-8-sig", errors="surrogateescape").replace("\r\n", "\n").split("\n")
    return _from_files([line for line in lines if line.strip()], file.parent)


def _from_glob(text: str) -> ImageSource:
    parts = [part for part in text.split("/") if part not in ("", ".")]
    fixed = next(index for index, part in enumerate(parts) if has_magic(part))
    root = Path("/" if text.startswith("/") else "", *parts[:fixed]).resolve()
    if not root.is_dir():
        raise ConfigError(f"{text}: expected photos below {root}, but there is no such folder")
    return ImageSource(root, tuple(parts[fixed:]))


def _from_files(files: Iterable[str | Path], base: Path) -> ImageSource:
    """Paths relative to `base` or absolute, or URLs; the root is the folder that all of them share."""
    files = list(files)
    if is_remote(base) or any(is_url(str(file)) for file in files):
        return _from_urls([str(file) if is_url(str(file)) else f"{base}/{file}" for file in files])
    paths = sorted({os.path.normpath(base / file) for file in files})
    root = os.path.commonpath([os.path.split(path)[0] for path in paths]) if paths else os.fspath(base)
    start = len(root.rstrip("/")) + 1
    refs: dict[str, ImageRef] = {}
    for path in paths:
        ref = _ref(Path(root), storable(path[start:]), path[start:])
        refs.setdefault(ref.path, ref)
    return ImageSource(Path(root), refs=tuple(refs[path] for path in sorted(refs)))


def _from_urls(urls: Iterable[str]) -> ImageSource:
    """The root is the folder that all of them share, within one bucket."""
    names = sorted(set(urls))
    if odd := next((name for name in names if not is_url(name)), None):
        raise ConfigError(f"{odd}: expected a URL, as {names[-1]} is listed with it")
    root = os.path.commonpath([url.rpartition("/")[0].replace("://", "/", 1) for url in names]).replace("/", "://", 1)
    if root.count("/") < 2:
        raise ConfigError(f"{names[0]}: expected photos of one bucket, but {names[-1]} is listed with it")
    at = place(root)
    return ImageSource(at, refs=tuple(ImageRef(at, url[len(root) + 1 :]) for url in names))


def _walk_store(root: Path, pattern: Pattern) -> Iterator[ImageRef]:
    return (ImageRef(root, path, version=version) for path, version in stored_images.walk(root, pattern))


def _seen_from(root: Path, between: str, ref: ImageRef) -> ImageRef:
    on_disk = ref.name_on_disk and f"{between}/{ref.name_on_disk}"
    return replace(ref, root=root, path=f"{between}/{ref.path}", name_on_disk=on_disk)


def _ref(root: Path, path: str, on_disk: str) -> ImageRef:
    return ImageRef(root, path, None if path == on_disk else on_disk)


@dataclass
class _Level:
    """A folder that a walk is in. `path` and `on_disk` are "" or end with a slash.

    names: what is left to visit, sorted; names of folders end with a slash, for so they stand in paths.
    odd: name -> name on disk, where they differ.
    """

    path: str
    on_disk: str
    identity: Identity
    through_link: bool
    patterns: frozenset[Pattern]
    names: Iterator[str]
    odd: dict[str, str]


def _walk(root: Path, pattern: Pattern) -> Iterator[ImageRef]:
    """Depth first with a stack of its own: a tree may be deeper than Python's recursion."""
    base = f"{root}/"
    linked: set[Identity] = set()
    levels: list[_Level] = []
    try:
        _enter(base, "", "", frozenset(alternatives(pattern)), levels, linked)
    except OSError as error:
        raise ConfigError(f"{root}: cannot read the folder: {(error.strerror or '').lower()}") from None
    while levels:
        level = levels[-1]
        if (name := next(level.names, None)) is None:
            levels.pop()
            continue
        name_on_disk = level.odd.get(name, name)
        path, on_disk = level.path + name, level.on_disk + name_on_disk
        if not name.endswith("/"):
            if _is_image(base + on_disk):
                yield _ref(root, path, on_disk)
            continue
        try:
            _enter(base, path, on_disk, below(level.patterns, name_on_disk[:-1]), levels, linked)
        except (FileNotFoundError, NotADirectoryError):
            continue  # it vanished since its parent was read
        except OSError:
            yield _ref(root, path, on_disk)


def _enter(
    base: str, path: str, on_disk: str, patterns: frozenset[Pattern], levels: list[_Level], linked: set[Identity]
) -> None:
    """Puts a folder on the stack, unless it is there already (a link led back to it).

    Folders full of links to each other would make paths without end, so below a link, other links are
    followed only to folders that no link has led to yet (`linked`).
    """
    folder = Path(base + on_disk)
    status = folder.stat()
    identity = status.st_dev, status.st_ino
    if any(identity == level.identity for level in levels) or (levels and _is_run(folder)):
        return
    is_link = bool(levels) and folder.is_symlink()
    below_link = bool(levels) and levels[-1].through_link
    if is_link:
        if below_link and identity in linked:
            return
        linked.add(identity)
    names, odd = _list(folder, patterns)
    levels.append(_Level(path, on_disk, identity, is_link or below_link, patterns, iter(names), odd))


def _is_run(folder: Path) -> bool:
    """A folder that `annotate run` made; what is in it was exported, not photographed."""
    return (folder / "run.json").is_file() and (folder / "parts").is_dir()


def _list(folder: Path, patterns: frozenset[Pattern]) -> tuple[list[str], dict[str, str]]:
    """Names in a folder that may be or hold photos, as `_Level` wants them: sorted names, odd names."""
    names: list[str] = []
    odd: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                if not below(patterns, entry.name):
                    continue
                name = entry.name + "/"
            elif selects(patterns, entry.name) and _is_file(entry):
                name = entry.name
            else:
                continue
            if name.isascii() or (shown := storable(name)) == name:
                names.append(name)
            else:
                odd[shown] = min(name, odd.get(shown, name))
    if odd:
        for name in odd.keys() & set(names):  # a valid name that looks like the shown form of an odd one
            del odd[name]
        names += odd
    names.sort()
    return names, odd


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A regular file, or a link that leads nowhere but is named like an image."""
    try:
        if entry.is_file():
            return True
        broken = entry.is_symlink() and not Path(entry.path).exists()
    except OSError:
        broken = True
    return broken and IMAGE_NAME.search(entry.name) is not None


def _is_image(file: str) -> bool:
    if IMAGE_NAME.search(file):
        return True
    if RAW_NAME.search(file):
        return False
    try:
        with open_regular(file) as content:
            return image_format(content.read(HEAD_BYTES)) is not None
    except (OSError, ImageError):
        return False
