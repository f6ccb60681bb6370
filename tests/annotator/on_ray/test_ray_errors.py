"""What goes wrong on a cluster is one line, and the run can be resumed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_on_ray import on, prepare, processes, undisturbed
from helpers_runs import rows, write_photos

from annotator import open_run, pipeline
from annotator.engines.ray_todo import Todo
from annotator.errors import ConfigError, RunError
from annotator.images import ImageRef, ImageSource
from annotator.run import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(900)]
ray = pytest.importorskip("ray")


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
