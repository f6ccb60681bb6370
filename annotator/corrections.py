"""What a person changed of a run: a layer beside its parts, which every export applies.

    runs/holiday-dinoiser/
        corrections/000001.parquet    one file per pull, never written again; rows sorted by path
        corrections/000002.undone     an undone pull: kept, but not applied

A row is all that a person said of one photo, and a photo's last row that is not undone holds. Labels that a person
edited or approved are in the row itself, so they stand whatever a later run says of the photo; they find their class
by its name. A rejection stands as well. The wish to redo ends when the run has other labels for the photo, and no
row applies to a photo that has another size by now, or is known to be another. A file may add classes: see
`annotator.added_classes`.
"""

from __future__ import annotations

import hashlib
import heapq
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annotator.added_classes import extended, from_metadata, to_metadata
from annotator.batches import BatchWriter, metadata_of, read_batches
from annotator.errors import ConfigError, RunError
from annotator.files import Draft, make_folder, move, refuse_leading_out
from annotator.locks import alone_in
from annotator.parts import UNREADABLE
from annotator.prediction import NOTHING, Segment
from annotator.record import ROW, ImageRecord, from_row, to_table
from annotator.row_check import refuse_nonsense, refuse_other_columns
from annotator.run import RunReader
from annotator.vocabulary import Vocabulary
from annotator.wording import one_line

Verdict = Literal["", "approve", "reject", "redo"]
VERDICTS: tuple[Verdict, ...] = ("approve", "reject", "redo")
BATCH_ROWS = 256
CREATED = "created"

_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("verdict", pa.string()),
        ("edited", pa.bool_()),
        ("seen", pa.string()),
        ROW.field("checksum"),
        ROW.field("segments"),
    ]
)


@dataclass(frozen=True)
class Correction:
    """All that a person said of one photo.

    width, height: of the photo that was looked at.
    edited:        `segments` are not the run's.
    seen:          fingerprint of the run's own labels at that time.
    segments:      the photo's labels where they are edited or approved; else they are of no account.
    checksum:      of the photo's file, where it is known: what was said of one photo says nothing of another.
    """

    path: str
    width: int
    height: int
    verdict: Verdict = ""
    edited: bool = False
    seen: str = ""
    segments: tuple[Segment, ...] = ()
    checksum: int | None = None


class Reviewed(NamedTuple):
    """A photo as a person left it. record: with the corrected labels; seen: fingerprint of the run's own."""

    record: ImageRecord
    verdict: Verdict
    edited: bool
    seen: str


@dataclass
class Tally:
    """What a walk over `corrected` met: photos with edits, approved ones, and those it left out."""

    edited: int = 0
    approved: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Pull:
    """One file of the layer, for lists: its number, when it was made (UTC), and its photos by what was said."""

    number: int
    created: str
    photos: int
    edited: int
    verdicts: dict[Verdict, int]
    undone: bool


def corrected(
    records: Iterable[ImageRecord], run: RunReader, *, only_approved: bool = False, tally: Tally | None = None
) -> Iterator[ImageRecord]:
    """The run's records as a person left them, streamed; what exports read.

    records:       the run's own, in path order.
    only_approved: leaves out what is not approved. Photos to reject or redo are always left out; failed ones
                   never are, as no one can judge them.
    tally:         counts anew.
    """
    tally = tally or Tally()
    tally.edited = tally.approved = tally.left_out = 0
    for record, verdict, edited, _ in reviewed(run, records):
        if verdict in ("reject", "redo") or (only_approved and verdict != "approve" and record.status == "ok"):
            tally.left_out += 1
            continue
        tally.edited += edited
        tally.approved += verdict == "approve"
        yield record


def reviewed(run: RunReader, records: Iterable[ImageRecord] | None = None) -> Iterator[Reviewed]:
    """Every photo of the run, or of the records given, in path order; holds some rows of every pull, and no more."""
    class_ids = {name: index for index, name in enumerate(class_names(run))}
    rows = _latest(run.directory)
    row = next(rows, None)
    for record in run.records() if records is None else records:
        while row is not None and row.path < record.path:
            row = next(rows, None)
        seen = fingerprint(record.segments)
        if row is None or not _applies(row, record, seen):
            yield Reviewed(record, "", False, seen)
        elif row.edited or row.verdict == "approve":
            named = tuple(replace(each, class_id=class_ids.get(each.label, NOTHING)) for each in row.segments)
            same = fingerprint(named) == seen
            history = record.history if same else None  # speaks of the run's own segments
            yield Reviewed(replace(record, segments=named, history=history), row.verdict, not same, seen)
        else:
            yield Reviewed(record, row.verdict, False, seen)


def class_names(run: RunReader) -> tuple[str, ...]:
    """The vocabulary's, and after them those that pulls added; none where the labeler names its own."""
    if run.vocabulary is None:
        return ()
    holding = _holding(run.directory)
    return _classes_of(run.vocabulary, holding[-1]) if holding else run.vocabulary.names


def _classes_of(vocabulary: Vocabulary, file: Path) -> tuple[str, ...]:
    try:
        with pq.ParquetFile(file) as opened:
            return extended(vocabulary, from_metadata(metadata_of(opened)))
    except (*UNREADABLE, ConfigError) as error:
        raise _unreadable(file, error) from None


def _applies(row: Correction, record: ImageRecord, seen: str) -> bool:
    same_photo = (row.path, row.width, row.height) == (record.path, record.width, record.height)
    same_photo &= row.checksum == record.checksum or None in (row.checksum, record.checksum)
    return same_photo and record.status == "ok" and (row.verdict != "redo" or row.seen == seen)


def fingerprint(segments: Iterable[Segment]) -> str:
    """Of a photo's labels: what they are called and where they are, not how sure they are."""
    digest = hashlib.sha256()
    for segment in segments:
        digest.update(f"{len(segment.label)}:{segment.label}{len(segment.rle)}:".encode() + segment.rle)
    return digest.hexdigest()[:32]


def append(directory: Path, corrections: Iterable[Correction], added: Sequence[str] = ()) -> Pull | None:
    """Writes one file of them, which must come in path order; None, and no file, where there are none.

    added: all classes that come after the vocabulary's.
    """
    rows = iter(corrections)
    first = list(islice(rows, BATCH_ROWS))
    if not first:
        return None
    folder = folder_of(directory)
    refuse_leading_out(folder, directory)
    make_folder(folder)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    draft = Draft(folder / "pull", durable=True)
    try:
        schema = _SCHEMA.with_metadata({CREATED: created, **to_metadata(added)})
        with closing(BatchWriter(draft.file, schema)) as writer:
            batch = first
            while batch:
                writer.write(_to_table(batch))
                batch = list(islice(rows, BATCH_ROWS))
        draft.close()
        with alone_in(folder, wait=True):  # else two pulls at once would take one number
            number = max(map(_number, files(directory)), default=0) + 1
            target = draft.publish(folder / f"{number:06d}.parquet")
    except BaseException:
        draft.discard()
        raise
    return _describe(target)


def pulls(directory: Path) -> list[Pull]:
    """All there are, the undone ones too, in the order in which they were made."""
    return [_describe(file) for file in files(directory)]


def undo(directory: Path, number: int) -> Pull:
    """Takes one pull out of the layer. What later pulls say of its photos still holds."""
    folder = folder_of(directory)
    if folder.is_dir():
        refuse_leading_out(folder, directory)
        with alone_in(directory, wait=True):  # a pull reads these files
            for file in _holding(directory):
                if _number(file) == number:
                    move(file, file.with_suffix(".undone"), durable=True)
                    return _describe(file.with_suffix(".undone"))
    there = ", ".join(str(_number(file)) for file in _holding(directory)) or "none"
    raise RunError(f"{directory}: expected a pull that is not undone ({there}), but got {number}; see review --list")


def folder_of(directory: Path) -> Path:
    return directory / "corrections"


def files(directory: Path) -> list[Path]:
    found = [file for file in folder_of(directory).glob("[0-9]*") if file.suffix in (".parquet", ".undone")]
    return sorted(found, key=_number)


def _holding(directory: Path) -> list[Path]:
    """Those that are not undone."""
    return [file for file in files(directory) if file.suffix == ".parquet"]


def with_rows(pull: Path, change: Callable[[pa.Table], pa.Table]) -> bytes:
    """The pull's file with other rows: change takes and gives some at a time."""
    content = io.BytesIO()
    try:
        with pq.ParquetFile(pull, page_checksum_verification=True) as opened:
            schema = opened.schema_arrow.with_metadata(metadata_of(opened))
            with closing(BatchWriter(content, schema)) as writer:
                for batch in read_batches(opened, BATCH_ROWS):
                    writer.write(change(batch))
    except UNREADABLE as error:
        raise _unreadable(pull, error) from None
    return content.getvalue()


def _number(file: Path) -> int:
    return int(file.stem)


def _latest(directory: Path) -> Iterator[Correction]:
    """The row that holds for each photo, in path order."""
    path = None
    for row, _ in heapq.merge(*map(_rows, _holding(directory)), key=lambda item: (item[0].path, -item[1])):
        if row.path != path:
            path = row.path
            yield row


def _rows(file: Path) -> Iterator[tuple[Correction, int]]:
    """Its rows, each with the number of its pull."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            for batch in read_batches(opened, BATCH_ROWS):
                refuse_other_columns(batch.schema, _SCHEMA.names, _SCHEMA)
                refuse_nonsense(batch)
                for row in batch.to_pylist():
                    record = from_row({"path": row["path"], "status": "ok", "segments": row["segments"]})
                    yield Correction(**row | {"segments": record.segments}), _number(file)
    except UNREADABLE as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> RunError:
    reason = one_line(error)
    return RunError(f"{file}: cannot be read ({reason}); move it away, and the run is without this pull")


def _to_table(corrections: list[Correction]) -> pa.Table:
    labels = to_table(ImageRecord(each.path, "ok", segments=each.segments) for each in corrections)["segments"]
    names = [name for name in _SCHEMA.names if name != "segments"]
    table = pa.Table.from_pylist([{name: getattr(each, name) for name in names} for each in corrections])
    return table.append_column("segments", labels).cast(_SCHEMA)


def _describe(file: Path) -> Pull:
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            created = metadata_of(opened)[CREATED]
            table = pa.concat_tables(read_batches(opened, BATCH_ROWS, ["verdict", "edited"]))
    except UNREADABLE as error:
        raise _unreadable(file, error) from None
    counts = {verdict: pc.sum(pc.equal(table["verdict"], verdict)).as_py() or 0 for verdict in VERDICTS}
    edited = pc.sum(table["edited"]).as_py() or 0
    return Pull(_number(file), created, table.num_rows, edited, counts, file.suffix == ".undone")
