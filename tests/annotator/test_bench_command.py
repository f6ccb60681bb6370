"""`annotate bench` as in a shell, with a third party's labeler that takes its time where the test says; and what is
made of the figures: table, JSON, picture."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers_runs import environment, python, write_photos
from PIL import Image

from annotator import cli
from annotator.bench.measure import Made, Measured, StageTime, _Bench, link_photos, stage_times
from annotator.bench.picture import draw_bench
from annotator.bench.startup import PARTS, StartUp, start_up
from annotator.bench.table import result_lines, rows
from annotator.config import RunConfig
from annotator.engines.crew import Crew
from annotator.errors import RunError
from annotator.models.devices import PHOTOS_AT_ONCE
from annotator.models.networks import Networks
from evaluation.picture import PAPER

NAP, PHOTOS = 0.2, 3
PLUGIN = f"""
import time
from dataclasses import dataclass

import numpy as np
import torch

from annotator.prediction import Prediction
from annotator.stages import stage
from labelers.base import LabelerSpec, register


@dataclass(frozen=True)
class Nothing:
    pass


@register(LabelerSpec("sleepy", needs_vocabulary=True, paper="none", roles=()), Nothing)
class Sleepy:
    working_side = None

    def __init__(self, networks, parameters):
        self.network = torch.nn.Conv2d(3, 3, 5)

    def prepare(self, vocabulary):
        self.name = vocabulary.names[0]

    def label(self, images, sizes=None):
        found = []
        for image in images:
            with stage("nap"):
                time.sleep({NAP})
            self.network(torch.zeros(2, 3, 9, 9))
            found.append(Prediction(np.zeros(image.shape[:2], np.int32), [self.name], [0], [1.0]))
        return found
"""
COMPILER = any(map(shutil.which, ("g++", "clang++", "c++")))
COMMAND = "from annotator.cli import main; main()"

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """In a folder with three photos, where the labeler is installed."""
    plugins = tmp_path / "plugins"
    (plugins / "sleepy-1.0.dist-info").mkdir(parents=True)
    (plugins / "sleepy.py").write_text(PLUGIN)
    (plugins / "sleepy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: sleepy\nVersion: 1.0\n")
    (plugins / "sleepy-1.0.dist-info" / "entry_points.txt").write_text("[annotator.labelers]\nsleepy = sleepy\n")
    write_photos(tmp_path / "photos", [f"{number}.jpg" for number in range(3)], (40, 50))
    given = environment()
    given["PYTHONPATH"] += os.pathsep + str(plugins)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = python("-c", COMMAND, "bench", "--labeler", "sleepy", "--pack", "embedded", *arguments)
        return subprocess.run(
            command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=200, check=False
        )

    return call


@pytest.mark.stress
def test_a_slow_stage_of_a_third_partys_labeler_is_found(bench: Bench, tmp_path: Path) -> None:
    files = ["--json", "bench.json", "--picture", "bench.png"]
    files += ["--compile"] if COMPILER else []
    done = bench("--images", "photos", "--vocab", "sky, sea", "--photos", str(PHOTOS), "--rounds", "2", *files)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (found["schema"], found["labeler"], found["pack"], found["device"]) == (1, "sleepy", "embedded", "cpu")
    assert (found["photos"], found["rounds"], found["classes"]) == (PHOTOS, 2, 2)
    assert (found["compiled"], " compiled" in done.stderr) == (COMPILER, COMPILER)
    assert found["megapixels"] == pytest.approx(40 * 50 / 1e6, abs=0.005)
    assert found["calls"] == [{"call": "Conv2d", "shapes": "2 x 3 x 9 x 9", "times": PHOTOS}]

    main = {each["name"]: each["seconds"] for each in found["stages"] if each["thread"] == "main"}
    assert main["nap"] >= PHOTOS * NAP
    assert {"find", "waiting for decode", "waiting for RLE", "write", "rest of labelling", "rest"} <= set(main)
    assert sum(main.values()) == pytest.approx(found["stages_seconds"])
    assert min(main.values()) >= 0  # so no second is in two stages: "rest" is what the others leave
    besides = {(each["thread"], each["name"]) for each in found["stages"] if each["thread"] != "main"}
    assert besides == {("decode", "decode"), ("encode", "RLE")}

    assert found["photos_per_second"] == pytest.approx(PHOTOS / found["seconds"])
    assert found["bound_photos_per_second"] == pytest.approx(PHOTOS / found["bound_seconds"])
    assert found["bound_share"] == pytest.approx(found["bound_seconds"] / found["seconds"])
    assert found["seconds"] >= PHOTOS * NAP
    assert found["bound_seconds"] > 0
    assert 50 < found["resident_mb"] < 20_000
    assert found["gpu_mb"] is None
    start = found["start_up"]
    assert tuple(start["parts"]) == PARTS
    assert start["seconds"] == pytest.approx(sum(start["parts"].values()))
    assert min(start["parts"].values()) >= 0
    assert start["parts"]["import"] > 0.2  # torch
    assert start["parts"]["first photo"] >= NAP

    table = {line[:18].strip(): line for line in done.stdout.splitlines()}
    assert "main thread" in table["nap"]
    assert "meanwhile, in other processes" in table["decode"]
    assert "meanwhile, in a thread" in table["RLE"]
    assert f"{found['photos_per_second']:.2f} photos/s: the run takes {found['bound_share']:.0%}" in done.stdout
    assert "peak memory" in done.stdout
    assert "first mask" in done.stdout
    with Image.open(tmp_path / "bench.png") as picture:
        assert_drawn(picture)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bench.json", "bench.png", "photos", "plugins"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labeler", "maskclipp"], "maskclip"),
        (["--set", "gama=1"], "gama"),
        (["--device", "cpu,cpu"], "expected one device"),
        (["--photos", "0"], "--photos: expected at least 1"),
        (["--rounds", "0"], "--rounds: expected at least 1"),
        (["--images", "nowhere"], "nowhere"),
        (["--images", "s3://bucket/photos"], "expected photos on this machine"),
        (["--json", "nowhere/bench.json"], "nowhere is not there; make it"),
        (["--images", "photos/broken.jpg"], "failed"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_photos(tmp_path / "photos", ["a.jpg"])
    (tmp_path / "photos" / "broken.jpg").write_bytes((tmp_path / "photos" / "a.jpg").read_bytes()[:300])
    monkeypatch.chdir(tmp_path)
    given = ["bench", "--pack", "embedded", "--vocab", "cat, dog", "--labeler", "maskclip", "--photos", "1"]
    monkeypatch.setattr(sys, "argv", ["annotate", *given, "--images", "photos", *arguments])
    monkeypatch.setattr("annotator.bench.measure.start_up", lambda config: StartUp(0.0, {}))  # a process of its own
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == cli.EXIT_USAGE
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("annotate: ")
    assert message in last


def test_the_gpus_of_the_job_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not whichever is the current one; and a batch is that of all devices together."""
    asked: list[tuple[str, str]] = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None, name=name: asked.append((name, device)))
    peaks = {"cuda:1": 3e6, "cuda:3": 4e6}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: peaks[device])
    devices = list(peaks)
    job = SimpleNamespace(crew=Crew(RunConfig(), None, devices, [Networks.of()]), devices=devices)
    watched = _Bench(job, tmp_path, [])
    watched._forget_peaks()
    watched._synchronise()
    assert asked == [(name, device) for name in ("reset_peak_memory_stats", "synchronize") for device in devices]
    assert watched._peak_gpu_mb() == 7
    assert watched.batch_size == 2 * PHOTOS_AT_ONCE["cpu"]
    chosen = SimpleNamespace(crew=Crew(RunConfig(batch_size=5), None, devices, [Networks.of()]), devices=devices)
    assert _Bench(chosen, tmp_path, []).batch_size == 5


def test_a_start_that_fails_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="failed \\(1\\); see above"):
        start_up(RunConfig("/nowhere/at/all", "maskclip", "cat, dog", "embedded"))
    assert "/nowhere/at/all" in capfd.readouterr().err


def measured(**changes: Any) -> Measured:
    stages = (StageTime("forward", "main", 6.0), StageTime("rest", "main", 2.0), StageTime("decode", "decode", 3.0))
    example = Measured(
        labeler="dinoiser",
        pack="embedded",
        device="cuda",
        precision="bf16",
        compiled=False,
        batch_size=16,
        workers=8,
        threads=2,
        torch="2",
        classes=19,
        photos=20,
        megapixels=0.3,
        rounds=3,
        seconds=8.0,
        bound_seconds=6.0,
        stages=stages,
        stages_seconds=8.0,
        calls=(Made("DenseClip.dense", "4 x 3 x 448 x 448", 5),),
        resident_mb=1234.5,
        gpu_mb=600.0,
        start_up=StartUp(5.0, {"import": 3.0, "first photo": 2.0}),
    )
    return replace(example, **changes)


def test_the_table_shows_shares_of_the_wall_clock() -> None:
    assert list(rows(measured())) == [
        ("forward", "main thread", 6.0, "75.0%"),
        ("rest", "main thread", 2.0, "25.0%"),
        ("whole", "", 8.0, "100.0%"),
        ("decode", "meanwhile, in other processes", 3.0, ""),
        ("networks alone", "the bound", 6.0, ""),
    ]
    speed, first, memory = result_lines(measured())
    assert speed == "2.50 photos/s: the run takes 75% of the bound's speed (3.33 photos/s)"
    assert first == "first mask: 5.0 s after the command (import 3.0, first photo 2.0)"
    assert memory == "peak memory: 1,234 MB resident, 600 MB of the GPU"


def test_a_labeler_without_networks_has_no_bound() -> None:
    bare = measured(bound_seconds=None, calls=(), gpu_mb=None, workers=0)
    speed, _, memory = result_lines(bare)
    assert speed == "2.50 photos/s; there is no bound, for this labeler calls no network"
    assert memory == "peak memory: 1,234 MB resident"
    assert [name for name, *_ in rows(bare)] == ["forward", "rest", "whole", "decode"]
    assert [where for name, where, *_ in rows(bare) if name == "decode"] == ["meanwhile, in a thread"]
    assert bare.to_json()["bound_share"] is None
    assert_drawn(draw_bench(bare))


def test_a_longer_stage_has_a_longer_bar() -> None:
    pictures = [
        np.asarray(draw_bench(measured(stages=stages))) for stages in (stages_of(6.0, 2.0), stages_of(6.0, 4.0))
    ]
    blue = [int((picture == (0, 114, 178)).all(axis=2).sum()) for picture in pictures]
    assert blue[1] == pytest.approx(blue[0] * (6 + 4) / (6 + 2), rel=0.01)


def stages_of(forward: float, rest: float) -> tuple[StageTime, ...]:
    return StageTime("forward", "main", forward), StageTime("rest", "main", rest)


def test_threads_of_one_kind_are_one_and_the_rest_is_what_is_left() -> None:
    spent = {("MainThread", "write"): 1.0, ("decode_0", "decode"): 2.0, ("decode_11", "decode"): 4.0}
    assert stage_times(spent, 5.0) == (
        StageTime("write", "main", 1.0),
        StageTime("rest", "main", 4.0),
        StageTime("decode", "decode", 6.0),
    )


def test_photos_are_repeated_in_turn(tmp_path: Path) -> None:
    write_photos(tmp_path, ["a.jpg", "b.png"])
    files, folder = sorted(tmp_path.iterdir()), tmp_path / "many"
    link_photos(files, folder, 9)
    link_photos(files, folder, 3)
    assert {each.name: each.resolve().name for each in folder.iterdir()} == {
        "000000.jpg": "a.jpg",
        "000001.png": "b.png",
        "000002.jpg": "a.jpg",
    }


def test_peak_memory_rises_with_what_is_held() -> None:
    code = (
        "from annotator.bench.measure import peak_resident_mb; import numpy; before = peak_resident_mb(); "
        "held = numpy.ones(300_000_000, dtype=numpy.uint8); print(peak_resident_mb() - before)"
    )
    grown = subprocess.run(python("-c", code), env=environment(), stdout=subprocess.PIPE, text=True, check=True).stdout
    assert 280 < float(grown) < 400


def assert_drawn(picture: Image.Image) -> None:
    pixels = np.asarray(picture.convert("RGB"))
    drawn = (pixels != PAPER).any(axis=2)
    assert pixels.shape[1] > 800
    assert 0.05 < drawn.mean() < 0.9
    assert drawn[: len(drawn) // 4].any()
    assert drawn[-len(drawn) // 4 :].any()
