"""Fuzzed: what the tool wrote itself, and what may have become of it since: runs, ledgers, pulls and caches."""

from __future__ import annotations

import copy
import io
import json
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from helpers_fuzz import (
    JSON,
    TEXTS,
    Contents,
    Reader,
    Readers,
    changed,
    is_inside,
    once_damaged,
)
from helpers_runs import finished_manifest
from hypothesis import assume
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from annotator import ledger
from annotator.corrections import Correction, append, fingerprint, pulls, reviewed
from annotator.manifest import DIGEST, Manifest
from annotator.models.text_cache import TextCache
from annotator.parts import read_columns, span, write_part
from annotator.prediction import Prediction
from annotator.record import ROW, ImageRecord, to_table
from annotator.run import RunReader
from annotator.summary import summarise
from annotator.vocabulary import ClassEntry, Vocabulary

READERS = Readers()

ENTRIES = (
    ClassEntry("background", ("background",), background=True),
    ClassEntry("cat", ("cat", "kitten"), color=(1, 2, 3), threshold=0.25),
    ClassEntry("dog", ("dog",)),
    ClassEntry("fog", ("fog",), ignore=True),
    ClassEntry("puppy", ("puppy",), merge_into="dog"),
)
VOCABULARY = Vocabulary(ENTRIES, ("a {}",))
NAMES = VOCABULARY.names
MANIFEST = finished_manifest(VOCABULARY)
HEIGHT, WIDTH = 7, 9


def record(path: str, seed: int = 0) -> ImageRecord:
    labels = np.random.default_rng(seed).integers(-1, 3, (HEIGHT, WIDTH)).astype(np.int32)
    segments = tuple(Prediction(labels, NAMES, (0, 1, 2), (0.5, 0.25, 1.0)).segments())
    return ImageRecord(path, "ok", width=WIDTH, height=HEIGHT, segments=segments, history={"steps": [seed]})


RECORDS = [record("a.jpg", 1), record("b/c.jpg", 2), replace(record("d.jpg"), status="failed", error="x", segments=())]


def run_of_one_part(folder: Path) -> Path:
    """Its part."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    MANIFEST.save(folder)
    return write_part(folder, 0, RECORDS)


def sound(found: ImageRecord) -> None:
    """Fails for a record that no exporter may meet."""
    assert is_inside(found.path)
    assert found.status in ("ok", "failed")
    for segment in found.segments:
        mask = coco_mask.decode({"size": [found.height, found.width], "counts": segment.rle})
        assert mask.sum() == segment.area > 0
        assert 0 <= segment.bbox[0] <= segment.bbox[0] + segment.bbox[2] <= found.width
        assert -1 <= segment.class_id < len(NAMES)


def status_of(directory: Path) -> None:
    """As `annotate status` prints it."""
    from annotator import printing

    with redirect_stdout(io.StringIO()):
        printing.print_status(RunReader(directory), failures=True)


@READERS.add(800)
def run_json(folder: Path) -> Reader:
    """Values in any place, as somebody may write it by hand."""
    run_of_one_part(folder)
    content = json.loads(json.dumps(asdict(MANIFEST)))

    def check(value: Any) -> None:
        (folder / "run.json").write_text(json.dumps(value))
        run = RunReader(folder)
        assert run.vocabulary is None or run.vocabulary.classes is not None
        list(run.records())
        status_of(folder)

    return Reader(changed(content) | JSON, check)


@READERS.add(4500)
def run_json_bytes(folder: Path) -> Reader:
    MANIFEST.save(folder)
    content = (folder / "run.json").read_bytes()

    def check(value: bytes) -> None:
        (folder / "run.json").write_bytes(value)
        found = Manifest.load(folder)
        assert found == MANIFEST or DIGEST.encode() not in value

    return Reader(once_damaged(content), check)


@READERS.add(4500)
def part_bytes(folder: Path) -> Reader:
    part = run_of_one_part(folder)
    content = part.read_bytes()
    column_sets = [ROW.names, ["path", "status"], ["path", "segments.list.element.area"]]
    good = [read_columns(part, columns) for columns in column_sets]

    def check(value: bytes) -> None:
        part.write_bytes(value)
        at = len(value) % 3
        assert read_columns(part, column_sets[at]) == good[at]
        assert span(part) == (RECORDS[0].path, RECORDS[-1].path)

    return Reader(once_damaged(content), check)


@READERS.add(600)
def rows(folder: Path) -> Reader:
    """Rows of a part that has no digests, as older versions and strangers write it."""
    part = run_of_one_part(folder)
    good = to_table(RECORDS).to_pylist()
    kinds: dict[str, Contents] = {
        "path": TEXTS,
        "status": TEXTS | st.sampled_from(["ok", "failed"]),
        "error": TEXTS,
        "history": TEXTS | JSON.map(json.dumps),
        "label": TEXTS,
        "score": st.floats() | st.integers(-1, 2),
        "area": st.integers(-1, 70) | st.integers(-(2**63), 2**63 - 1),
        "class_id": st.integers(-3, 5) | st.integers(-(2**31), 2**31 - 1),
        "bbox": st.lists(st.integers(-2, 12) | st.integers(-(2**31), 2**31 - 1), min_size=4, max_size=4),
        "rle": st.binary(max_size=12) | st.text("0123456789:;<=>?@ABMNOP", max_size=12).map(str.encode),
        "embedding": st.binary(max_size=4),
        "width": st.integers(-1, 12) | st.integers(-(2**31), 2**31 - 1),
        "height": st.integers(-1, 12) | st.integers(-(2**31), 2**31 - 1),
        "orientation": st.integers(-128, 127),
        "bytes": st.integers(-(2**63), 2**63 - 1),
        "mtime": st.floats(),
        "seconds": st.floats(width=32),
    }

    @st.composite
    def tampered(draw: Any) -> Any:
        content = copy.deepcopy(good)
        for _ in range(draw(st.integers(1, 2))):
            row = content[draw(st.integers(0, 1))]
            name = draw(st.sampled_from(list(kinds)))
            inner = row if name in row else row["segments"][draw(st.integers(0, len(row["segments"]) - 1))]
            inner[name] = draw(st.none() | kinds[name])
        return content

    def check(content: Any) -> None:
        try:
            table = pa.Table.from_pylist(content, schema=ROW)
        except (pa.ArrowException, UnicodeError, OverflowError):  # nobody can write it
            assume(False)
        pq.write_table(table.replace_schema_metadata({"first_path": "a.jpg", "last_path": "d.jpg"}), part)
        run = RunReader(folder)
        for found in run.records():
            sound(found)
            if not found.not_finite:
                assert found.prediction().size == found.size
        summarise(folder)

    return Reader(tampered(), check)


@READERS.add(300)
def ledger_bytes(folder: Path) -> Reader:
    """A ledger says what its parts say, or nobody asks it."""
    run_of_one_part(folder)
    write_part(folder, 1, [record("e.jpg", 3), record("f.jpg", 4)])
    ledger.make_ledger(folder, ["part-000000.parquet", "part-000001.parquet"], open_labels=False)
    (file,) = (folder / "ledger").iterdir()
    content, summary = file.read_bytes(), summarise(folder)
    finished = ["a.jpg", "b/c.jpg", "e.jpg", "f.jpg"]

    def check(value: bytes) -> None:
        file.write_bytes(value)
        assert summarise(folder) == summary
        assert len(RunReader(folder)) == 5
        asked = ledger.finished_paths(folder, only_ok=True)
        assert asked.among([*finished, "d.jpg", "z.jpg"]).tolist() == [True] * 4 + [False] * 2
        assert [each.path for each in RunReader(folder).failures()] == ["d.jpg"]

    return Reader(once_damaged(content), check)


@READERS.add(700)
def correction_bytes(folder: Path) -> Reader:
    run_of_one_part(folder)
    run = RunReader(folder)
    append(folder, said_of(*RECORDS[:2]))
    (file,) = (folder / "corrections").glob("*.parquet")
    content, good, listed = file.read_bytes(), list(reviewed(run)), pulls(folder)

    def check(value: bytes) -> None:
        file.write_bytes(value)
        assert list(reviewed(run)) == good
        assert pulls(folder) == listed

    return Reader(once_damaged(content), check)


def said_of(*records: ImageRecord) -> list[Correction]:
    """The first one is approved, the others are edited."""
    said = []
    for place, each in enumerate(records):
        seen, edit = fingerprint(each.segments), record(each.path, 9).segments if place else each.segments
        said.append(Correction(each.path, WIDTH, HEIGHT, "" if place else "approve", bool(place), seen, edit))
    return said


@READERS.add(800)
def text_cache_bytes(folder: Path) -> Reader:
    """A damaged file of vectors costs time, and changes no vector."""
    names = ["cat", "dog", "tree"]
    vectors = {name: torch.tensor([len(name), *map(float, name.encode()[:3])]) for name in names}

    def embed(wanted: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
        return torch.stack([vectors[name] for name in wanted])

    os.environ["ANNOTATE_CACHE"] = str(folder)
    good = TextCache("abc").get(names, ("{}",), embed)
    (file,) = folder.rglob("text-embeddings.sqlite")
    content = file.read_bytes()

    def check(value: bytes) -> None:
        os.environ["ANNOTATE_CACHE"] = str(folder)
        for leftover in file.parent.glob(f"{file.name}-*"):
            leftover.unlink()
        file.write_bytes(value)
        found = TextCache("abc").get(names, ("{}",), embed)
        assert torch.equal(found, good)

    return Reader(once_damaged(content), check)
