"""A cluster of two nodes on this machine, and the photos that it labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from helpers_on_ray import BAD, NAMES
from helpers_processes import default_signals
from helpers_runs import DEADLY, PLUGINS, write_photos


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third parties' packages are installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.syspath_prepend(str(DEADLY))


@pytest.fixture(scope="module", autouse=True)
def own_folder() -> Iterator[None]:
    """Ray's files in a folder that no other user's Ray has written to; sockets need a short path.

    Ray's processes run behind all others, and so for minutes where other tests run beside them; not here.
    """
    folder = TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    with folder as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", name)
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def nodes(own_folder: None) -> Iterator[Any]:
    """Two nodes with a CPU each."""
    from ray.cluster_utils import Cluster

    with default_signals():
        nodes = Cluster()
        for _ in range(2):
            nodes.add_node(num_cpus=1, include_dashboard=False)
    yield nodes
    nodes.shutdown()


@pytest.fixture
def cluster(nodes: Any) -> str:
    """The address."""
    return str(nodes.address)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", NAMES)
    for name in BAD:
        (tmp_path / "photos" / name).write_bytes(b"")
    return tmp_path / "photos"
