"""`annotate eval --benchmark` with the ordinary pipeline and the embedded pack, on two drawn photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from annotator.commands.benchmark import benchmark, check
from annotator.commands.evaluate import evaluate
from annotator.errors import ConfigError, RunError
from annotator.run import open_run

pytestmark = pytest.mark.slow

KEYS = ("frankfurt/frankfurt_000000_000294", "lindau/lindau_000000_000019")
SIZE = (64, 64)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Two photos of noise in Cityscapes' layout; the truth of the first is road (7), of the second sky (23)."""
    root = tmp_path / "data"
    for number, (key, value) in enumerate(zip(KEYS, (7, 23), strict=True)):
        photo, truth = root / f"leftImg8bit/val/{key}_leftImg8bit.png", root / f"gtFine/val/{key}_gtFine_labelIds.png"
        photo.parent.mkdir(parents=True)
        truth.parent.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(photo)
        Image.fromarray(np.full(SIZE, value, dtype=np.uint8)).save(truth)
    return root


def test_subset_then_whole(cityscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole resumes the subset's run; the protocol's settings are in the manifest, and the flag wins."""
    settings = {"threshold": 0.01}
    options = {"labeler": "maskclip", "pack": "embedded", "out": tmp_path / "run", "quiet": True, "settings": settings}
    benchmark("cityscapes", cityscapes, subset=1, **options)  # type: ignore[arg-type]
    first = [record.path for record in open_run(tmp_path / "run")]
    assert first == [f"{KEYS[0]}_leftImg8bit.png"]
    result = json.loads((tmp_path / "run/eval/benchmark.json").read_text())
    assert (result["images"], result["photos_there"], result["photos_of_benchmark"]) == (1, 2, 500)
    assert result["paper_miou"] == 0.25
    part = next((tmp_path / "run/parts").iterdir())
    before = part.read_bytes()

    benchmark("cityscapes", cityscapes, **options)  # type: ignore[arg-type]
    run = open_run(tmp_path / "run")
    assert [record.path for record in run] == [f"{key}_leftImg8bit.png" for key in KEYS]
    assert part.read_bytes() == before
    assert run.manifest.state == "complete"
    assert run.vocabulary is not None
    assert run.vocabulary.names[:2] == ("road", "sidewalk")
    used = run.manifest.config["settings"]
    assert (used["short_side"], used["long_side"], used["window"], used["stride"]) == (448, 2048, 448, 224)
    assert used["threshold"] == 0.01

    maps = [record.prediction().class_map() for record in run]
    hits = [int((maps[0] == 0).sum()), int((maps[1] == 10).sum())]
    result = json.loads((tmp_path / "run/eval/benchmark.json").read_text())
    report = json.loads((tmp_path / "run/eval/metrics.json").read_text())
    assert report["pixel_accuracy"] == pytest.approx(sum(hits) / (2 * SIZE[0] * SIZE[1]))
    assert result["miou"] == report["miou"]
    printed = capsys.readouterr().out
    assert "maskclip (embedded, fp32)" in printed
    assert "25.0" in printed

    with pytest.raises(RunError, match="overwrite"):
        benchmark("cityscapes", cityscapes, **{**options, "settings": {"threshold": 0.2}})  # type: ignore[arg-type]


def test_fp32_unless_asked_otherwise(
    cityscapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if this CPU's bf16 were a GPU's, which `auto` would take. The precision is written beside the score."""
    monkeypatch.setattr("annotator.models.packs.resolve_device", lambda name: "cpu")
    monkeypatch.setattr("annotator.models.devices.has_bf16", lambda device: True)
    monkeypatch.setattr("annotator.models.devices.kind_of", lambda device: "cuda")
    app = typer.Typer()
    app.command()(evaluate)
    given = ["--benchmark", "cityscapes", "--data", str(cityscapes), "--labeler", "maskclip", "--pack", "embedded"]
    given += ["--subset", "1", "--set", "short_side=64", "--set", "window=64", "--set", "stride=32"]

    def written(*arguments: str) -> tuple[str, str]:
        folder = tmp_path / "-".join(["run", *arguments])
        done = CliRunner().invoke(app, [*given, "--out", str(folder), *arguments], catch_exceptions=False)
        assert done.exit_code == 0
        result = json.loads((folder / "eval/benchmark.json").read_text())
        assert f"maskclip (embedded, {result['precision']})" in (folder / "eval/benchmark.md").read_text()
        assert "precision,miou" in (folder / "eval/benchmark.csv").read_text()
        return result["precision"], open_run(folder).manifest.config["precision"]

    assert written() == ("fp32", "fp32")
    assert written("--precision", "bf16") == ("bf16", "bf16")
    assert written("--precision", "auto") == ("bf16", "bf16")
    refused = CliRunner().invoke(app, [*given, "--precision", "fp16"])
    assert refused.exit_code == 2
    assert "fp16" in refused.output


def test_check(cityscapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check("cityscapes", cityscapes)
    assert "2 of the benchmark's 500 photos are there" in capsys.readouterr().out
    (cityscapes / f"gtFine/val/{KEYS[1]}_gtFine_labelIds.png").unlink()
    with pytest.raises(typer.Exit) as end:
        check("cityscapes", cityscapes)
    assert end.value.exit_code == 2
    printed = capsys.readouterr().out
    assert f"{KEYS[1]}_gtFine_labelIds.png: missing" in printed
    assert "1 problem; cityscapes cannot be scored" in printed


@pytest.mark.parametrize(
    ("labeler", "message"),
    [
        ("zeroguide", "zeroguide names its own classes, but cityscapes gives them"),
        ("diy", "diy needs a background class, and cityscapes has none"),
        ("no-such", "no-such"),
    ],
)
def test_labelers_that_do_not_fit(labeler: str, message: str, cityscapes: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark("cityscapes", cityscapes, labeler=labeler, pack="embedded")
