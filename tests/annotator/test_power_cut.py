"""The power may fail at any moment: the run opens, and every row and every pull that was promised is there.

Every prefix of what is written is tried, each with unsynced bytes and names lost, kept and kept by half (see
`helpers_disk`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_disk import Recording, recorded, write

from annotator import ledger
from annotator.corrections import Correction, append, fingerprint, pulls, reviewed, undo
from annotator.manifest import Manifest
from annotator.prediction import Prediction
from annotator.run import ImageRecord, RunReader, RunWriter, part_files
from annotator.storage import write_bytes
from annotator.vocabulary import Vocabulary

CLASSES = Vocabulary.of(["background", "cat"])
MANIFEST = Manifest({}, "same", "photos", "1", "test", vocabulary=CLASSES.to_dict())
RUN = Path("runs/holiday")


def record(number: int) -> ImageRecord:
    label_map = np.random.default_rng(number).integers(0, 2, (3, 4)).astype(np.int32)
    segments = tuple(Prediction(label_map, CLASSES.names, (0, 1), (0.5, 0.5)).segments())
    return ImageRecord(f"{number}.jpg", "ok", width=4, height=3, segments=segments)


RECORDS = {f"{number}.jpg": record(number) for number in range(5)}
FAILED = ImageRecord("bad.jpg", "failed", error="empty file")


def label(folder: Path, recording: Recording, *records: ImageRecord, retry_failed: bool = False) -> None:
    """A part per photo."""
    with RunWriter.open(folder / RUN, replace(MANIFEST), retry_failed=retry_failed) as writer:
        for each in records:
            writer.write(each)
            writer.flush()
            if each.status == "ok":
                recording.promise(each.path)


def begin(folder: Path, recording: Recording) -> None:
    label(folder, recording, *RECORDS.values())


def resume(folder: Path, recording: Recording) -> None:
    label(folder, recording, *list(RECORDS.values())[3:], retry_failed=True)


def correct(folder: Path, recording: Recording) -> None:
    run = RunReader(folder / RUN)
    for number, each in enumerate(list(run.records())[:2], 1):
        append(
            run.directory, [Correction(each.path, 4, 3, "approve", False, fingerprint(each.segments), each.segments)]
        )
        recording.promise(f"pull {number}")
    undo(run.directory, 1)
    recording.promise("pull 1 is undone")


def half_a_run(folder: Path, recording: Recording) -> None:
    label(folder, recording, *list(RECORDS.values())[:3])
    with RunWriter.open(folder / RUN, replace(MANIFEST)) as writer:  # a part with both
        writer.write(FAILED)
        writer.write(replace(record(9), path="9.jpg"))


def damaged(folder: Path, recording: Recording) -> None:
    """A part that a disk changed; nobody can promise its photos."""
    half_a_run(folder, recording)
    for part in part_files(folder / RUN):
        part.write_bytes(part.read_bytes()[:-9] + bytes(9))


def nothing(folder: Path, recording: Recording) -> None: ...


WORK: dict[str, tuple[Callable[[Path, Recording], None], Callable[[Path, Recording], None]]] = {
    "a first run": (nothing, begin),
    "a resumed run": (half_a_run, resume),
    "pulls": (half_a_run, correct),
    "a run with damaged parts": (damaged, begin),
}


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK)
def test_a_power_cut_at_any_moment(work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LEDGER_PARTS", 3)
    before, during = WORK[work]
    folder = tmp_path / "disk"
    folder.mkdir()
    before(folder, Recording(folder))
    there = [name for name in labelled(folder / RUN) if name != FAILED.path] if before == half_a_run else []
    with recorded(folder, monkeypatch) as recording:
        during(folder, recording)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    kinds, tried = set(), set()
    for place, cut in enumerate(recording.cuts):
        for lost, unsynced in cut.outcomes():
            files = cut.after(lost, unsynced)
            if (state := (frozenset(files.items()), cut.promised)) in tried:
                continue
            write(files, tmp_path / f"after-{len(tried)}")
            what = f"{place} of {len(recording.cuts)}, {unsynced}, without the names in {lost}"
            check_promises(tmp_path / f"after-{len(tried)}" / RUN, {*there, *cut.promised}, what)
            tried.add(state)
            kinds.add(unsynced)
    print(len(recording.cuts), "moments,", len(tried), "disks")
    assert len(tried) > 10
    assert kinds == {"lost", "half", "whole"}


def labelled(run: Path) -> list[str]:
    return [each.path for each in RunReader(run).records()]


def check_promises(run: Path, promised: set[str], what: str) -> None:
    photos = {name for name in promised if name.endswith(".jpg")}
    if photos:
        found = [each for each in RunReader(run).records() if each.status == "ok"]
        assert photos <= {each.path for each in found}, what
        assert len(found) == len({each.path for each in found}), what
        assert all(RECORDS.get(each.path, replace(record(9), path="9.jpg")) == each for each in found), what
    listed = {each.number: each.undone for each in pulls(run)}
    for number in (1, 2):
        assert f"pull {number}" not in promised or number in listed, what
    assert "pull 1 is undone" not in promised or listed[1], what
    if listed:
        assert sum(each.verdict == "approve" for each in reviewed(RunReader(run))) >= len(listed) - 1, what
    with RunWriter.open(run, replace(MANIFEST)) as writer:  # it goes on
        assert all(name in writer.finished for name in photos), what
        for path in RECORDS:
            if path not in writer.finished:
                writer.write(RECORDS[path])
    assert set(RECORDS) <= set(labelled(run)), what


def test_a_file_has_its_old_or_its_new_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"the old content")
    with recorded(folder, monkeypatch) as recording:
        write_bytes(folder / "a.bin", b"the new content, which is longer")
        recording.promise("new")
    found = set()
    for cut in recording.cuts:
        for lost, unsynced in cut.outcomes():
            found.add(content := cut.after(lost, unsynced)["a.bin"] or b"")
            assert content.endswith(b"longer") or not cut.promised
    assert found == {b"the old content", b"the new content, which is longer"}
