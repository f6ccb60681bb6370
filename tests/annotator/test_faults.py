"""Devices that break, disks that are full and photos that vanish end a run in one line, and leave the photos open."""

from __future__ import annotations

import errno
import importlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_processes import wait_until
from helpers_runs import PLUGINS, VOCAB, annotate_here, rows, write_photos

from annotator import open_run, pipeline, storage
from annotator.config import RunConfig
from annotator.engines import faults
from annotator.engines.crew import assemble
from annotator.errors import BrokenError, RunError
from annotator.images import ImageRef, ImageSource
from annotator.models.devices import is_broken_device, is_out_of_memory, may_be_broken_device
from annotator.pipeline import Job
from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest
from annotator.storage import PAUSES, place
from annotator.vocabulary import Vocabulary
from labelers.base import Image, Size

NAMES = [f"{number:03d}.png" for number in range(100)]
ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"
BROKEN = {
    "accelerator": torch.AcceleratorError(ILLEGAL),
    "runtime": RuntimeError(ILLEGAL),
    "gone": torch.AcceleratorError("CUDA error: unspecified launch failure"),
    "assert": RuntimeError("CUDA error: device-side assert triggered"),
    "hip": RuntimeError("HIP error: an illegal memory access was encountered"),
}
SEEMS_BROKEN = {
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle )`"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
}
BROKEN |= {
    "dead pool": BrokenProcessPool("a child process terminated abruptly"),
    "full disk": OSError(errno.ENOSPC, "No space left on device", "/cache/x"),
    "a read-only disk": OSError(errno.EROFS, "Read-only file system"),
}


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", NAMES, (12, 16))
    return tmp_path / "photos"


@pytest.fixture
def prepare(tmp_path: Path, photos: Path) -> Callable[..., Job]:
    def make(**given: object) -> Job:
        options = {"labeler": "bands", "vocab": VOCAB, "pack": "embedded", "workers": 0, "batch_size": 4}
        folders = {"images": str(photos), "out": str(tmp_path / "run")}
        return pipeline.prepare(RunConfig.load(None, {**options, **folders, **given}))

    return make


def bands() -> Any:
    """The third party's labeler, by its package as it is installed."""
    return importlib.import_module("bands").Bands


class Failing:
    """Makes `bands` raise this from its photo number `start` on; `count` photos fail, or all that follow."""

    def __init__(self, patch: pytest.MonkeyPatch, error: Exception, start: int, count: int = 10**9) -> None:
        self.labelled: set[bytes] = set()
        label = bands().label

        def fail(labeler: Any, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
            self.labelled |= {image.tobytes() for image in images}
            order = [self._numbers.setdefault(image.tobytes(), len(self._numbers)) for image in images]
            if any(start <= number < start + count for number in order):
                raise error
            return label(labeler, images, sizes)

        self._numbers: dict[bytes, int] = {}
        patch.setattr(bands(), "label", fail)


def undisturbed(prepare: Callable[..., Job], tmp_path: Path) -> list[ImageRecord]:
    pipeline.run(prepare(out=str(tmp_path / "undisturbed")))
    return rows(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("error", "start"), [*((error, 50) for error in BROKEN), *(("accelerator", start) for start in (0, 1, 99))]
)
def test_what_is_broken_stops_the_run_and_leaves_the_photos_open(
    prepare: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, start: int
) -> None:
    with monkeypatch.context() as patch:
        failing = Failing(patch, BROKEN[error], start)
        with pytest.raises(BrokenError) as caught:
            pipeline.run(prepare())
    assert "\n" not in str(caught.value)
    assert "open" in str(caught.value) or error == "dead pool"
    assert (getattr(BROKEN[error], "strerror", None) or str(BROKEN[error]).split("\n")[0]) in str(caught.value)
    assert len(failing.labelled) <= start + 4  # nothing is asked of it any more
    run = open_run(tmp_path / "run")
    assert run.manifest.state == "interrupted"
    assert list(run.failures()) == []
    assert start - 8 < len(run) <= start  # at most the batch under way, and the one that was being encoded, are lost
    outcome = pipeline.run(prepare())
    assert (outcome.state, outcome.summary.ok, outcome.summary.failed) == ("complete", 100, 0)
    assert rows(tmp_path / "run") == undisturbed(prepare, tmp_path)


@pytest.mark.parametrize("start", [1, 52])
@pytest.mark.parametrize("error", SEEMS_BROKEN)
def test_a_library_that_fails_on_every_photo_stops_the_run(
    prepare: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, start: int
) -> None:
    """It may be too much of one photo, so that it takes a whole batch to tell."""
    with monkeypatch.context() as patch:
        failing = Failing(patch, SEEMS_BROKEN[error], start)
        with pytest.raises(BrokenError, match=r"the device seems broken: each of 4 photos failed \(RuntimeError: "):
            pipeline.run(prepare())
    assert len(failing.labelled) <= start + 8
    assert list(open_run(tmp_path / "run").failures()) == []
    assert pipeline.run(prepare()).summary.ok == 100


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: invalid configuration argument"),
        torch.AcceleratorError("CUDA error: invalid argument"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx( handle )`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),  # of one photo among others that do well
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ValueError("odd"),
        OSError(errno.ENOENT, "No such file", "x"),
    ],
    ids=str,
)
def test_what_one_photo_may_cause_costs_that_photo(
    prepare: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    Failing(monkeypatch, error, 50, count=1)
    outcome = pipeline.run(prepare())
    assert (outcome.state, outcome.summary.ok, outcome.summary.failed) == ("complete", 99, 1)
    (failed,) = open_run(tmp_path / "run").failures()
    assert failed.path == NAMES[50]
    assert failed.error.startswith(f"labelling failed: {type(error).__name__}: ")


@pytest.mark.parametrize(
    ("error", "broken", "may_be", "no_memory"),
    [
        *[(BROKEN[name], True, False, False) for name in ("accelerator", "runtime", "gone", "assert", "hip")],
        *[(error, False, True, False) for error in SEEMS_BROKEN.values()],
        (RuntimeError("CUDA error: out of memory"), False, False, True),
        (torch.AcceleratorError("CUDA error: out of memory"), False, False, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), False, False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), False, False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False, False, False),
        (RuntimeError("The size of tensor a (3) must match"), False, False, False),
    ],
)
def test_kinds_of_errors(error: Exception, broken: bool, may_be: bool, no_memory: bool) -> None:
    assert (is_broken_device(error), may_be_broken_device(error), is_out_of_memory(error)) == (
        broken,
        may_be,
        no_memory,
    )


@pytest.mark.parametrize(("batch_size", "start"), [(1, 3), (4, 0), (4, 68), (100, 3)])
def test_many_failures_in_a_row_stop_the_run_and_leave_the_photos_open(
    prepare: Callable[..., Job],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    start: int,
) -> None:
    for name in NAMES[start + 5 : start + 12 : 3] if start < 50 else ():
        (photos / name).write_bytes(b"")  # its own fault: it neither counts nor ends the row
    damaged = 3 if start < 50 else 0
    with monkeypatch.context() as patch:
        Failing(patch, ValueError("odd"), start)
        with pytest.raises(BrokenError) as caught:
            pipeline.run(prepare(batch_size=batch_size))
    last = NAMES[start + 31 + damaged]
    assert str(caught.value) == (
        "32 photos in a row failed, so that more is wrong than with photos; the last one: "
        f"{last!r}: labelling failed: ValueError: odd; they are left open; mend it and give the same command, or "
        "record such photos as failed with --max-failure-rate 1"
    )
    assert {record.error for record in open_run(tmp_path / "run").failures()} <= {"the file is empty"}
    outcome = pipeline.run(prepare(batch_size=batch_size))
    assert (outcome.state, outcome.summary.ok, outcome.summary.failed) == ("complete", 100 - damaged, damaged)


def test_31_failures_in_a_row_are_31_failures(
    prepare: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, ValueError("odd"), 60, count=31)
    outcome = pipeline.run(prepare())
    assert (outcome.state, outcome.summary.ok, outcome.summary.failed) == ("complete", 69, 31)
    assert [record.path for record in open_run(tmp_path / "run").failures()] == NAMES[60:91]


def test_failures_at_the_end_are_recorded(
    prepare: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, ValueError("odd"), 90)
    assert pipeline.run(prepare()).summary.failed == 10
    assert [record.path for record in open_run(tmp_path / "run").failures()] == NAMES[90:]


def test_who_wants_every_failure_recorded_gets_them(
    prepare: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, ValueError("odd"), 0)
    outcome = pipeline.run(prepare(max_failure_rate=1.0))
    assert (outcome.state, outcome.summary.failed) == ("complete", 100)


def test_a_count_goes_on_over_parts_and_says_what_is_recorded() -> None:
    failures = faults.FailuresInARow(3)
    records = [ImageRecord(f"{number}.jpg", "failed", error="odd") for number in range(3)]
    assert failures.pass_on(records[0], True) == []
    assert failures.rest() == [records[0]]
    assert failures.pass_on(records[1], True) == []
    with pytest.raises(BrokenError, match="1 of them are recorded as failed, --retry-failed tries these again"):
        failures.pass_on(records[2], True)


@pytest.mark.parametrize("how", ["removed", "emptied", "replaced", "hidden by another"])
@pytest.mark.parametrize("workers", [0, 1])
def test_photos_that_vanish_stop_the_run(
    prepare: Callable[..., Job], photos: Path, tmp_path: Path, how: str, workers: int
) -> None:
    gone: list[str] = []

    def vanish(record: ImageRecord) -> None:
        if record.path != NAMES[11] or gone:
            return
        gone.append(record.path)
        shutil.move(photos, tmp_path / "elsewhere")
        if how != "removed":
            photos.mkdir()
        if how == "replaced":
            (photos / "note.txt").write_text("x")
        if how == "hidden by another":
            write_photos(photos, ["other.png"])

    with pytest.raises(BrokenError, match=f"^{photos}: the photos cannot be read here any more: ") as caught:
        pipeline.run(prepare(workers=workers), vanish)
    assert str(caught.value).endswith("the rest is left open: bring them back, and the same command goes on")
    run = open_run(tmp_path / "run")
    assert list(run.failures()) == []
    assert 12 <= len(run) < 40
    shutil.rmtree(photos, ignore_errors=True)
    shutil.move(tmp_path / "elsewhere", photos)
    assert pipeline.run(prepare()).summary.ok == 100


class Unplugged:
    """Photos of a disk that is pulled out when a hundred are listed: the search meets no others, and no photo fails."""

    def __init__(self, source: ImageSource, is_empty: bool) -> None:
        self.root, self._source, self._is_empty = source.root, source, is_empty

    def __iter__(self) -> Iterator[ImageRef]:
        for number, ref in enumerate(self._source, start=1):
            yield ref
            if number == 100:
                self.root.rename(self.root.with_name("elsewhere"))
                if self._is_empty:
                    self.root.mkdir()


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_folder_that_vanishes_in_the_search_leaves_no_run_that_seems_complete(
    prepare: Callable[..., Job], photos: Path, tmp_path: Path, is_empty: bool
) -> None:
    pipeline.run(prepare())
    write_photos(photos / "late", ["z.png"])
    job = prepare()
    job.source = Unplugged(job.source, is_empty)  # type: ignore[assignment]
    with pytest.raises(BrokenError, match="the photos cannot be read here any more"):
        pipeline.run(job)
    assert Manifest.load(tmp_path / "run").state == "interrupted"
    assert len(open_run(tmp_path / "run")) == 100


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_vanishes_costs_itself_only(
    prepare: Callable[..., Job], photos: Path, tmp_path: Path, workers: int
) -> None:
    def remove(record: ImageRecord) -> None:
        (photos / NAMES[60]).unlink(missing_ok=True)

    outcome = pipeline.run(prepare(workers=workers), remove)
    assert (outcome.summary.ok, outcome.summary.failed) in [(99, 1), (99, 0)]  # 0: before it was listed


def test_a_list_of_photos_that_never_were_is_no_broken_mount(prepare: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("nowhere/a.png\nnowhere/b.png\n")
    outcome = pipeline.run(prepare(images=str(tmp_path / "list.txt")))
    assert (outcome.state, outcome.summary.failed) == ("complete", 2)


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_store_that_is_gone_stops_the_run(
    prepare: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    root = place("memory://shop/photos")
    for name in NAMES[:20]:
        storage.write_bytes(root / name, (tmp_path / "photos" / name).read_bytes())
    monkeypatch.setattr(storage, "PAUSES", (0.0,) * len(PAUSES))
    job = prepare(images=str(root))
    info, fetch = MemoryFileSystem.info, MemoryFileSystem.cat_file

    def fail(request: Callable[..., object]) -> Callable[..., object]:
        def ask(files: MemoryFileSystem, path: str, *arguments: object, **options: object) -> object:
            if path.endswith(NAMES[9]) or (is_gone and path.rstrip("/").endswith("photos")):
                raise ConnectionError(errno.ECONNREFUSED, "connection refused")
            return request(files, path, *arguments, **options)

        return ask

    monkeypatch.setattr(MemoryFileSystem, "info", fail(info))
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail(fetch))
    try:
        if is_gone:
            with pytest.raises(
                BrokenError, match=r"photos: the photos cannot be read here any more: connection refused"
            ):
                pipeline.run(job)
            assert list(open_run(tmp_path / "run").failures()) == []
        else:
            outcome = pipeline.run(job)
            assert (outcome.summary.ok, outcome.summary.failed) == (19, 1)
    finally:
        MemoryFileSystem.store.clear()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA error: initialization error"), BrokenError),
        (torch.OutOfMemoryError("CUDA out of memory"), RunError),
    ],
)
def test_networks_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type) -> None:
    def fail(labeler: object, vocabulary: object) -> None:
        raise error

    monkeypatch.setattr(bands(), "prepare", fail)
    with pytest.raises(RunError, match=r"^cpu: the networks cannot be opened: ") as caught:
        assemble(RunConfig(labeler="bands", pack="embedded", device="cpu"), Vocabulary.of(["a"]), "cpu")
    assert type(caught.value) is kind


def test_the_command_ends_with_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Failing(monkeypatch, BROKEN["accelerator"], 10)
    command = ["run", "--images", str(photos), "--labeler", "bands", "--vocab", VOCAB, "--pack", "embedded", "-q"]
    answer = annotate_here([*command, "--workers", "0", "--out", str(tmp_path / "run")], monkeypatch, capsys)
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("annotate: the device is broken (AcceleratorError: CUDA error: an illegal memory")
    wait_until(lambda: Manifest.load(tmp_path / "run").state == "interrupted")
