"""Shared set-up: nothing of a user's own caches, models or configuration is read or written by a test."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from helpers_processes import default_signals
from hypothesis import HealthCheck, settings

from annotator.models.compat import prepare_torchvision
from annotator.models.devices import keep_freed_memory

keep_freed_memory()  # as `annotate` does

BUCKETS = itertools.count()

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: no worker shall begin with one when the others have nothing left to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def torchvision_operators() -> None:
    prepare_torchvision()


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and no network."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ANNOTATE_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("ANNOTATE_MODELS", raising=False)
    return folder


@pytest.fixture
def terminal_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM act on this process as from a terminal, even where they were ignored when it was started."""
    with default_signals():
        yield


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of a real S3 server, which is the module's own (moto)."""
    pytest.importorskip("s3fs", reason="pip install 'annotate[remote]'")
    server = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    import boto3
    from s3fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # another module's server is gone
        yield boto3.client("s3")
    running.stop()


@pytest.fixture
def bucket(s3: Any) -> str:
    """The name of an empty one."""
    name = f"bucket-{next(BUCKETS)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that others can read too, which pytest's own are not."""
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder
