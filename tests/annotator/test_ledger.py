"""Ledgers: they say what the parts say, in one file for many, and count for nothing where they might not."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers_runs import environment, manifest, python
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from annotator import ledger
from annotator.finished import Digests, Finished, digests_of
from annotator.ledger import finished_paths, survey
from annotator.maker import maker_in
from annotator.prediction import Segment
from annotator.run import ImageRecord, RunReader, RunWriter, part_files, write_part
from annotator.summary import RunSummary, summarise
from annotator.vocabulary import Vocabulary

CLASSES = {"cat": "cat", "The cats": "cat", "dog": "dog", "a tree, green": "tree green", "🐈": "🐈"}
"""Free-text labels, and what they name."""
LABELS = tuple(CLASSES)


@pytest.fixture(autouse=True)
def three_parts_share_a_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LEDGER_PARTS", 3)


def record(name: str, chance: random.Random) -> ImageRecord:
    if chance.random() < 0.2:
        return ImageRecord(name, "failed", error=chance.choice(["truncated", "the file is empty"]))
    width, height = chance.choice([(2, 2), (60_000, 35_000)])  # together pixels beyond 32 bits
    areas = [chance.randint(1, width * height) for _ in range(chance.randint(0, 6))]
    segments = tuple(
        Segment(chance.choice(LABELS), 0, 0.5, area, (0, 0, 2, 2), first_pixels(area, height, width)) for area in areas
    )
    return ImageRecord(name, "ok", 1, 1.5, width, height, segments=segments)


def first_pixels(area: int, height: int, width: int) -> bytes:
    counts = [0, area, height * width - area]
    rle: dict[str, bytes] = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return rle["counts"]


def records(count: int, seed: int = 0) -> list[ImageRecord]:
    chance = random.Random(seed)
    return [record(f"{number % 3}/{number:03d} é.jpg", chance) for number in range(count)]


def write(directory: Path, parts: Iterable[list[ImageRecord]], **options: bool) -> None:
    with RunWriter.open(directory, manifest(), **options) as writer:
        for part in parts:
            for each in part:
                writer.write(each)
            writer.flush()


def halves(rows: list[ImageRecord], parts: int) -> list[list[ImageRecord]]:
    size = -(-len(rows) // parts)
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def ledgers(directory: Path) -> list[Path]:
    return sorted((directory / "ledger").glob("*"))


def recount(rows: list[ImageRecord]) -> RunSummary:
    """From the records as they were written, one by one."""
    good = [each for each in rows if each.status == "ok"]
    areas: Counter[str] = Counter()
    photos: Counter[str] = Counter()
    for each in good:
        for segment in each.segments:
            areas[CLASSES[segment.label]] += segment.area
        photos.update({CLASSES[segment.label] for segment in each.segments})
    failures = Counter(each.error for each in rows if each.status == "failed")
    pixels = sum(each.width * each.height for each in good)
    makers = Counter({maker_in(manifest()): len(rows)} if rows else {})
    return RunSummary(len(good), len(rows) - len(good), pixels, areas, photos, failures, makers)


def assert_says(directory: Path, rows: list[ImageRecord]) -> None:
    """The run holds exactly these rows, whichever way one asks."""
    run = RunReader(directory)
    assert len(run) == len(rows)
    assert list(run) == sorted(rows, key=lambda each: each.path)
    failed = sorted(each.path for each in rows if each.status == "failed")
    assert [each.path for each in run.failures()] == failed
    assert summarise(directory) == recount(rows)
    for only_ok in (False, True):
        finished = finished_paths(directory, only_ok=only_ok)
        expected = {each.path for each in rows if each.status == "ok" or not only_ok}
        asked = [each.path for each in rows] + [f"{each.path}x" for each in rows]
        assert len(finished) == len(expected)
        assert finished.among(asked).tolist() == [path in expected for path in asked]


def test_ledgers_say_what_the_parts_say(tmp_path: Path) -> None:
    rows = records(77)
    write(tmp_path, halves(rows, 8))
    assert len(ledgers(tmp_path)) == 2
    assert [len(each.parts) for each in survey(tmp_path).ledgers] == [3, 3]
    assert survey(tmp_path).rest == part_files(tmp_path)[6:]
    assert_says(tmp_path, rows)
    shutil.rmtree(tmp_path / "ledger")
    assert_says(tmp_path, rows)


@pytest.mark.parametrize("parts_of_a_ledger", [1, 100])
def test_a_photo_counts_once_however_many_of_its_segments_have_the_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts_of_a_ledger: int
) -> None:
    """With ledgers and without; of free text spellings count as one class, names of a vocabulary stay as they are."""
    monkeypatch.setattr(ledger, "LEDGER_PARTS", parts_of_a_ledger)
    photos = {"a.jpg": ["orange", "orange", "Oranges", "bike"], "b.jpg": ["oranges"], "c.jpg": ["bike", "bike"]}
    parts = [
        [
            ImageRecord(
                path,
                "ok",
                width=2,
                height=2,
                segments=tuple(Segment(label, 0, 0.5, 4, (0, 0, 2, 2), b"04") for label in labels),
            )
        ]
        for path, labels in photos.items()
    ]
    write(tmp_path / "open", parts)
    found = summarise(tmp_path / "open")
    assert found.photos_with == {"orange": 2, "bike": 2}
    assert found.classes == {"orange": 16, "bike": 12}

    names = Vocabulary.of(["orange", "oranges", "bike"]).to_dict()  # which `normalise` would make one of
    with RunWriter.open(tmp_path / "closed", replace(manifest(), vocabulary=names)) as writer:
        for (photo,) in parts:
            lowered = tuple(replace(segment, label=segment.label.lower()) for segment in photo.segments)
            writer.write(replace(photo, segments=lowered))
            writer.flush()
    found = summarise(tmp_path / "closed")
    assert found.photos_with == {"orange": 1, "oranges": 2, "bike": 2}
    assert found.classes == {"orange": 8, "oranges": 8, "bike": 12}
    assert (len(ledgers(tmp_path / "open")), len(ledgers(tmp_path / "closed"))) == (
        (3, 3) if parts_of_a_ledger == 1 else (0, 0)
    )


def test_parts_with_a_ledger_are_not_opened(tmp_path: Path) -> None:
    rows = records(40)
    write(tmp_path, halves(rows, 4))
    for part in part_files(tmp_path)[:3]:  # nothing to read, but size and time are those that the ledger knows
        status = part.stat()
        part.write_bytes(bytes(status.st_size))
        os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(RunReader(tmp_path)) == 40
    assert summarise(tmp_path) == recount(rows)
    RunWriter.open(tmp_path, manifest()).close()
    assert finished_paths(tmp_path).among([each.path for each in rows]).all()


def test_a_run_of_before_there_were_ledgers_gets_them_when_it_is_resumed(tmp_path: Path) -> None:
    rows = records(77)
    write(tmp_path, halves(rows, 8))
    made = {file.name: pq.read_table(file) for file in ledgers(tmp_path)}
    shutil.rmtree(tmp_path / "ledger")
    RunWriter.open(tmp_path, manifest()).close()
    assert {file.name: pq.read_table(file) for file in ledgers(tmp_path)} == made
    assert_says(tmp_path, rows)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def flip(file: Path) -> None:
    """One bit of a digest: the metadata stays readable."""
    content = bytearray(file.read_bytes())
    content[60] ^= 1
    file.write_bytes(content)
    assert ledger._open(file) is not None


def empty(file: Path) -> None:
    file.write_bytes(b"")


def rewritten(file: Path, **changed: object) -> None:
    """Other content in the ledger's metadata; None takes a field away."""
    table = pq.read_table(file)
    said = {**json.loads(table.schema.metadata[b"ledger"]), **changed}
    content = json.dumps({name: value for name, value in said.items() if value is not None})
    pq.write_table(table.replace_schema_metadata({b"ledger": content}), file)


def counts_of_nothing() -> dict[str, object]:
    """Of a summary that would be seen in any sum."""
    return {"ok": 99, "failed": 0, "pixels": 1, "classes": {"x": 1}, "photos_with": {"x": 99}, "failures": {}}


def other_version(file: Path) -> None:
    rewritten(file, version=4, summary=counts_of_nothing())


def second_version(file: Path) -> None:
    """Whose digests say nothing of files, so that every photo would count as touched."""
    rewritten(file, version=2, summary=counts_of_nothing())


def first_version(file: Path) -> None:
    """Which counted the segments of a label, and not the photos that have it."""
    rewritten(file, version=1, rules=None, summary=counts_of_nothing())


def other_rules(file: Path) -> None:
    """Free text was brought together by another version's rules."""
    rewritten(file, rules="0123456789abcdef", summary=counts_of_nothing())


def foreign(file: Path) -> None:
    pq.write_table(pq.read_table(file).replace_schema_metadata({}), file)


def doubled(file: Path) -> None:
    shutil.copyfile(file, file.with_name("ledger-000007.parquet"))


DAMAGES = [cut, flip, empty, other_version, second_version, first_version, other_rules, foreign, doubled, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_ledger_that_cannot_be_trusted_does_not_count(tmp_path: Path, damage: object) -> None:
    rows = records(50)
    write(tmp_path, halves(rows, 7))
    assert callable(damage)
    damage(ledgers(tmp_path)[0])
    assert_says(tmp_path, rows)
    RunWriter.open(tmp_path, manifest()).close()
    assert_says(tmp_path, rows)
    assert len(survey(tmp_path).ledgers) == len(ledgers(tmp_path)) == 2  # made anew


def test_a_ledger_of_parts_that_changed_does_not_count_and_is_made_anew(tmp_path: Path) -> None:
    rows = records(60)
    parts = halves(rows, 6)
    write(tmp_path, parts)
    part_files(tmp_path)[1].unlink()
    write_part(tmp_path, 3, parts[3][:-1], maker_in(manifest()))
    left = [*parts[0], *parts[2], *parts[3][:-1], *parts[4], *parts[5]]
    assert survey(tmp_path).ledgers == []
    assert_says(tmp_path, left)
    RunWriter.open(tmp_path, manifest()).close()
    (made,) = survey(tmp_path).ledgers
    assert [part.name for part in made.parts] == [f"part-00000{number}.parquet" for number in (0, 2, 3)]
    assert ledgers(tmp_path) == [made.file]  # those that did not count are gone
    assert_says(tmp_path, left)


def test_failures_are_dropped_from_parts_with_a_ledger_too(tmp_path: Path) -> None:
    rows = records(80)
    write(tmp_path, halves(rows, 8))
    good = [each for each in rows if each.status == "ok"]
    again = [ImageRecord(each.path, "ok", width=2, height=2) for each in rows if each.status == "failed"]
    assert again
    with RunWriter.open(tmp_path, manifest(), retry_failed=True) as writer:
        assert len(writer.finished) == len(good)
        assert not writer.finished.among([each.path for each in again]).any()
        assert_says(tmp_path, good)
        for each in again:
            writer.write(each)
    assert_says(tmp_path, [*good, *again])
    assert list(RunReader(tmp_path).failures()) == []


def test_overwriting_leaves_no_ledger(tmp_path: Path) -> None:
    write(tmp_path, halves(records(80), 8))
    rows = records(9, seed=1)
    write(tmp_path, halves(rows, 2), overwrite=True)
    assert ledgers(tmp_path) == []
    assert_says(tmp_path, rows)


def test_parts_of_other_processes_are_adopted(tmp_path: Path) -> None:
    rows = records(50)
    parts = halves(rows, 5)
    (tmp_path / "todo" / "parts").mkdir(parents=True)
    written = [write_part(tmp_path / "todo", number, part, maker_in(manifest())) for number, part in enumerate(parts)]
    late = ImageRecord("z.jpg", "ok", width=2, height=2)
    with RunWriter.open(tmp_path / "run", manifest()) as writer:
        for number in (1, 0, 4):  # in the order in which they were finished
            writer.adopt(written[number])
        writer.write(late)
        writer.flush()
        for number in (2, 3):
            writer.adopt(written[number])
    assert len(part_files(tmp_path / "run")) == 6
    assert not any(part.exists() for part in written)
    assert_says(tmp_path / "run", [*rows, late])


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from helpers_runs import manifest
from test_ledger import halves, records
from annotator import ledger
from annotator.run import RunWriter
ledger.LEDGER_PARTS = 3

def write(out, left):
    def watch(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir", "os.remove") and str(arguments[0]).startswith(str(out)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    with RunWriter.open(out, manifest()) as writer:
        sys.addaudithook(watch)
        for part in halves(records(12), 4):
            for each in part:
                writer.write(each)
            writer.flush()

for operation in range(1, 60):
    process = os.fork()
    if not process:
        try:
            write(Path(sys.argv[1], str(operation)), operation)
        finally:
            os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != -signal.SIGKILL:
        break
print(operation - 1)
"""


@pytest.mark.stress
@pytest.mark.slow
def test_a_kill_between_part_and_ledger_loses_nothing(tmp_path: Path) -> None:
    """Before each operation on a file, of which the last part, its ledger and the next part have a dozen."""
    rows = records(12)
    seen: Counter[tuple[int, int]] = Counter()
    command = python("-c", KILLED, tmp_path, Path(__file__).parent)
    kills = int(subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE).stdout)
    for operation in range(1, kills + 1):
        out = tmp_path / str(operation)
        seen[len(part_files(out)), len(ledgers(out))] += 1
        written = {each.path for each in RunReader(out)}
        kept = [each for each in rows if each.path in written]
        assert_says(out, kept)
        with RunWriter.open(out, manifest()) as writer:
            for each in [each for each in rows if each.path not in writer.finished]:
                writer.write(each)
        assert_says(out, rows)
    assert {(3, 0), (3, 1)} <= seen.keys()


names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=40)


@given(names, names)
def test_membership_is_that_of_a_set(known: list[str], asked: list[str]) -> None:
    finished = Finished.of(set(known))
    assert len(finished) == len(set(known))
    assert finished.among([*known, *asked]).tolist() == [path in set(known) for path in [*known, *asked]]


def test_many_paths_have_as_many_digests() -> None:
    paths = [f"{number // 1000}/{number:07d}.jpg" for number in range(100_000)]
    finished = Finished.of(paths[::2])
    assert len(np.unique(digests_of(paths), axis=0)) == len(paths)
    assert [path in finished for path in paths[:1000]] == [True, False] * 500
    assert finished.among(paths).tolist() == [True, False] * 50_000
    assert finished.holds(digests_of(paths)).tolist() == [True, False] * 50_000


def test_paths_that_share_half_a_digest_are_told_apart() -> None:
    paths = ["a", "b", "c", "d"]
    low = digests_of(paths)[:, 1]
    asked = digests_of(["d"])
    finished = Finished(np.repeat(asked[:, 0], 3), low[:3].copy())  # all have the higher half that the asked one has
    assert not finished.holds(asked).any()
    finished = Finished(np.repeat(asked[:, 0], 4), low.copy())
    assert finished.holds(asked).all()


FILES = st.tuples(st.integers(0, 2**40), st.floats(0, 4e9))


@given(st.text(st.characters(exclude_categories=["Cs"])), FILES, FILES)
def test_a_photo_is_held_as_it_was_when_it_was_labelled(
    path: str, labelled: tuple[int, float], now: tuple[int, float]
) -> None:
    def digest(size: int, mtime: float) -> Digests:
        return digests_of([path], np.array([size]), np.array([mtime]))

    mine = digest(*labelled)
    finished = Finished(mine[:, 0].copy(), mine[:, 1].copy())
    assert path in finished
    assert finished.holds(digest(*now)).all() == (now == labelled)
    assert finished.holds(digest(*labelled)).all()
