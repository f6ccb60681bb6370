"""A store that does not answer for a while: the same request is made again, but not for ever, and not in vain."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers_runs import PLUGINS, VOCAB, write_photos

from annotator import conditional, open_run, pipeline, storage
from annotator.config import RunConfig
from annotator.engines.ray_todo import remove_todo
from annotator.errors import ImageError
from annotator.images import decode, open_source
from annotator.storage import PAUSES, place

REQUESTS = ("cat_file", "pipe_file", "rm_file", "ls", "info")
PASSING = {
    "cut off": ConnectionResetError(errno.ECONNRESET, "connection reset by peer"),
    "too slow": TimeoutError(),
    "busy": OSError(errno.EBUSY, "please reduce your request rate"),
    "an error of the server": OSError(errno.EIO, "internal error"),
    "of a driver": type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})("no route"),
}
FINAL = {
    "gone": FileNotFoundError(errno.ENOENT, "no such key"),
    "forbidden": PermissionError(errno.EACCES, "access denied"),
    "a mistake": ValueError("odd"),
    "full": OSError(errno.ENOSPC, "no space left"),
    "who asks": type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})("none found"),
}
USES: dict[str, Callable[[Any], object]] = {
    "read": lambda root: storage.read_bytes(root / "a.bin"),
    "write": lambda root: storage.write_bytes(root / "b.bin", b"b"),
    "create": lambda root: conditional.create(root / "c.bin", b"c") is not None,
    "replace": lambda root: (
        conditional.replace(root / "a.bin", b"d", storage.describe(root / "a.bin").stamp) is not None
    ),
    "delete": lambda root: storage.delete(root / "a.bin"),
    "list": lambda root: [file.name for file in storage.list_files(root)],
    "walk": lambda root: list(storage.walk(root)),
    "describe": lambda root: storage.describe(root / "photo.png"),
    "exists": lambda root: storage.exists(root / "e.bin"),
    "photos": lambda root: [ref.path for ref in open_source(str(root))],
    "a photo": lambda root: decode(root / "photo.png").width,
    "what Ray left": lambda root: remove_todo(root),
}


class Moody:
    """Fails the first `times` tries of each request to the store, or each one after it has done its work."""

    def __init__(self, patch: pytest.MonkeyPatch, error: Exception, times: int, *, late: bool = False) -> None:
        self.asked: list[tuple[str, str]] = []
        for name in REQUESTS:
            patch.setattr(MemoryFileSystem, name, self._failing(getattr(MemoryFileSystem, name), error, times, late))

    def _failing(self, request: Callable[..., Any], error: Exception, times: int, late: bool) -> Callable[..., Any]:
        def ask(files: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> Any:
            self.asked.append((request.__name__, path))
            tries = self.asked.count((request.__name__, path))
            if tries <= times:
                if late:
                    request(files, path, *arguments, **options)
                raise error
            return request(files, path, *arguments, **options)

        return ask


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Any]:
    monkeypatch.setattr(storage, "PAUSES", (0.0,) * len(PAUSES))
    write_photos(tmp_path, ["photo.png"])
    root = place("memory://moody")
    storage.write_bytes(root / "a.bin", b"a")
    storage.write_bytes(root / "photo.png", (tmp_path / "photo.png").read_bytes())
    storage.write_bytes(root / "todo" / "x" / "plan.parquet", b"p")
    yield root
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("error", PASSING)
def test_what_passes_is_asked_again(store: Any, monkeypatch: pytest.MonkeyPatch, error: str, use: str) -> None:
    expected = USES[use](store)
    storage.write_bytes(store / "a.bin", b"a")
    storage.delete(store / "c.bin")
    expected_files = sorted(MemoryFileSystem.store)
    with monkeypatch.context() as patch:
        moody = Moody(patch, PASSING[error], times=len(PAUSES))
        if use != "what Ray left":  # which is gone by now
            assert USES[use](store) == expected
            assert moody.asked
    if use == "create":
        expected_files.append("/moody/c.bin")
    if use in ("move", "delete"):
        expected_files.remove("/moody/a.bin")
    assert sorted(MemoryFileSystem.store) == sorted(expected_files)


def test_what_ray_left_is_removed_in_the_end(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Moody(patch, PASSING["busy"], times=2)
        remove_todo(store)
    assert not [name for name in MemoryFileSystem.store if "todo" in name]


@pytest.mark.parametrize("error", FINAL)
def test_what_does_not_pass_is_asked_once(store: Any, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    moody = Moody(monkeypatch, FINAL[error], times=99)
    with pytest.raises(OSError, match=str(FINAL[error].args[-1])):
        storage.read_bytes(store / "a.bin")
    assert moody.asked == [("cat_file", "/moody/a.bin")]


@pytest.mark.parametrize("use", ["read", "write", "create", "replace", "list", "walk", "describe", "exists"])
def test_a_store_that_is_down_for_good_is_an_error_after_six_tries(
    store: Any, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    moody = Moody(monkeypatch, PASSING["busy"], times=99)
    with pytest.raises(OSError, match="reduce your request rate"):
        USES[use](store)
    assert len(moody.asked) == 1 + len(PAUSES) == 6


def test_the_pauses_grow_and_differ(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(storage, "PAUSES", PAUSES)
    monkeypatch.setattr("annotator.storage.time.sleep", waited.append)
    Moody(monkeypatch, PASSING["busy"], times=99)
    with pytest.raises(OSError, match="request rate"):
        storage.read_bytes(store / "a.bin")
    assert [seconds / pause for seconds, pause in zip(waited, PAUSES, strict=True)] == pytest.approx([1] * 5, abs=0.5)
    assert waited != list(PAUSES)
    assert sum(PAUSES) < 20


def test_a_file_whose_creation_was_not_confirmed_is_ours_by_its_content(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer was lost, so that the second try finds it there."""
    with monkeypatch.context() as patch:
        Moody(patch, PASSING["cut off"], times=1, late=True)
        assert conditional.create(store / "lock", b"mine")
        assert not conditional.create(store / "lock", b"of another")
    assert storage.read_bytes(store / "lock") == b"mine"


def test_a_run_in_a_store_that_fails_now_and_then_is_whole(
    store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Every request fails three times; s3 has its own server's tests in test_storage."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    write_photos(tmp_path / "photos", [f"{number}.png" for number in range(5)])
    for file in (tmp_path / "photos").iterdir():
        storage.write_bytes(store / "in" / file.name, file.read_bytes())
    given = {"labeler": "bands", "vocab": VOCAB, "pack": "embedded", "workers": 0}
    job = pipeline.prepare(RunConfig.load(None, {**given, "images": str(store / "in"), "out": str(store / "run")}))
    Moody(monkeypatch, PASSING["busy"], times=3)
    outcome = pipeline.run(job)
    assert (outcome.state, outcome.summary.ok, outcome.summary.failed) == ("complete", 5, 0)
    assert [record.path for record in open_run(store / "run")] == [f"{number}.png" for number in range(5)]


def test_a_photo_that_no_try_fetches_says_so(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Moody(monkeypatch, PASSING["busy"], times=99)
    with pytest.raises(ImageError, match="cannot be fetched: please reduce your request rate"):
        decode(store / "photo.png")
