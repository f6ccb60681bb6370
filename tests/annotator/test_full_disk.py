"""A disk that takes no more: the file or folder is named, and nothing half is left.

A limit on the size of files stands for the full disk: the system refuses the same calls in the same places.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers_processes import nobody
from helpers_runs import PLUGINS, VOCAB, Answer, annotate_here, rows, write_photos

from annotator import annotate as annotate_photos
from annotator import pipeline
from annotator.blame import blaming
from annotator.config import RunConfig
from annotator.errors import RunError
from annotator.models.weights import sha256_of, write_note
from annotator.parts import part_files
from annotator.run import ImageRecord, RunReader
from exporters.base import available, find

SIZE = (120, 160)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """In this process, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunReader:
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", ["a.png", "b.png"], SIZE)
    return annotate_photos("photos", "bands", VOCAB.split(", "), "embedded", "run", workers=0)


@pytest.fixture
def annotate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def call(*arguments: str) -> Answer:
        with files_of_at_most(100):
            return annotate_here(arguments, monkeypatch, capsys)

    return call


def refused(answer: Answer, place: str) -> None:
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert answer.err.startswith(f"annotate: {place}")
    assert "File too large" in answer.err


@pytest.mark.parametrize("format", available())
def test_exports(run: RunReader, annotate: Callable[..., Answer], tmp_path: Path, format: str) -> None:
    out = f"out{find(format).suffix}"
    refused(annotate("export", "run", "--format", format, "--out", out), out)
    assert [file.name for file in tmp_path.rglob("*.tmp")] == []


def test_a_copy_that_fails_blames_the_copy(run: RunReader, annotate: Callable[..., Answer]) -> None:
    refused(annotate("export", "run", "--format", "yolo-seg", "--out", "out", "--photos", "copy"), "out")


def test_the_report(run: RunReader, annotate: Callable[..., Answer], tmp_path: Path) -> None:
    answer = annotate("report", "run", "--out", "report")
    refused(answer._replace(err=answer.err.splitlines(keepends=True)[-1]), "report")
    assert list((tmp_path / "report").iterdir()) == []


def test_a_run(run: RunReader, annotate: Callable[..., Answer], tmp_path: Path) -> None:
    command = ("run", "--labeler", "bands", "--pack", "embedded", "--images", "photos", "--vocab", VOCAB, "-q")
    refused(annotate(*command, "--workers", "0", "--out", "new"), "new/run.json")
    assert [file.name for file in (tmp_path / "new").rglob("*.tmp")] == []


def test_a_disk_that_fills_up_in_a_run_leaves_the_photos_open(run: RunReader, tmp_path: Path) -> None:
    """Its part is named, and when there is room again the same run goes on."""

    def fill(record: ImageRecord) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def job() -> pipeline.Job:
        given = {"labeler": "bands", "vocab": VOCAB, "pack": "embedded", "workers": 0}
        return pipeline.prepare(RunConfig.load(None, {**given, "images": "photos", "out": "new"}))

    with pytest.raises(OSError, match="File too large") as caught, files_of_at_most(10**9):
        pipeline.run(job(), fill)
    assert caught.value.filename.startswith("new/")
    assert len(RunReader("new")) == 0
    assert pipeline.run(job()).summary.ok == 2
    assert rows(tmp_path / "new") == rows(tmp_path / "run")


def test_other_errors_are_left_alone() -> None:
    for error in (OSError(errno.ENOSPC, "full", "x"), OSError(errno.EPIPE, "broken"), OSError("no number")):
        before = error.filename
        with suppress(OSError), blaming(Path("y")):
            raise error
        assert error.filename == before


def test_a_full_cache_folder_keeps_nothing_half(tmp_path: Path, own_caches: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"x" * 50)
    with files_of_at_most(100):
        digest = sha256_of(weights)
        write_note("weights.json", "a" * 200, {"sha256": digest})
    assert list(own_caches.iterdir()) == []
    assert sha256_of(weights) == digest
    assert [file.name for file in own_caches.iterdir()] == ["hashes.json"]


def test_a_part_that_may_not_be_read_is_kept(public_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    write_photos(public_folder / "photos", ["a.png"])
    run = annotate_photos(public_folder / "photos", "bands", VOCAB.split(", "), "embedded", public_folder / "run")
    (part,) = part_files(run.directory)
    part.chmod(0)
    with nobody(), pytest.raises(RunError) as caught:
        list(run.records())
    assert "Permission denied" in str(caught.value)
    assert "keep it" in str(caught.value)
    assert "delete" not in str(caught.value)
    part.chmod(0o644)
    assert [record.path for record in run.records()] == ["a.png"]
