"""A cluster's rows are those of the local engine: two nodes on this machine, and real actors."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_on_ray import BAD, NAMES, exported, on, prepare, processes, undisturbed
from helpers_processes import PATIENCE, default_signals
from helpers_runs import rows, write_photos

from annotator import open_run, pipeline
from annotator.engines import ray as engine
from annotator.images import ImageRef, ImageSource
from annotator.run import ImageRecord, Manifest

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(900)]
ray = pytest.importorskip("ray")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads for networks here as an actor with one CPU has: more add up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_two_nodes_give_the_bytes_of_the_local_engine(cluster: str, photos: Path, tmp_path: Path) -> None:
    pipeline.run(prepare(tmp_path, "ray", limit=9))  # begun by the local engine
    seen: list[ImageRecord] = []
    (tmp_path / "diary" / "together").write_text("3")  # with this process; else the first to start may label all
    with default_signals(ignored=[signal.SIGTERM]):
        outcome = pipeline.run(prepare(tmp_path, "ray", **on(cluster)), seen.append)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # Ray has a handler of its own
    assert (outcome.state, outcome.labelled, outcome.summary.ok, outcome.summary.failed) == ("complete", 31, 36, 4)
    assert len(set(processes(tmp_path)) - {os.getpid()}) == 2
    assert rows(tmp_path / "ray") == rows(undisturbed(tmp_path))
    assert exported(tmp_path / "ray") == exported(tmp_path / "local")

    assert sorted(record.path for record in seen) == [record.path for record in rows(tmp_path / "ray")][9:]
    assert all((record.error == "the file is empty") == (record.path in BAD) for record in seen)
    assert {file.name for file in (tmp_path / "ray").iterdir()} == {"parts", "run.json", "run.lock"}
    execution = Manifest.load(tmp_path / "ray").execution
    assert (execution["engine"], execution["actors"], execution["cpus_per_actor"]) == ("ray", 2, 1)
    assert not ray.is_initialized()


def test_photos_are_listed_once_and_while_others_are_labelled(
    cluster: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source gives 34 photos and no more until one is labelled."""
    monkeypatch.setattr(engine, "PART_PHOTOS", {"cpu": 2})
    labelled = threading.Event()
    listed: list[str] = []

    class Slow:
        def __init__(self, source: ImageSource) -> None:
            self.root, self._source = source.root, source

        def __iter__(self) -> Iterator[ImageRef]:
            for ref in self._source:
                assert len(listed) < 34 or labelled.wait(4 * PATIENCE), "no photo is labelled before all are listed"
                listed.append(ref.path)
                yield ref

    job = prepare(tmp_path, "ray", labeler="bands", **on(cluster))
    job.source = Slow(job.source)  # type: ignore[assignment]
    outcome = pipeline.run(job, lambda record: labelled.set())
    assert (outcome.state, outcome.labelled) == ("complete", 40)
    assert listed == sorted(NAMES)
    assert rows(tmp_path / "ray") == rows(undisturbed(tmp_path, "bands"))


@pytest.mark.usefixtures("one_thread")
def test_networks_on_actors_give_the_masks_of_the_local_engine(cluster: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", NAMES[:2], (96, 128))
    pipeline.run(prepare(tmp_path, "local", labeler="maskclip"))
    outcome = pipeline.run(prepare(tmp_path, "ray", labeler="maskclip", **on(cluster)))
    assert outcome.summary.ok == 2
    assert rows(tmp_path / "ray") == rows(tmp_path / "local")
    assert exported(tmp_path / "ray") == exported(tmp_path / "local")


def test_a_run_from_s3_to_s3_is_the_local_run(tmp_path: Path, s3: Any, bucket: str) -> None:
    """On a cluster that the run starts itself."""
    write_photos(tmp_path / "photos", NAMES[:9])
    for name in NAMES[:9]:
        s3.put_object(Bucket=bucket, Key=f"photos/{name}", Body=(tmp_path / "photos" / name).read_bytes())

    given = {"images": f"s3://{bucket}/photos", "out": f"s3://{bucket}/run", "engine": "ray", "actors": 2}
    outcome = pipeline.run(prepare(tmp_path, "unused", labeler="bands", **given))
    assert (outcome.state, outcome.labelled) == ("complete", 9)
    pipeline.run(prepare(tmp_path, "local", labeler="bands"))
    there = [replace(record, seconds=0.0, mtime=0.0) for record in open_run(f"s3://{bucket}/run").records()]
    here = [replace(record, mtime=0.0) for record in rows(tmp_path / "local")]
    assert there == here
    left = {each["Key"].split("/")[1] for each in s3.list_objects_v2(Bucket=bucket, Prefix="run/")["Contents"]}
    assert left <= {"run.json", "parts", "run.lock"}
    assert not ray.is_initialized()
