"""What several modules of tests share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_mongo import mongo_server
from reference.open_runs import Labelled, write_run

from annotator.review.database import open_fiftyone
from annotator.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def fiftyone_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """The module, connected to a database of the tests' own, which it cannot change any more; and its user's home."""
    home = tmp_path_factory.mktemp("home")
    run = write_run(home / "first", {"a.jpg": Labelled([[0]], ["cat"])}, Vocabulary.of(["cat"]))
    with mongo_server(tmp_path_factory.mktemp("mongo")) as uri:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(home))
            patch.setenv("FIFTYONE_DATABASE_URI", uri)
            module = open_fiftyone(run)
        yield module, home


@pytest.fixture(scope="module")
def fiftyone(fiftyone_at_home: tuple[Any, Path]) -> Iterator[Any]:
    module, home = fiftyone_at_home
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield module


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Worker processes in the order in which they are started."""
    workers: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]
            workers.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return workers
