"""Photos that are no longer the files that they were labelled from: no old mask may come beside a new photo.

A row says how large its photo's file was, when it was written, and a checksum. `verdict` compares them with the file
that is there now, for every command: `annotate run` labels changed photos again (`OpenPhotos`), all others leave them
out and name them (`unchanged`). Size and time are what finding a file tells, so that a photo costs nothing more than
that. Another time alone says little, as copying a folder or checking it out gives all of it new times: then the file
is read and its checksum decides, which is far cheaper than to label a million photos again. `annotate run` takes down
the new time, so that each photo is read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, repeat, tee
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotator import ledger, storage
from annotator.decode import checksum_of
from annotator.errors import AnnotatorError, RunError
from annotator.finished import Finished, digests_of, of_files
from annotator.images import ImageRef
from annotator.parts import parts_folder, read_columns, span
from annotator.record import ROW, ImageRecord, from_row
from annotator.run import RunReader
from annotator.spelling import option
from annotator.storage import Version
from annotator.verify import undamaged
from annotator.wording import have, one_line

ASKED_AT_ONCE = 1024
READERS = 8
"""Photos that are read at once for their checksums."""
JUDGED_AFTER = 50
"""Changed photos; fewer say nothing of whether it is the right folder."""

_COMPARED = ["path", "status", "bytes", "mtime", "checksum"]

Verdict = Literal["same", "touched", "changed"]
"""touched: the same photo, written at another time."""


def verdict(record: ImageRecord, file: Path, version: Version | None) -> Verdict:
    """Whether a file is still the one that the row was made from.

    version: of the file; None where it is not there.

    A file that is not there or cannot be read is not said to have changed. Rows of photos that could not be opened say
    nothing of a file. Rows of older versions have no checksum: there the size decides.
    """
    if version is None or not record.bytes:
        return "same"
    if version.size != record.bytes:
        return "changed"
    if version.mtime == record.mtime:
        return "same"
    if record.checksum is None:
        return "touched"
    checksum = checksum_of(file)
    return "same" if checksum is None else "touched" if checksum == record.checksum else "changed"


@dataclass
class Changed:
    """Counts photos that have changed; `example` is the path of the first one.

    problem: why photos could not be compared, where that is so.
    """

    count: int = 0
    example: str = ""
    problem: str = ""

    def add(self, path: str) -> None:
        self.example = self.example if self.count else path
        self.count += 1

    def __str__(self) -> str:
        return f"{have(self.count, 'photo')} changed since {'it was' if self.count == 1 else 'they were'} labelled" + (
            f", such as {self.example!r}" if self.count > 1 else f": {self.example!r}"
        )

    def notes(self) -> list[str]:
        """Sentences for whoever made something of the run without these photos; none where there are none."""
        again = f"{self}; `annotate run` labels {'it' if self.count == 1 else 'them'} again"
        unknown = f"whether photos have changed since they were labelled is not known: {self.problem}"
        return [*([again] if self.count else []), *([unknown] if self.problem else [])]


def unchanged(run: RunReader, changed: Changed, records: Iterable[ImageRecord] | None = None) -> Iterator[ImageRecord]:
    """The run's records, or those given, in path order, without those of photos that have changed, which are counted
    anew. Photos that are not there any more stay."""
    changed.count, changed.example, changed.problem = 0, "", ""
    mine, theirs = tee(run.records() if records is None else records)
    for record, (file, version) in zip(mine, _files(run, (each.path for each in theirs), changed), strict=False):
        if verdict(record, file, version) == "changed":
            changed.add(record.path)
        else:
            yield record


def _files(run: RunReader, paths: Iterable[str], changed: Changed) -> Iterator[tuple[Path, Version | None]]:
    """Of each photo; without end, and without anything, from where its store does not answer."""
    mine, theirs = tee(paths)
    try:
        root = run.image_root
        yield from ((root / path, version) for path, version in zip(mine, storage.versions(root, theirs), strict=True))
    except (OSError, AnnotatorError) as error:  # many formats do without photos
        changed.problem = one_line(error)
    yield from repeat((Path(), None))


def refuse_all_changed(run: RunReader) -> None:
    """Raises where a run's photos have changed, every one that was labelled: there is nothing to make of it."""
    changed = Changed()
    if next(unchanged(run, changed, run.labelled()), None) is None and changed.count:
        raise RunError(
            f"{run.directory}: expected its photos as they were labelled, but {changed}, and no other is left; "
            f"{changed.notes()[0].rpartition('; ')[2]}"
        )


class Rewrites(Protocol):
    """Puts these rows in the place of a part's, which had this stamp when it was read."""

    def __call__(self, part: Path, stamp: str, rows: pa.Table, /) -> None: ...


class _Span(NamedTuple):
    first: str
    last: str
    part: Path


class OpenPhotos:
    """Finds the photos that a run has left to label: those without a row, and those whose file has changed.

    rewrite: takes the rows of changed photos out of the run before the photos are given, as those of failed ones are
             when they are tried again: a kill in between leaves photos without a row, never two rows of one photo.
             None where nothing must be written.
    """

    def __init__(self, directory: Path, finished: Finished, rewrite: Rewrites | None = None) -> None:
        self.changed = Changed()
        self._directory = directory
        self._finished = finished
        self._rewrite = rewrite
        self._compared = 0
        self._spans: list[_Span] | None = None

    def among(self, refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
        """Those of the photos, in their order."""
        refs = iter(refs)
        if not len(self._finished):
            yield from map(_without_version, refs)
            return
        while chunk := list(islice(refs, ASKED_AT_ONCE)):
            done = self._is_done(chunk)
            yield from (_without_version(ref) for ref, is_done in zip(chunk, done, strict=True) if not is_done)

    def _is_done(self, refs: Sequence[ImageRef]) -> list[bool]:
        digests = digests_of([ref.path for ref in refs])
        done = self._finished.knows(digests)
        known = np.flatnonzero(done).tolist()
        versions = _versions([refs[place] for place in known])
        sizes = np.array([version.size if version else 0 for version in versions], np.int64)
        mtimes = np.array([version.mtime if version else 0 for version in versions], np.float64)
        same = self._finished.holds(of_files(digests[known], sizes, mtimes))
        same |= self._finished.holds(digests[known])  # could not be opened when it was tried
        self._compared += len(known)
        unsure = {refs[known[place]].path: place for place in np.flatnonzero(~same)}
        if unsure:
            asked = [(refs[known[place]], versions[place]) for place in unsure.values()]
            kept = self._settle(dict(zip(unsure, asked, strict=True)))
            done[[known[place] for path, place in unsure.items() if path not in kept]] = False
        return done.tolist()

    def _settle(self, asked: dict[str, tuple[ImageRef, Version | None]]) -> set[str]:
        """Compares these photos with their rows; gives the paths of those that have a row which holds."""
        by_part = dict(self._rows(asked))
        rows = [row for found in by_part.values() for row in found]
        with ThreadPoolExecutor(READERS, thread_name_prefix="compare") as pool:
            files = [asked[row.path] for row in rows]
            said = pool.map(verdict, rows, (ref.file for ref, _ in files), (version for _, version in files))
            verdicts = dict(zip((row.path for row in rows), said, strict=True))
        for path in sorted(path for path, said in verdicts.items() if said == "changed"):
            self.changed.add(path)
        if self.changed.count >= JUDGED_AFTER and 2 * self.changed.count > self._compared:
            raise RunError(
                f"{self._directory}: expected the photos that were labelled, but {self.changed.count:,} of the first "
                f"{self._compared:,} are others, such as {self.changed.example!r}; if this is the right folder, "
                f"--overwrite labels all of them again, {option('out', 'DIR')} keeps both"
            )
        for part, found in by_part.items():
            self._amend(part, {row.path: (verdicts[row.path], asked[row.path][1]) for row in found})
        return {path for path, said in verdicts.items() if said != "changed"}

    def _amend(self, part: Path, said: dict[str, tuple[Verdict, Version | None]]) -> None:
        """Takes out rows of changed photos, and takes down the time of touched ones."""
        gone = [path for path, (found, _) in said.items() if found == "changed"]
        times = {path: version.mtime for path, (found, version) in said.items() if found == "touched" and version}
        if self._rewrite is None or not (gone or times):
            return
        stamp = storage.describe(part).stamp
        rows = read_columns(part, ROW.names)
        before = zip(rows["path"].to_pylist(), rows["mtime"].to_pylist(), strict=True)
        mtimes = [times.get(path, mtime) for path, mtime in before]
        rows = rows.set_column(rows.column_names.index("mtime"), ROW.field("mtime"), [pa.array(mtimes, pa.float64())])
        self._rewrite(part, stamp, rows.filter(pc.invert(pc.is_in(rows["path"], pa.array(gone, pa.string())))))

    def _rows(self, paths: Iterable[str]) -> Iterator[tuple[Path, list[ImageRecord]]]:
        """The rows of these photos by part, without their masks."""
        wanted = sorted(paths)
        array = pa.array(wanted, pa.string())
        if self._spans is None:
            self._spans = _spans(self._directory)
        for first, last, part in self._spans:
            near = first <= wanted[-1] and last >= wanted[0] and any(first <= path <= last for path in wanted)
            if near and storage.exists(part):  # it is gone where all its photos have changed
                rows = read_columns(part, _COMPARED)
                found = rows.filter(pc.is_in(rows["path"], array)).to_pylist()
                yield part, [from_row(row) for row in found]


def _spans(directory: Path) -> list[_Span]:
    """Between which paths each part's are; a run sets damaged parts aside before it looks for photos."""
    ledgers, rest = ledger.survey(directory)
    rest = undamaged(rest)
    folder = parts_folder(directory)
    spans = [_Span(part.first, part.last, folder / part.name) for each in ledgers for part in each.parts]
    return spans + [_Span(*ends, part) for ends, part in zip(storage.each(span, rest), rest, strict=True)]


def _versions(refs: Sequence[ImageRef]) -> list[Version | None]:
    """What finding them told; else the file system or the store is asked."""
    if not refs or refs[0].version is not None:
        return [ref.version for ref in refs]
    return list(storage.versions(refs[0].root, [ref.path for ref in refs]))


def _without_version(ref: ImageRef) -> ImageRef:
    """Photos that are found ahead should take little memory."""
    return ref if ref.version is None else replace(ref, version=None)
