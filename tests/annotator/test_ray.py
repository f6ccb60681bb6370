"""Runs on Ray: two nodes on this machine, real actors, and whatever may happen to them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from helpers_processes import PATIENCE, default_signals, is_alive, started, wait_until
from helpers_runs import DEADLY, PLUGINS, VOCAB, environment, python, rows, write_photos
from PIL import Image

from annotator import open_run, pipeline
from annotator.config import RunConfig
from annotator.engines import ray as engine
from annotator.engines.ray_todo import Todo
from annotator.errors import ConfigError, RunError
from annotator.images import ImageRef, ImageSource
from annotator.run import ImageRecord, Manifest
from exporters import base as exporters

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(900)]
ray = pytest.importorskip("ray")

NAMES = [f"{number % 3}/{number:02d}.png" for number in range(40)]
BAD = NAMES[::10]


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third parties' packages are installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.syspath_prepend(str(DEADLY))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads for networks here as an actor with one CPU has: more add up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def prepare(folder: Path, run: str, **given: object) -> pipeline.Job:
    options = {"images": str(folder / "photos"), "labeler": "deadly", "vocab": VOCAB, "pack": "embedded"}
    if given.get("labeler", "deadly") == "deadly":
        (folder / "diary").mkdir(exist_ok=True)
        options["settings"] = {"diary": str(folder / "diary"), **given.pop("settings", {})}  # type: ignore[dict-item]
    return pipeline.prepare(RunConfig.load(None, {**options, "out": str(folder / run), "workers": 0, **given}))


def exported(run: Path) -> bytes:
    out = run.parent / f"{run.name}.json"
    exporters.export("coco", open_run(run), out)
    return out.read_bytes()


def processes(folder: Path) -> list[int]:
    """Of those that labelled."""
    return [int(file.name) for file in (folder / "diary").iterdir() if file.name.isdigit()]


def status(process: int) -> str:
    """As Linux tells it; nothing of one that is gone."""
    try:
        return Path(f"/proc/{process}/status").read_text()
    except OSError:
        return ""


def undisturbed(folder: Path, labeler: str = "deadly") -> Path:
    """The same run by the local engine; `bands` survives every photo."""
    pipeline.run(prepare(folder, "local", labeler=labeler))
    return folder / "local"


def on(cluster: str, **given: object) -> dict[str, object]:
    return {"engine": "ray", "ray_address": cluster, "actors": 2, **given}


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


def test_a_killed_actor_loses_nothing(cluster: str, photos: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one(record: ImageRecord) -> None:
        if not killed:
            killed.append(processes(tmp_path)[0])
            os.kill(killed[0], signal.SIGKILL)

    outcome = pipeline.run(prepare(tmp_path, "ray", **on(cluster, settings={"seconds": 0.1}, limit=30)), kill_one)
    assert (outcome.state, outcome.labelled, outcome.summary.photos) == ("partial", 30, 30)
    assert not is_alive(killed[0])
    assert len(processes(tmp_path)) == 3  # another was started
    assert rows(tmp_path / "ray") == rows(undisturbed(tmp_path))[:30]


def test_photos_that_kill_cost_themselves_only(cluster: str, photos: Path, tmp_path: Path) -> None:
    for name, colour in ((NAMES[15], (255, 0, 0)), (NAMES[16], (255, 255, 0))):  # see tests/plugins/deadly
        Image.fromarray(np.full((48, 64, 3), colour, dtype=np.uint8)).save(photos / name)
    outcome = pipeline.run(prepare(tmp_path, "ray", **on(cluster)))
    assert (outcome.state, outcome.summary.ok, outcome.summary.failed) == ("complete", 35, 5)
    assert outcome.summary.failures["labelling it killed its worker twice"] == 1
    found, expected = rows(tmp_path / "ray"), rows(undisturbed(tmp_path, "bands"))
    assert [record.path for record in found if record.status == "failed" and record.path not in BAD] == [NAMES[15]]
    assert [record for record in found if record.path != NAMES[15]] == [
        record for record in expected if record.path != NAMES[15]
    ]
    deaths = sum(file.name.startswith("death-") for file in (tmp_path / "diary").iterdir())
    assert deaths in (3, 4)  # in its batch and twice alone; the other photo's one death may coincide with none of these


def test_a_killed_driver_leaves_a_run_that_any_engine_resumes(cluster: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    command = python("-c", "from annotator.cli import main; main()", "run", "--quiet", "--images", photos)
    command += ["--labeler", "deadly", "--vocab", VOCAB, "--pack", "embedded", "--out", str(tmp_path / "ray")]
    command += ["--set", f"diary={tmp_path / 'diary'}", "--set", "seconds=0.2", "--workers", "0"]
    command += ["--engine", "ray", "--ray-address", cluster, "--actors", "2"]
    with started(command, env=environment()) as process:
        wait_until(lambda: len(list((tmp_path / "ray").glob("parts/part-*"))) >= 2, process)
        process.kill()
    done = len(open_run(tmp_path / "ray"))
    assert 0 < done < 40
    assert list((tmp_path / "ray" / "todo").iterdir())
    wait_until(lambda: not any(map(is_alive, processes(tmp_path))))

    shutil.copytree(tmp_path / "ray", tmp_path / "copy")
    settings = {"seconds": 0.2}
    by_ray = pipeline.run(prepare(tmp_path, "ray", **on(cluster, settings=settings)))
    local = pipeline.run(prepare(tmp_path, "copy", settings=settings))
    assert by_ray.labelled == local.labelled == 40 - done
    assert rows(tmp_path / "ray") == rows(tmp_path / "copy") == rows(undisturbed(tmp_path))
    assert not (tmp_path / "ray" / "todo").exists()
    assert not (tmp_path / "copy" / "todo").exists()


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


def test_an_error_of_the_listing_ends_the_run(cluster: str, photos: Path, tmp_path: Path) -> None:
    """As where a store no longer answers."""

    def broken(refs: ImageSource) -> Iterator[ImageRef]:
        yield from islice(refs, 36)
        raise ConfigError("photos: cannot be read")

    job = prepare(tmp_path, "ray", labeler="bands", **on(cluster))
    job.source = broken(job.source)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="photos: cannot be read"):
        pipeline.run(job)
    assert Manifest.load(tmp_path / "ray").state == "interrupted"
    assert pipeline.run(prepare(tmp_path, "ray", labeler="bands")).summary.photos == 40
    assert rows(tmp_path / "ray") == rows(undisturbed(tmp_path, "bands"))


def test_networks_without_memory_for_them_are_one_line(cluster: str, photos: Path, tmp_path: Path) -> None:
    job = prepare(tmp_path, "ray", **on(cluster))
    (tmp_path / "diary" / "no-memory").touch()  # from now on, so for the actors; see tests/plugins/deadly
    with pytest.raises(RunError) as caught:
        pipeline.run(job)
    assert str(caught.value) == (
        f"{socket.gethostname()}: cpu: the networks cannot be opened: OutOfMemoryError: CUDA out of memory. Tried to "
        "allocate 2.00 GiB.; end what else runs there, or try fewer --actors"
    )


def test_a_broken_actor_gives_its_photos_to_the_others(
    cluster: str, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = prepare(tmp_path, "ray", **on(cluster, settings={"seconds": 0.05}))
    (tmp_path / "diary" / "break").touch()  # see tests/plugins/deadly
    (tmp_path / "diary" / "together").write_text("2")
    outcome = pipeline.run(job)
    assert (outcome.state, outcome.labelled, outcome.summary.ok, outcome.summary.failed) == ("complete", 40, 36, 4)
    assert len(processes(tmp_path)) == 2
    (line,) = [line for line in caplog.messages if "broken" in line]
    assert line.startswith(
        f"an actor is broken, and others get its photos: {socket.gethostname()}: the device is broken "
        "(AcceleratorError: CUDA error: an illegal memory access was encountered"
    )
    assert rows(tmp_path / "ray") == rows(undisturbed(tmp_path, "bands"))
    assert not (tmp_path / "ray" / "todo").exists()


@pytest.mark.parametrize(
    ("file", "reason"),
    [("break", "the device is broken (AcceleratorError: CUDA error: "), ("no-labeler", "KeyError: 'of a")],
)
def test_where_all_actors_are_broken_the_run_ends_with_one_line(
    cluster: str, photos: Path, tmp_path: Path, file: str, reason: str
) -> None:
    job = prepare(tmp_path, "ray", **on(cluster))
    (tmp_path / "diary" / file).write_text("all")
    with pytest.raises(RunError) as caught:
        pipeline.run(job)
    assert str(caught.value).startswith(f"all 2 actors are broken; the last one: {socket.gethostname()}: {reason}")
    assert "\n" not in str(caught.value)
    run = open_run(tmp_path / "ray")
    assert (run.manifest.state, len(run)) == ("interrupted", 0)
    (tmp_path / "diary" / file).unlink()
    assert pipeline.run(prepare(tmp_path, "ray", **on(cluster))).summary.ok == 36
    assert rows(tmp_path / "ray") == rows(undisturbed(tmp_path, "bands"))


def test_a_plan_that_cannot_be_read_is_one_line(
    cluster: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read in a task of Ray Data, which would print a traceback."""
    monkeypatch.setattr(Todo, "plan", lambda *_: iter(["plan-000000.parquet"]))
    with pytest.raises(RunError, match=r"parts cannot be handed out: FileNotFoundError: .*plan-00") as caught:
        pipeline.run(prepare(tmp_path, "ray", **on(cluster)))
    assert "\n" not in str(caught.value)
    assert "Failed to apply" not in str(caught.value)
    assert not ray.is_initialized()


def test_ctrl_c_closes_the_parts_under_way(photos: Path, tmp_path: Path) -> None:
    command = python("-c", "from annotator.cli import main; main()", "run", "--images", photos)
    command += ["--labeler", "bands", "--vocab", VOCAB, "--pack", "embedded", "--out", str(tmp_path / "ray")]
    command += ["--set", "seconds=0.2", "--workers", "0", "--batch-size", "1", "--engine", "ray", "--actors", "2"]
    pipe = subprocess.PIPE
    with started(command, env=environment(), start_new_session=True, stdout=pipe, stderr=pipe, text=True) as process:
        wait_until(lambda: list((tmp_path / "ray").glob("parts/part-*")), process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, complaints
    assert "stopped; everything labelled so far is safe" in complaints
    assert "raylet" not in out + complaints
    manifest = Manifest.load(tmp_path / "ray")
    assert manifest.state == "interrupted"
    assert 0 < manifest.counts["photos"] == len(open_run(tmp_path / "ray")) < 40
    assert not (tmp_path / "ray" / "todo").exists()
    outcome = pipeline.run(prepare(tmp_path, "ray", labeler="bands", settings={"seconds": 0.2}))
    assert outcome.summary.photos == 40
    assert rows(tmp_path / "ray") == rows(undisturbed(tmp_path))


def test_a_gpu_that_torch_does_not_see_is_one_line(nodes: Any, cluster: str, photos: Path, tmp_path: Path) -> None:
    """Ray says that the node has one; an actor would have it, and not its driver, which has none here."""
    if torch.cuda.is_available():
        pytest.skip("there is a real one")
    node = nodes.add_node(num_cpus=1, num_gpus=1)
    with pytest.raises(ConfigError, match=r"--device cuda: expected auto or one that this machine has \(cpu\)"):
        prepare(tmp_path, "ray", **on(cluster, actors=1))
    nodes.remove_node(node)
    assert not ray.is_initialized()


def test_a_hopeless_run_stops(cluster: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", ["z.png"])
    for number in range(80):
        (tmp_path / "photos" / f"{number:02d}.jpg").write_bytes(b"")
    with pytest.raises(RunError, match=r"of \d\d photos failed, more than --max-failure-rate 0\.5; the last one: '"):
        pipeline.run(prepare(tmp_path, "ray", labeler="bands", **on(cluster)))
    assert Manifest.load(tmp_path / "ray").state == "interrupted"
    assert len(open_run(tmp_path / "ray")) >= 50
    assert not ray.is_initialized()


def test_a_lost_node_leaves_the_rest_to_the_others(
    nodes: Any, cluster: str, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    third = nodes.add_node(num_cpus=1)
    (raylet,) = third.all_processes["raylet"]
    lost: list[int] = []

    def lose_it(record: ImageRecord) -> None:
        there = [process for process in processes(tmp_path) if f"PPid:\t{raylet.process.pid}\n" in status(process)]
        if there and not lost:
            lost.extend(there)
            nodes.remove_node(third, allow_graceful=False)

    job = prepare(tmp_path, "ray", **{**on(cluster, settings={"seconds": 0.2}), "actors": 3})
    (tmp_path / "diary" / "together").write_text("3")
    outcome = pipeline.run(job, lose_it)
    assert lost
    assert "Ray lost a process or a node; going on with Ray actors: 2 with 1 CPU each" in caplog.messages
    assert (outcome.state, outcome.labelled, outcome.summary.photos) == ("complete", 40, 40)
    assert rows(tmp_path / "ray") == rows(undisturbed(tmp_path))


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
