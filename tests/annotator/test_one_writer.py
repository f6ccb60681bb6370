"""Runs in a store: however late a writer wakes up that was thought dead, no photo is lost and none is there twice.

Writers here are as they are in life. One that was taken over before its next beat does not know it; its flush goes
through `check` and reaches the store.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers_runs import manifest
from helpers_writers import PHOTOS, TAKEN_OVER, paths, photo
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator import conditional, ledger, locks, open_run, run, storage
from annotator.errors import RunError
from annotator.parts import part_path
from annotator.run import ImageRecord, RunReader, RunWriter, part_files
from annotator.run_check import check_run
from annotator.storage import place
from annotator.summary import summarise

pytest.importorskip("upath", reason="pip install 'annotate[remote]'")

FOLDERS = itertools.count()


def new_place() -> Path:
    return place(f"memory://one-writer/{next(FOLDERS)}/run")


@pytest.fixture
def out() -> Path:
    return new_place()


def age(file: Path, seconds: float = locks.FRESH_SECONDS + 1) -> None:
    """As if a file in memory had been written so long ago."""
    files, name = storage.store(file)
    files.store[name].created -= timedelta(seconds=seconds)


class Writer:
    """One that labels all photos that have no row when it begins; every fifth fails until it is tried again.

    mark: tells its configuration, and its rows.
    """

    def __init__(self, directory: Path, part_size: int, mark: int = 1, **options: bool) -> None:
        if storage.exists(directory / locks.NAME):
            age(directory / locks.NAME)
        self.writer = RunWriter.open(directory, manifest(mark=mark), **options)
        again = options.get("retry_failed", False)
        photos = [photo(name, mark, fails=number % 5 == 4 and not again) for number, name in enumerate(PHOTOS)]
        self._left = (each for each in photos if each.path not in self.writer.finished)
        self._part_size = part_size
        self.told = ""

    def part(self) -> None:
        """Labels a part's photos and flushes."""
        self._until(self.writer.flush, self._part_size)

    def end(self) -> None:
        self._until(self.writer.close, len(PHOTOS))

    def _until(self, last: Callable[[], None], photos: int) -> None:
        try:
            for record in itertools.islice(self._left, 0 if self.told else photos):
                self.writer.write(record)
            last()
        except (RunError, FileNotFoundError) as error:  # the latter where the run was started anew and no lock is seen
            self.told = str(error)


@pytest.mark.parametrize("early", [0, 1, 3], ids=lambda parts: f"{parts} parts of the new owner first")
@pytest.mark.parametrize("sizes", [(3, 3), (3, 10), (10, 3), (1, 24)], ids=str)
def test_a_flush_after_the_take_over(
    out: Path, sizes: tuple[int, int], early: int, caplog: pytest.LogCaptureFixture
) -> None:
    first = Writer(out, sizes[0])
    first.part()
    second = Writer(out, sizes[1])
    for _ in range(early):
        second.part()
    first.part()  # late
    if early:
        assert TAKEN_OVER in first.told
    else:  # nobody had that number: the photos are in the run, and the new owner leaves them out
        assert first.told == ""
        with caplog.at_level(logging.WARNING):
            second.part()
        assert "part-000001.parquet: taken in from another process" in caplog.text
    first.end()
    assert TAKEN_OVER in first.told
    second.end()
    assert second.told == ""
    assert paths(out) == PHOTOS
    assert summarise(out).photos == len(PHOTOS)


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["part", "part", "part", "end", "open", "retry", "anew"]))
)


@pytest.mark.parametrize("believing", [False, True], ids=["", "no lock is ever seen to be lost"])
def test_writers_in_any_order(believing: bool) -> None:
    """Three who each take the run from the one before, and write on whenever they like."""

    @settings(max_examples=40)
    @given(STEPS, st.lists(st.integers(1, 9), min_size=3, max_size=3), st.sampled_from([2, 512]))
    def play(steps: list[tuple[int, str]], sizes: list[int], ledger_parts: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "LEDGER_PARTS", ledger_parts)
            if believing:
                patch.setattr(locks._StoreLock, "check", lambda self, closely=False: None)
            act(steps, sizes)

    play()


def act(steps: list[tuple[int, str]], sizes: list[int]) -> None:
    directory, mark = new_place(), 1
    writers: dict[int, Writer] = {}
    for who, what in [(0, "open"), *steps]:
        if what in ("open", "retry", "anew"):
            mark += what == "anew"
            options = {"overwrite": what == "anew", "retry_failed": what == "retry"}
            writers[who] = Writer(directory, sizes[who], mark, **options)
        elif who in writers:
            writers[who].part() if what == "part" else writers.pop(who).end()
        found = list(open_run(directory))
        assert len({each.path for each in found}) == len(found) == len(RunReader(directory)), "a photo is there twice"
        assert {each.height for each in found} <= {mark}, "a row of another configuration"
    for writer in writers.values():
        writer.end()
    Writer(directory, 5, mark).end()
    assert paths(directory) == PHOTOS
    assert RunReader(directory).manifest.config == {"mark": mark}
    assert summarise(directory).photos == len(PHOTOS)


def test_a_part_that_gives_up_its_rows_keeps_its_number(out: Path) -> None:
    """Else a late writer would get it, with photos that its follower has labelled under another number."""
    failed = [ImageRecord(name, "failed", error="truncated") for name in PHOTOS[:3]]
    with RunWriter.open(out, manifest()) as writer:
        for record in (photo(PHOTOS[3]), *failed):
            writer.write(record)
            writer.flush()
    damaged = part_files(out)[0]
    content = bytearray(storage.read_bytes(damaged))
    content[40:60] = bytes(20)
    storage.write_bytes(damaged, bytes(content))
    with RunWriter.open(out, manifest(), retry_failed=True) as writer:
        assert not any(path in writer.finished for path in PHOTOS[:5])
        assert len(part_files(out)) == 4
        assert paths(out) == []
        for name in PHOTOS:
            writer.write(photo(name))
    assert [part.name for part in part_files(out)] == [f"part-00000{number}.parquet" for number in range(5)]
    assert storage.read_bytes(damaged.with_name(f"{damaged.name}.damaged")) == bytes(content)
    assert paths(out) == PHOTOS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "LEDGER_PARTS", 5)
        RunWriter.open(out, manifest()).close()
    assert [len(each.parts) for each in ledger.survey(out).ledgers] == [5]
    assert paths(out) == PHOTOS
    assert summarise(out).photos == len(RunReader(out)) == len(PHOTOS)


def test_a_run_of_before_there_were_generations_goes_on(out: Path, tmp_path: Path) -> None:
    """Its parts keep their names until it is started anew, and a copy on this machine is the same run."""
    with RunWriter.open(tmp_path / "old", manifest(mark=1)) as writer:
        for name in PHOTOS[:6]:
            writer.write(photo(name))
    for file in ("run.json", "parts/part-000000.parquet"):
        storage.write_bytes(out / file, (tmp_path / "old" / file).read_bytes())
    Writer(out, 24).end()
    assert [part.name for part in part_files(out)] == ["part-000000.parquet", "part-000001.parquet"]
    assert paths(out) == PHOTOS

    for number in (1, 2):
        Writer(out, 10, overwrite=True).part()
        assert [part.name for part in part_files(out)] == [f"part-000000-g{number}.parquet"]
    copied = ["run.json", "parts/part-000000-g2.parquet"]
    for file in copied:
        (tmp_path / "copy" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / file).write_bytes(storage.read_bytes(out / file))
    assert paths(tmp_path / "copy") == PHOTOS[:10]
    with RunWriter.open(tmp_path / "copy", manifest(mark=1)) as writer:
        for record in (photo(path) for path in PHOTOS if path not in writer.finished):
            writer.write(record)
    assert paths(tmp_path / "copy") == PHOTOS
    assert part_files(tmp_path / "copy")[1].name == "part-000001-g2.parquet"


def test_parts_of_rays_actors_are_taken_in_once(out: Path) -> None:
    first, second = Writer(out, 3), Writer(out, 3)
    second.part()
    todo = out / "todo" / "session"
    run.write_part(todo, 7, map(photo, PHOTOS[:5]))
    run.write_part(todo, 2, map(photo, PHOTOS[5:9]))
    with pytest.raises(RunError, match=TAKEN_OVER):
        first.writer.adopt(part_path(todo, 7))
    second.writer._others.update(PHOTOS[:4])  # as if it had met them
    for number in (7, 2):
        second.writer.adopt(part_path(todo, number))
    assert storage.list_files(todo / "parts") == []
    assert [len(part) for part in map(rows_of, part_files(out))] == [3, 1, 4]


def rows_of(part: Path) -> list[str]:
    return list(run.read_columns(part, ["path"])["path"].to_pylist())


def test_run_json_is_not_overwritten_late(out: Path) -> None:
    first = RunWriter.open(out, manifest(mark=1))
    age(out / locks.NAME)
    with RunWriter.open(out, manifest(mark=2), overwrite=True):
        written = storage.read_bytes(out / "run.json")
        with pytest.raises(RunError, match=TAKEN_OVER):
            first.close()
        assert storage.read_bytes(out / "run.json") == written
    assert RunReader(out).manifest.config == {"mark": 2}


def test_who_only_thinks_to_start_anew_changes_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It slept just before; meanwhile another one started the run anew and wrote it."""
    Writer(out, 24).end()

    def sleepy(directory: Path) -> int:
        monkeypatch.undo()
        Writer(out, 24, 2, overwrite=True).end()
        return 1

    monkeypatch.setattr(run, "next_generation", sleepy)
    with pytest.raises(RunError, match=TAKEN_OVER):
        RunWriter.open(out, manifest(mark=3), overwrite=True)
    assert [each.height for each in open_run(out)] == [2] * len(PHOTOS)
    assert RunReader(out).manifest.config == {"mark": 2}


def test_run_json_of_another_run_does_not_hide_the_parts(out: Path) -> None:
    for _ in range(2):
        Writer(out, 24, overwrite=storage.exists(out / "run.json")).end()
    own = storage.read_bytes(out / "run.json")
    Writer(new := new_place(), 24).end()
    storage.write_bytes(out / "run.json", storage.read_bytes(new / "run.json"))
    with pytest.raises(RunError, match=r'its generation is 0 and that of the parts is 1; set "generation" in it to 1'):
        paths(out)
    said = json.loads(storage.read_bytes(out / "run.json"))
    del said["digest"]
    storage.write_bytes(out / "run.json", json.dumps({**said, "generation": 1}).encode())
    assert paths(out) == PHOTOS
    storage.write_bytes(out / "run.json", own[:-9])
    Writer(out, 24, 5, overwrite=True).end()
    assert [part.name for part in part_files(out)] == ["part-000000-g2.parquet"]


# the lock


def fresh_lock(out: Path, **said: object) -> bytes:
    content = json.dumps({"holder": "pid 1 on x", "token": "t", **said}).encode()
    storage.write_bytes(out / locks.NAME, content)
    return content


@pytest.mark.parametrize("told", [{}, {"time": None}, {"time": "soon"}, {"time": 0.0}, {"time": 9e12}])
def test_only_the_stores_time_counts(out: Path, told: dict[str, object]) -> None:
    """Whatever time a lock may tell, as those of older versions do."""
    content = fresh_lock(out, **told)
    held = (
        r"another process \(pid 1 on x\) is writing this run; wait for it or choose another --out "
        r"\(where it was killed, wait 1[12]\d s, or delete memory://.*/run\.lock\)$"
    )
    for refused in (lambda: RunWriter.open(out, manifest()), lambda: check_run(out, manifest())):
        with pytest.raises(RunError, match=held):
            refused()
    assert storage.read_bytes(out / locks.NAME) == content
    assert [each.name for each in storage.list_files(out)] == [locks.NAME]
    age(out / locks.NAME)
    check_run(out, manifest())
    with (
        RunWriter.open(out, manifest()),
        pytest.raises(RunError, match=rf"pid {os.getpid()} on .* is writing this run"),
    ):
        RunWriter.open(out, manifest())
    assert [each.name for each in storage.list_files(out)] == ["run.json"]


ODD = {
    "empty": b"",
    "null": b"null",
    "a text": b'"pid 1"',
    "a number": b"7",
    "a list": b"[]",
    "nothing in it": b"{}",
    "no token": b'{"holder": "pid 1"}',
    "no holder": b'{"token": "t"}',
    "a token that is none": b'{"holder": "pid 1", "token": 5}',
    "not JSON": b"pid 1",
    "not text": b"\xff\xfe\x00",
    "deep": b"[" * 900,
    "huge": b" " * 5_000_000 + b'{"holder": "pid 1", "token": "t"}',
}


@pytest.mark.parametrize("old", [False, True], ids=["fresh", "old"])
@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_an_odd_lock_is_one_line_with_the_way_out(out: Path, content: bytes, old: bool) -> None:
    storage.write_bytes(out / locks.NAME, content)
    if old:
        age(out / locks.NAME)
    for refused in (lambda: locks.acquire(out), lambda: check_run(out, manifest())):
        with pytest.raises(
            RunError, match=rf"^{out}/run\.lock: expected the lock of a run, but .*; delete it once no "
        ) as e:
            refused()
        assert "\n" not in str(e.value)
    assert storage.read_bytes(out / locks.NAME) == content
    storage.delete(out / locks.NAME)
    RunWriter.open(out, manifest()).close()


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_writer_whose_beat_hangs_looks_itself(out: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = locks.acquire(out)
    fresh_lock(out) if how == "replaced" else storage.delete(out / locks.NAME)
    lock.check()  # it has just beaten
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.0)
    with pytest.raises(RunError, match=TAKEN_OVER):
        lock.check()
    lock.release()
    assert storage.exists(out / locks.NAME) == (how == "replaced")


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A beat that reaches the store late: the first event says that it waits, the second lets it go on."""
    waits, go_on = threading.Event(), threading.Event()
    real = conditional.replace

    def late(*given: Any) -> str | None:
        waits.set()
        go_on.wait()
        return real(*given)

    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(conditional, "replace", late)
    yield waits, go_on
    go_on.set()


def test_a_lock_that_was_released_does_not_come_back(
    out: Path, held_up: tuple[threading.Event, threading.Event]
) -> None:
    waits, go_on = held_up
    lock = locks.acquire(out)
    assert waits.wait(60)
    releasing = threading.Thread(target=lock.release)
    releasing.start()
    releasing.join(0.05)
    assert releasing.is_alive(), "it did not wait for the beat under way"
    go_on.set()
    releasing.join(60)
    assert not storage.exists(out / locks.NAME)
    assert not lock._heart.is_alive()


def test_a_late_beat_leaves_the_lock_of_another_process_alone(
    out: Path, held_up: tuple[threading.Event, threading.Event]
) -> None:
    waits, go_on = held_up
    lock = locks.acquire(out)
    assert waits.wait(60)
    content = fresh_lock(out)
    go_on.set()
    lock.release()
    assert storage.read_bytes(out / locks.NAME) == content
    with pytest.raises(RunError, match=TAKEN_OVER):
        lock.check(closely=True)


def test_an_answer_that_comes_late_is_no_sign_of_life(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes to a process that was stopped, and another one has taken over meanwhile."""
    lock = locks.acquire(out)
    now, real = [time.monotonic()], conditional.replace

    def late(*given: Any) -> str | None:
        stamp = real(*given)
        now[0] += 2 * locks.BEAT_SECONDS + 1
        return stamp

    monkeypatch.setattr(conditional, "replace", late)
    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    lock._beat()
    fresh_lock(out)
    with pytest.raises(RunError, match=TAKEN_OVER):
        lock.check()
    lock.release()


def test_beats_renew_the_lock(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose answer was lost, too: the lock is still its holder's."""
    lock = locks.acquire(out)
    for _ in range(3):
        age(out / locks.NAME)
        lock._beat()
        with pytest.raises(RunError, match="is writing this run"):
            locks.acquire(out)
        said = json.loads(storage.read_bytes(out / locks.NAME))
        storage.write_bytes(out / locks.NAME, json.dumps({**said, "beats": -1}).encode())
    lock.check(closely=True)
    lock.release()
    assert storage.list_files(out) == []
