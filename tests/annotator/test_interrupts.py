"""Ctrl-C and SIGTERM, sent to the command as a terminal, a supervisor or another program sends them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_processes import PATIENCE, default_signals, started, wait_until
from helpers_runs import VOCAB, environment, python, rows, write_photos

from annotator.interrupts import ignored_stay_ignored, stop_on_signal
from annotator.run import Manifest

NAMES = [f"{number:02d}.png" for number in range(12)]
pytestmark = [pytest.mark.slow, pytest.mark.stress]


@contextmanager
def labelling(
    folder: Path, seconds: float, *options: str, ignored: Sequence[signal.Signals] = ()
) -> Iterator[subprocess.Popen]:
    """`annotate run`, a photo per batch, which takes this long; it has begun with the first one."""
    write_photos(folder / "photos", NAMES)
    (folder / "diary").mkdir()
    command = python("-c", "from annotator.cli import main; main()", "run", "--quiet", "--images", folder / "photos")
    command += ["--labeler", "deadly", "--vocab", VOCAB, "--pack", "embedded", "--out", str(folder / "run")]
    command += ["--set", f"diary={folder / 'diary'}", "--set", f"seconds={seconds}", "--batch-size", "1", *options]
    pipe = subprocess.PIPE
    with started(command, ignored, env=environment(), start_new_session=True, stderr=pipe, text=True) as process:
        wait_until(lambda: list((folder / "diary").iterdir()), process)
        yield process


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def catches(process: int, number: signal.Signals) -> bool:
    """Whether it has a handler for the signal."""
    (mask,) = (line.split()[1] for line in status(process).splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def status(process: int) -> str:
    return Path(f"/proc/{process}/status").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_the_command_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    with labelling(tmp_path, 0.5, "--workers", "2") as process:
        os.killpg(process.pid, number)  # as a terminal does
        complaints = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130
    assert complaints == "stopped; everything labelled so far is safe, the same command goes on\n"
    found = rows(tmp_path / "run")
    assert 0 < len(found) < len(NAMES)
    assert [(record.path, record.status) for record in found] == [(name, "ok") for name in NAMES[: len(found)]]
    assert Manifest.load(tmp_path / "run").state == "interrupted"


def test_a_second_ctrl_c_drops_the_batch_under_way(tmp_path: Path) -> None:
    with labelling(tmp_path, 10 * PATIENCE, "--workers", "1") as process:
        process.send_signal(signal.SIGINT)
        wait_until(lambda: not catches(process.pid, signal.SIGTERM), process)  # the first one was heard
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    assert rows(tmp_path / "run") == []
    assert Manifest.load(tmp_path / "run").state == "interrupted"


def test_a_background_job_is_not_stopped_by_ctrl_c(tmp_path: Path) -> None:
    """A shell starts `annotate run ... &` with SIGINT ignored where it has no job control, as in scripts and CI."""
    with labelling(tmp_path, 0.2, "--workers", "1", ignored=[signal.SIGINT]) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert [record.path for record in rows(tmp_path / "run")] == NAMES
    assert Manifest.load(tmp_path / "run").state == "complete"


def test_a_background_job_is_stopped_by_sigterm(tmp_path: Path) -> None:
    with labelling(tmp_path, 0.5, "--workers", "1", ignored=[signal.SIGINT, signal.SIGHUP]) as process:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(number)
        assert process.wait(PATIENCE) == 130
    assert 0 < len(rows(tmp_path / "run")) < len(NAMES)


def test_a_signal_to_every_process_fails_no_photo(tmp_path: Path) -> None:
    """Supervisors send SIGTERM to all processes of a service, so to those that decode, too."""
    with labelling(tmp_path, 0.2, "--workers", "1") as process:
        (decoder,) = children(process.pid)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(decoder, number)
        assert process.wait(PATIENCE) == 0
    assert [record.status for record in rows(tmp_path / "run")] == ["ok"] * len(NAMES)


@pytest.mark.parametrize("ignored", [(), (signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_only_what_was_not_ignored_stops(number: signal.Signals, ignored: tuple[signal.Signals, ...]) -> None:
    with default_signals(ignored):
        before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        with stop_on_signal() as stopped:
            assert not stopped()
            signal.raise_signal(number)
            assert stopped() == (number not in ignored)
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_changes_no_handlers() -> None:
    """A run in a thread of somebody's program; only the main thread may set handlers."""
    asked: list[bool] = []

    def run() -> None:
        with stop_on_signal() as stopped, ignored_stay_ignored():
            asked.append(stopped())

    with default_signals(ignored=[signal.SIGTERM]):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert asked == [False]


def test_what_a_library_sets_is_taken_back_where_it_was_ignored() -> None:
    with default_signals(ignored=[signal.SIGTERM]):
        with ignored_stay_ignored():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, print)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is print
