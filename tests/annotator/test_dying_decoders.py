"""Processes that decode and are killed, die or stop: an innocent photo is never recorded as failed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_processes import PATIENCE, wait_until
from helpers_runs import PLUGINS, VOCAB, rows, write_photos
from PIL import Image

from annotator import open_run, pipeline
from annotator.config import RunConfig
from annotator.engines import decode_worker, decoding
from annotator.engines.decoding import Decoded, DecodePool
from annotator.errors import BrokenError, ImageError, UnclearError
from annotator.images import MAX_PIXELS, ImageRef, Photo
from annotator.run import ImageRecord
from exporters.base import export

pytestmark = pytest.mark.stress
NAMES = [f"{number:02d}.png" for number in range(4)]

# in place of the real package: decoding a HEIC file runs it
HEIF = """
import os, signal, time
from pathlib import Path

def register_heif_opener():
    diary = Path(os.environ["DIARY"])
    (diary / str(os.getpid())).touch()
    if "stall" in os.environ["HEIF"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    if os.environ["HEIF"] == "always" or len(list(diary.iterdir())) == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
    raise ValueError("survived")
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", NAMES)
    return tmp_path / "photos"


@pytest.fixture
def refs(photos: Path) -> list[ImageRef]:
    return [ImageRef(photos, name) for name in NAMES]


@pytest.fixture
def deadly(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ImageRef]:
    """A photo that kills its decoder `always`, `once`, or that stalls it."""

    def write(how: str) -> ImageRef:
        for folder in (tmp_path / "package", tmp_path / "diary"):
            folder.mkdir()
        (tmp_path / "package" / "pillow_heif.py").write_text(HEIF)
        monkeypatch.syspath_prepend(str(tmp_path / "package"))
        monkeypatch.setenv("DIARY", str(tmp_path / "diary"))
        monkeypatch.setenv("HEIF", how)
        (photos / "deadly.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
        return ImageRef(photos, "deadly.heic")

    return write


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, 2, working_side=None, max_pixels=MAX_PIXELS) as decoders:
        yield decoders


def decode(pool: DecodePool, *refs: ImageRef) -> list[Photo | ImageError]:
    return [answer for _, answer in pool.decode(refs)]


def test_a_photo_that_kills_its_decoder_twice_is_to_blame(
    refs: list[ImageRef], deadly: Callable[[str], ImageRef], pool: DecodePool, processes: list[Any], tmp_path: Path
) -> None:
    before, answer, after = decode(pool, refs[0], deadly("always"), refs[1])
    assert isinstance(before, Photo)
    assert isinstance(after, Photo)
    assert isinstance(answer, UnclearError)
    assert str(answer) == f"decoding it killed its process twice (signal {signal.SIGSEGV.value})"
    assert len(list((tmp_path / "diary").iterdir())) == 2  # tried again in another process, and no more
    assert len(processes) == 3


def test_a_photo_that_outlives_its_second_try_is_not(
    refs: list[ImageRef], deadly: Callable[[str], ImageRef], pool: DecodePool, processes: list[Any]
) -> None:
    answer, after = decode(pool, deadly("once"), refs[0])
    assert str(answer) == "damaged: survived"  # what the decoder says of it
    assert isinstance(after, Photo)
    assert len(processes) == 2


def test_suspects_are_tried_again_one_at_a_time(
    deadly: Callable[[str], ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: Counter[threading.Thread] = Counter()
    second: set[threading.Thread] = set()
    at_once: list[int] = []
    decode_once = decoding._Worker._decode

    def watched(worker: Any, request: object) -> Photo:
        me = threading.current_thread()
        tries[me] += 1
        try:
            if tries[me] % 2 == 0:
                second.add(me)
                at_once.append(len(second))
            return decode_once(worker, request)
        finally:
            second.discard(me)

    monkeypatch.setattr(decoding._Worker, "_decode", watched)
    with DecodePool(3, 8, working_side=None, max_pixels=MAX_PIXELS) as pool:
        answers = decode(pool, *[deadly("always")] * 3)
    assert all("twice" in str(answer) for answer in answers)
    assert at_once == [1] * 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_idle_worker_that_dies_blames_nobody(
    refs: list[ImageRef], pool: DecodePool, processes: list[Any], number: signal.Signals
) -> None:
    for count, ref in enumerate(refs, start=1):
        assert [type(answer) for answer in decode(pool, ref)] == [Photo]
        assert len(processes) == count
        processes[-1].send_signal(number)
        processes[-1].wait(timeout=PATIENCE)


def test_a_worker_that_dies_while_it_starts_blames_nobody(
    refs: list[ImageRef], pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the last start that is tried."""
    killed: list[int] = []
    start = decoding._Worker._start

    def start_and_die(worker: Any) -> None:
        start(worker)
        if len(killed) < decoding.STARTS - 1:
            worker._process.kill()
            killed.append(worker._process.pid)

    monkeypatch.setattr(decoding._Worker, "_start", start_and_die)
    assert [type(answer) for answer in decode(pool, *refs)] == [Photo] * 4
    assert len(killed) == 4


def test_a_worker_that_dies_in_the_middle_of_its_answer_is_asked_again(
    photos: Path, pool: DecodePool, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(photos, ["large.png"], (1500, 2000))  # far more than a pipe holds
    receive = decode_worker.receive

    def receive_half(answers: Any) -> Photo:
        if len(processes) == 1:
            assert answers.peek()
            processes[0].kill()
            processes[0].wait(timeout=PATIENCE)
        return receive(answers)

    monkeypatch.setattr(decode_worker, "receive", receive_half)
    (photo,) = decode(pool, ImageRef(photos, "large.png"))
    assert isinstance(photo, Photo)
    np.testing.assert_array_equal(photo.pixels, np.asarray(Image.open(photos / "large.png")))
    assert len(processes) == 2


def test_a_photo_that_stalls_its_decoder_is_cut_off(
    refs: list[ImageRef],
    deadly: Callable[[str], ImageRef],
    pool: DecodePool,
    processes: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "SECONDS_PER_PHOTO", 0.2)
    (answer,) = decode(pool, deadly("stall"))
    assert str(answer) == "decoding took longer than 0 s"
    assert processes[0].returncode == -signal.SIGKILL
    monkeypatch.setattr(decoding, "SECONDS_PER_PHOTO", PATIENCE)
    assert [type(answer) for answer in decode(pool, refs[0])] == [Photo]


def test_a_decoder_that_stalls_in_the_middle_of_its_answer_is_cut_off(
    photos: Path, pool: DecodePool, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(photos, ["large.png"], (1500, 2000))  # far more than a pipe holds
    receive = decode_worker.receive

    def receive_half(answers: Any) -> Photo:
        assert answers.peek()
        processes[0].send_signal(signal.SIGSTOP)
        return receive(answers)

    monkeypatch.setattr(decode_worker, "receive", receive_half)
    monkeypatch.setattr(decoding, "SECONDS_PER_PHOTO", 1.0)
    (answer,) = decode(pool, ImageRef(photos, "large.png"))
    assert str(answer) == "decoding took longer than 1 s"


def test_a_worker_that_was_stopped_before_it_got_a_photo_blames_nobody(
    refs: list[ImageRef], pool: DecodePool, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [type(answer) for answer in decode(pool, refs[0])] == [Photo]
    processes[0].send_signal(signal.SIGSTOP)
    restart = decoding._Worker._restart

    def restart_with_time(worker: Any) -> str:
        monkeypatch.setattr(decoding, "START_SECONDS", PATIENCE)
        return restart(worker)

    monkeypatch.setattr(decoding, "START_SECONDS", 0.1)
    monkeypatch.setattr(decoding._Worker, "_restart", restart_with_time)
    assert [type(answer) for answer in decode(pool, refs[1])] == [Photo]
    assert len(processes) == 2


@pytest.mark.parametrize("how", ["they die", "they cannot be started"])
def test_workers_that_never_start_stop_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    if how == "they die":
        monkeypatch.setattr(decoding, "_START", "import sys; sys.exit(7)")
        message = r"do not start: 5 in a row ended \(exit code 7\) before they took a photo"
    else:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
        message = "cannot start a process that decodes photos: No such file"
    with pytest.raises(BrokenError, match=message) as caught:
        pipeline.run(job(photos, tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert len(open_run(tmp_path / "run")) == 0
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(PLUGINS))
    assert pipeline.run(job(photos, tmp_path / "run")).summary.ok == 4


def job(photos: Path, out: Path) -> pipeline.Job:
    given = {"labeler": "bands", "vocab": VOCAB, "pack": "embedded", "workers": 2, "batch_size": 1}
    return pipeline.prepare(RunConfig.load(None, {**given, "images": str(photos), "out": str(out)}))


def test_kills_at_many_moments_cost_no_photo_and_change_no_byte(
    tmp_path: Path, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both workers are killed at every eighth photo, whatever they are at: by then the last suspects are known."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    write_photos(tmp_path / "photos", [f"{number:03d}.png" for number in range(100)])
    killed: set[int] = set()
    seen = 0

    def kill_both(record: ImageRecord) -> None:
        nonlocal seen
        seen += 1
        for worker in processes[-2:] if seen % 8 == 1 else ():
            os.kill(worker.pid, signal.SIGKILL)
            killed.add(worker.pid)

    outcome = pipeline.run(job(tmp_path / "photos", tmp_path / "run"), kill_both)
    assert len(killed) >= 11
    assert (outcome.summary.ok, outcome.summary.failed) == (100, 0)
    pipeline.run(job(tmp_path / "photos", tmp_path / "undisturbed"))
    assert rows(tmp_path / "run") == rows(tmp_path / "undisturbed")
    for name in ("run", "undisturbed"):
        export("coco", open_run(tmp_path / name), tmp_path / f"{name}.json")
    assert (tmp_path / "run.json").read_bytes() == (tmp_path / "undisturbed.json").read_bytes()


def test_a_worker_killed_with_a_photo_in_hand_costs_nothing(
    photos: Path, pool: DecodePool, processes: list[Any]
) -> None:
    """A photo that takes long to decode, and a kill as soon as the worker reads it."""
    Image.new("L", (7000, 7000)).save(photos / "slow.png")

    def has_it_open() -> bool:
        try:
            names = [str(file.readlink()) for file in Path(f"/proc/{processes[0].pid}/fd").iterdir()]
        except (OSError, IndexError):
            return False
        return str(photos / "slow.png") in names

    def kill() -> None:
        wait_until(has_it_open)
        processes[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    answers: list[Decoded] = list(pool.decode([ImageRef(photos, "slow.png")]))
    killer.join()
    assert [type(answer) for _, answer in answers] == [Photo]
    assert len(processes) == 2
