"""The lock file of a run in a folder: never anything but itself, and untouched by a command that is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_runs import manifest

from annotator import locks, run
from annotator.errors import RunError
from annotator.run import ImageRecord, RunWriter
from annotator.run_check import check_run


def write_one(directory: Path, *, overwrite: bool = False) -> None:
    with RunWriter.open(directory, manifest(), overwrite=overwrite) as writer:
        if not len(writer.finished):
            writer.write(ImageRecord("a.jpg", "failed", error="empty file"))


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of writing of all files."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def link(lock: Path, victim: Path) -> None:
    lock.symlink_to(victim)


def pipe(lock: Path, victim: Path) -> None:
    os.mkfifo(lock)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("disguise", [link, os.link, pipe], ids=["link", "hard link", "pipe"])
def test_what_is_no_lock_is_refused_and_left_alone(
    disguise: Callable[[Path, Path], None], overwrite: bool, tmp_path: Path
) -> None:
    directory, victim = tmp_path / "run", tmp_path / "victim"
    write_one(directory)
    victim.write_text("precious")
    (directory / "run.lock").unlink()
    if disguise is os.link:
        os.link(victim, directory / "run.lock")
    else:
        disguise(directory / "run.lock", victim)
    before = state(directory)
    for attempt in (lambda: write_one(directory, overwrite=overwrite), lambda: check_run(directory, manifest())):
        with pytest.raises(RunError, match=r"expected the lock of a run, but found .*; delete it"):
            attempt()
    assert victim.read_text() == "precious"
    assert state(directory) == before


def test_a_link_to_nothing_makes_nothing(tmp_path: Path) -> None:
    write_one(tmp_path / "run")
    (tmp_path / "run/run.lock").unlink()
    (tmp_path / "run/run.lock").symlink_to(tmp_path / "new")
    with pytest.raises(RunError, match="found a link"):
        write_one(tmp_path / "run")
    assert not (tmp_path / "new").exists()


def test_a_copy_of_a_run_by_hard_links_goes_on(tmp_path: Path) -> None:
    write_one(tmp_path / "run")
    (tmp_path / "copy").mkdir()
    os.link(tmp_path / "run/run.lock", tmp_path / "copy/run.lock")
    write_one(tmp_path / "copy")


def test_another_configuration_is_refused_before_anything_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another process began its run just after ours was checked."""
    directory = tmp_path / "run"
    write_one(directory)
    (directory / "run.lock").write_text("pid 1")
    before = state(directory)
    monkeypatch.setattr(run, "check_run", lambda *_, **__: None)  # it was not there yet
    with pytest.raises(RunError, match="made with other options"):
        RunWriter.open(directory, manifest(delta=1))
    assert state(directory) == before
    write_one(directory)
    assert (directory / "run.lock").read_text() == f"pid {os.getpid()}"


def test_who_holds_a_run_is_named(tmp_path: Path) -> None:
    with RunWriter.open(tmp_path, manifest()), pytest.raises(RunError, match=rf"another process \(pid {os.getpid()}\)"):
        locks.acquire(tmp_path)


def test_alone_in_a_folder(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with locks.alone_in(tmp_path, wait=True):
            order.append("second")

    waiting = threading.Thread(target=second)
    with locks.alone_in(tmp_path, wait=False):
        with pytest.raises(BlockingIOError), locks.alone_in(tmp_path, wait=False):
            pass
        waiting.start()
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []
