"""A run may be killed at any moment and as often as one likes: started again it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_processes import started
from helpers_runs import VOCAB, environment, python, rows, write_photos

from annotator import open_run
from annotator.run import Manifest
from exporters import base as exporters

KILLS = 20
pytestmark = [pytest.mark.slow, pytest.mark.stress]


class Annotate:
    """`annotate run` over `photos`, in a process of its own (see helpers_killable)."""

    def __init__(self, photos: Path, server: subprocess.Popen[str]) -> None:
        self.photos = photos
        self._server = server

    def start(self, out: Path, *options: str, kill_at: int = 0) -> int:
        """The id of the process."""
        arguments = ["run", "--quiet", "--images", self.photos, "--labeler", "bands", "--vocab", VOCAB]
        arguments += ["--pack", "embedded", "--out", out, *options]
        assert self._server.stdin is not None
        print(json.dumps([[*map(str, arguments)], kill_at]), file=self._server.stdin, flush=True)
        return self._answer()

    def finish(self) -> int:
        """The exit status of the process, when it has ended."""
        return self._answer()

    def run(self, out: Path, *options: str, kill_at: int = 0) -> int:
        self.start(out, *options, kill_at=kill_at)
        return self.finish()

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    command = python(Path(__file__).with_name("helpers_killable.py"))
    pipe = subprocess.PIPE
    with started(command, stdin=pipe, stdout=pipe, env=environment(), text=True) as process:
        yield process


def annotate(server: subprocess.Popen[str], photos: Path, count: int) -> Annotate:
    """Over so many photos, of which every tenth is bad."""
    names = [f"{number % 7}/{number:03d}.jpg" for number in range(count)]
    write_photos(photos, names)
    for name in names[::10]:
        (photos / name).write_bytes(b"")
    return Annotate(photos, server)


def labelled(out: Path) -> list[str]:
    """Paths that have a row; each has one only."""
    if not (out / "run.json").exists():
        return []
    found = [record.path for record in open_run(out).records(segments=False)]
    assert len(found) == len(set(found))
    return found


def exported(run: Path, to: Path) -> dict[str, bytes]:
    """Every file of the COCO and mask-png exports."""
    for name in ("coco", "mask-png"):
        exporters.export(name, open_run(run), to / exporters.default_out(Path(), name))
    return {str(file.relative_to(to)): file.read_bytes() for file in to.rglob("*") if file.is_file()}


def test_twenty_kills_at_random_moments_leave_no_trace(server: subprocess.Popen[str], tmp_path: Path) -> None:
    tool = annotate(server, tmp_path / "photos", 210)
    options = ("--set", "seconds=0.02", "--batch-size", "4", "--workers", "1")
    assert tool.run(tmp_path / "undisturbed", *options) == 3

    chance, out = random.Random(20), tmp_path / "killed"
    kills: list[str] = []
    while len(kills) < KILLS:
        process = tool.start(out, *options)
        time.sleep(chance.random() ** 2 * 1.2)
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            assert tool.finish() == 3  # it had ended before
            continue
        if tool.finish() == -signal.SIGKILL:
            half = "+" if list(out.glob("**/.*.tmp")) else ""
            kills.append(f"{len(labelled(out))}{half}")
    print("photos that had a row when it was killed (+: while it wrote):", *kills)

    assert tool.run(out, *options) == 3
    assert Manifest.load(out).state == "complete"
    assert rows(out) == rows(tmp_path / "undisturbed")
    assert len(labelled(out)) == 210
    exports = exported(out, tmp_path / "exports of killed")
    assert len(exports) > 189  # a mask per good photo, at least
    assert exports == exported(tmp_path / "undisturbed", tmp_path / "exports of undisturbed")


@pytest.mark.parametrize(
    ("before", "option"),
    [
        ([], "--quiet"),  # a first start
        (["--limit", "15"], "--quiet"),  # a resume
        (["--limit", "15", "--full-decode"], "--overwrite"),
        (["--limit", "15"], "--retry-failed"),
    ],
)
def test_a_kill_before_any_operation_on_a_file_leaves_no_trace(
    server: subprocess.Popen[str], tmp_path: Path, before: list[str], option: str
) -> None:
    tool = annotate(server, tmp_path / "photos", 20)
    tool.run(tmp_path / "undisturbed", "--workers", "0")
    if before:
        tool.run(tmp_path / "before", "--workers", "0", *before)
    for operation in range(1, 100):
        out = tmp_path / str(operation)
        if before:
            shutil.copytree(tmp_path / "before", out)
        if tool.run(out, "--workers", "0", option, kill_at=operation) != -signal.SIGKILL:
            break
        labelled(out)
        assert tool.run(out, "--workers", "0", option) == 3
        assert rows(out) == rows(tmp_path / "undisturbed")
    print(operation - 1, "operations")
    assert operation > 10
