"""Whatever is killed on a cluster, no photo is lost: actors, the driver, a node, and photos that kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_on_ray import BAD, NAMES, on, prepare, processes, status, undisturbed
from helpers_processes import PATIENCE, is_alive, started, wait_until
from helpers_runs import VOCAB, environment, python, rows
from PIL import Image

from annotator import open_run, pipeline
from annotator.run import ImageRecord, Manifest

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(900)]
ray = pytest.importorskip("ray")


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
