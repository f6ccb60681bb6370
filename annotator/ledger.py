"""Ledgers of a run: one file that sums up many parts, so that nobody has to open them all.

    ledger/ledger-000000.parquet    of some hundred parts: digests and a status per row; in its metadata (JSON)
                                    each part's rows, failures, first and last path, and the counts of `RunSummary`

A ledger is a cache. It names its parts with size and stamp. It is ignored if one of them is gone or was written
again, if another ledger names one, if its own file is damaged, or if its counts follow rules that have changed since:
its parts are read instead, and the next writer replaces it. A run of few parts has none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annotator import column_digests, storage
from annotator.counts import COUNTED, RunSummary
from annotator.finished import Digests, Finished, digests_of
from annotator.maker import photos_by_maker
from annotator.open_labels import rules
from annotator.parts import UNREADABLE, list_parts, parts_folder, read_all

LEDGER_PARTS = 512
"""So many parts share a ledger: 131,072 photos where parts are full."""

_VERSION = 3
"""Version 1 counted segments instead of photos; 2 had no digests and told nothing of the files of photos."""
_FINISHED = ["path", "status", "bytes", "mtime"]
_LEDGER = re.compile(r"ledger-(\d+)\.parquet")
_METADATA = b"ledger"


class Covered(NamedTuple):
    """A part as a ledger knows it. first, last: its paths; size, stamp: as `storage.describe` says."""

    name: str
    size: int
    stamp: str
    rows: int
    failed: int
    first: str
    last: str


@dataclass(frozen=True)
class Ledger:
    file: Path
    parts: tuple[Covered, ...]
    summary: RunSummary


class Survey(NamedTuple):
    """Ledgers that count, and the parts that none of them has, in order of their numbers."""

    ledgers: list[Ledger]
    rest: list[Path]


def survey(directory: Path) -> Survey:
    """Reads the metadata of ledgers, and no part."""
    parts = {file.name: file for file in list_parts(directory)}
    folder = parts_folder(directory)
    ledgers = []
    for ledger in storage.each(_open, _files(directory)):
        if ledger is not None and all(parts.get(part.name) == part[:3] for part in ledger.parts):
            ledgers.append(ledger)
            for part in ledger.parts:
                del parts[part.name]
    return Survey(ledgers, [folder / name for name in parts])


def finished_paths(directory: Path, *, only_ok: bool = False, surveyed: Survey | None = None) -> Finished:
    """Photos that have a row already; `only_ok`: and did not fail."""
    ledgers, rest = surveyed or survey(directory)
    rest = [*rest]
    rows = sum(part.rows for each in ledgers for part in each.parts)
    high, low = np.empty(rows, dtype=np.uint64), np.empty(rows, dtype=np.uint64)
    filled = 0
    for each, piece in zip(ledgers, storage.each(_read_digests, [each.file for each in ledgers]), strict=True):
        if piece is None:
            rest += [parts_folder(directory) / part.name for part in each.parts]
            continue
        chosen = piece.filter(piece["ok"]) if only_ok else piece
        until = filled + chosen.num_rows
        high[filled:until], low[filled:until] = chosen["high"].to_numpy(), chosen["low"].to_numpy()
        filled = until
    last = [_digests(rows, only_ok) for rows in read_all(rest, _FINISHED)]
    if last:
        ends = np.concatenate(last)
        high, low = np.concatenate([high[:filled], ends[:, 0]]), np.concatenate([low[:filled], ends[:, 1]])
        filled += len(ends)
    return Finished(high[:filled], low[:filled])


def renew_ledgers(directory: Path, *, open_labels: bool) -> Survey:
    """Makes what is missing and removes what does not count; the parts that are left are too few for a ledger.

    open_labels: whether the labels are free text.
    """
    surveyed = survey(directory)
    counting = {each.file.name for each in surveyed.ledgers}
    superfluous = [file for file in _files(directory) if file.name not in counting]
    for file in superfluous:
        storage.delete(file)
    names = [part.name for part in surveyed.rest]
    while len(names) >= LEDGER_PARTS:
        make_ledger(directory, names[:LEDGER_PARTS], open_labels=open_labels)
        del names[:LEDGER_PARTS]
    return surveyed if len(names) == len(surveyed.rest) else survey(directory)


def make_ledger(directory: Path, names: Sequence[str], *, open_labels: bool) -> None:
    """Of these parts, which are read for it."""
    parts = [parts_folder(directory) / name for name in names]
    files = list(storage.each(storage.describe, parts))  # before they are read: a part written meanwhile must differ
    tables = list(read_all(parts, [*_FINISHED, *(name for name in COUNTED if name not in _FINISHED)]))
    covered = [
        Covered(*file, rows.num_rows, pc.sum(pc.equal(rows["status"], "failed")).as_py() or 0, *_span(rows))
        for file, rows in zip(files, tables, strict=True)
    ]
    whole = pa.concat_tables(tables)
    summary = RunSummary.of(whole, open_labels=open_labels)
    summary.makers = photos_by_maker(tables)
    content = {
        "version": _VERSION,
        "rules": rules() if open_labels else "",
        "parts": covered,
        "summary": summary.to_dict(),
    }
    digests = _digest_rows(whole).sort_by("high")  # which makes sorting those of all ledgers three times as fast
    content = json.loads(json.dumps({**content, "columns": column_digests.digests_of(digests)}))
    digests = digests.replace_schema_metadata({_METADATA: json.dumps({**content, "digest": _digest(content)})})
    file = pa.BufferOutputStream()
    pq.write_table(
        digests, file, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True
    )
    folder = directory / "ledger"
    if not storage.is_remote(folder):
        folder.mkdir(exist_ok=True)
    number = max((_number(each) for each in _files(directory)), default=-1) + 1
    storage.write_bytes(folder / f"ledger-{number:06d}.parquet", file.getvalue().to_pybytes())


def remove_ledgers(directory: Path) -> None:
    for file in _files(directory):
        storage.delete(file)


def _files(directory: Path) -> list[Path]:
    folder = directory / "ledger"
    files = [folder / file.name for file in storage.list_files(folder) if _LEDGER.fullmatch(file.name)]
    return sorted(files, key=_number)


def _number(file: Path) -> int:
    return int(file.stem.removeprefix("ledger-"))


def _open(file: Path) -> Ledger | None:
    """None where it is damaged, of another version, or counts free text by other rules."""
    try:
        content = json.loads(pq.read_schema(_source(file)).metadata[_METADATA])
        if content.pop("digest") != _digest(content) or content["version"] != _VERSION:
            return None
        if content["rules"] not in ("", rules()):
            return None
        return Ledger(
            file, tuple(Covered(*part) for part in content["parts"]), RunSummary.from_dict(content["summary"])
        )
    except UNREADABLE:
        return None


def _digest(content: dict[str, Any]) -> str:
    """Of what a ledger says of its parts: page checksums do not cover metadata."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=column_digests.BYTES).hexdigest()


def _read_digests(file: Path) -> pa.Table | None:
    """None where it is damaged behind its metadata."""
    try:
        found = pq.read_table(_source(file), page_checksum_verification=True, partitioning=None)
        told = json.loads(found.schema.metadata[_METADATA])["columns"]
        return found if column_digests.digests_of(found) == told else None
    except UNREADABLE:
        return None


def _source(file: Path) -> Any:
    return pa.BufferReader(storage.read_bytes(file)) if storage.is_remote(file) else file


def _digest_rows(rows: pa.Table) -> pa.Table:
    """path, status, bytes, mtime -> high, low, ok."""
    digests = _digests(rows)
    return pa.table({"high": digests[:, 0], "low": digests[:, 1], "ok": pc.equal(rows["status"], "ok")})


def _digests(rows: pa.Table, only_ok: bool = False) -> Digests:
    rows = rows.filter(pc.equal(rows["status"], "ok")) if only_ok else rows
    return digests_of(rows["path"].to_pylist(), rows["bytes"].to_numpy(), rows["mtime"].to_numpy())


def _span(rows: pa.Table) -> tuple[str, str]:
    return (rows["path"][0].as_py(), rows["path"][-1].as_py()) if rows.num_rows else ("", "")
