"""`annotate report --preset` with the embedded pack, on two drawn photos."""

from __future__ import annotations

import json
import os
import shlex
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from annotator import console
from annotator.commands.benchmark import benchmark
from annotator.commands.evaluate import evaluate
from annotator.commands.report import report
from annotator.errors import ConfigError, RunError, WeightsError
from annotator.listing import Listing
from annotator.run import ImageRecord, open_run
from evaluation.benchmarks import load_benchmark
from evaluation.tables import available

pytestmark = pytest.mark.slow

SIZE = (64, 64)
BENCHMARK = """
title: Two streets
photos: 500
images: [photos/*.png]
truth: [{files: truth/*.png, values: "7, 23", ignored: "255"}]
classes: [road, sky]
paper: {maskclip: 25.0}
"""
SMALL = {"short_side": 112, "window": 112, "stride": 56}
"""Quicker than the protocol's."""
KEYS = {**SMALL, "affinity": "clip-keys", "objectness": "none", "threshold": 0.01}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {"maskclip": ("maskclip", SMALL), "keys": ("dinoiser", KEYS)}
ONE_ROW = f"""
title: Streets
paper: A paper
columns: [streets.yaml, voc20]
rows:
  - {{name: MaskCLIP, labeler: maskclip, settings: {json.dumps(SMALL)}, paper: {{streets.yaml: 25.0, voc20: 61.8}}}}
"""
TABLE = f"{ONE_ROW}  - {{name: keys, labeler: dinoiser, settings: {json.dumps(KEYS)}}}\n"


def write_pair(photo: Path, truth: Path, values: np.ndarray, seed: int) -> None:
    for file in (photo, truth):
        file.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(SIZE, Image.Resampling.NEAREST).save(photo)
    Image.fromarray(values.astype(np.uint8)).save(truth)


@pytest.fixture
def streets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a benchmark of two photos, mostly road (7), below a sky (23), and a table."""
    values = np.full(SIZE, 7)
    values[:16] = 23
    for seed, key in enumerate("ab"):
        write_pair(tmp_path / f"data/photos/{key}.png", tmp_path / f"data/truth/{key}.png", values, seed)
    (tmp_path / "streets.yaml").write_text(BENCHMARK)
    (tmp_path / "mine.yaml").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(folder: Path, **options: Any) -> dict[str, Any]:
    """The command, and its table.json."""
    given = {"preset": str(folder / "mine.yaml"), "data": folder / "data", "out": folder / "out", "pack": "embedded"}
    report(**{**given, **options})
    return json.loads((folder / "out" / "table.json").read_text())


def state_of(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in sorted(folder.rglob("*.parquet"))}


def test_cells_equal_eval_benchmark(streets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Subset first: the whole goes on from it, and again labels nothing; missing data is one line."""
    assert call(streets, subset=1)["rows"][0]["cells"]["streets.yaml"]["images"] == 1
    before = state_of(streets / "out")
    table = call(streets)
    out, err = capsys.readouterr()
    whole = state_of(streets / "out")
    assert len(whole) == 2 * len(before) == 4
    assert {file: whole[file] for file in before} == before
    for row, (folder, (labeler, settings)) in zip(table["rows"], ROWS.items(), strict=True):
        run = streets / folder
        benchmark(
            "streets.yaml", streets / "data", labeler=labeler, pack="embedded", settings=settings, out=run, quiet=True
        )
        mine = streets / "out" / row["cells"]["streets.yaml"]["run"]
        scored = json.loads((run / "eval/benchmark.json").read_text())
        assert row["cells"]["streets.yaml"]["value"] == scored["miou"] > 0
        assert (mine / "eval/confusion.csv").read_bytes() == (run / "eval/confusion.csv").read_bytes()
        assert open_run(mine).manifest.config_hash == open_run(run).manifest.config_hash
        weights = {slot: file["sha256"] for slot, file in open_run(run).manifest.pack["roles"].items()}
        assert row["cells"]["streets.yaml"]["weights"] == weights
    ours = table["rows"][0]["cells"]["streets.yaml"]
    assert ours["difference"] == pytest.approx(ours["value"] - 0.25)

    lines = [line for line in err.splitlines() if line.startswith("voc20 is left out, its data is missing: no photo")]
    assert len(lines) == 2  # once per call
    assert "2 of 4 runs; missing data: voc20" in out
    assert f"{100 * ours['value']:.1f} (25.0)" in out
    assert table["rows"][0]["cells"]["voc20"]["value"] is None

    files = sorted(file for file in (streets / "out").iterdir() if file.is_file())
    assert [file.name for file in files] == ["bars.png", "classes-streets.png", "table.json", "table.md"]
    contents = [file.read_bytes() for file in files]
    call(streets)
    assert state_of(streets / "out") == whole
    assert [file.read_bytes() for file in files] == contents
    for link in ("runs/maskclip/streets/eval/confusion.png", "runs/keys/streets/eval/confusion.png"):
        assert f"({link})" in contents[3].decode()
        assert (streets / "out" / link).is_file()
    assert shlex.split(table["command"])[2:8] == [
        "--preset", str(streets / "mine.yaml"), "--data", str(streets / "data"), "--out", str(streets / "out")
    ]  # fmt: skip


def test_fp32_unless_asked_otherwise(streets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this CPU's bf16 were a GPU's, which `auto` would take. The table says what it was."""
    monkeypatch.setattr("annotator.models.packs.resolve_device", lambda name: "cpu")
    monkeypatch.setattr("annotator.models.devices.has_bf16", lambda device: True)
    monkeypatch.setattr("annotator.models.devices.kind_of", lambda device: "cuda")
    (streets / "mine.yaml").write_text(ONE_ROW)
    for given, precision in (({}, "fp32"), ({"precision": "bf16"}, "bf16"), ({"precision": "auto"}, "bf16")):
        folder = streets / f"out-{'-'.join(given.values())}"
        report(preset=str(streets / "mine.yaml"), data=streets / "data", out=folder, pack="embedded", **given)
        table = json.loads((folder / "table.json").read_text())
        cell = table["rows"][0]["cells"]["streets.yaml"]
        assert cell["precision"] == precision
        assert open_run(folder / cell["run"]).manifest.config["precision"] == precision
        assert f"| embedded | {precision} |" in (folder / "table.md").read_text()
        assert table["command"].endswith(f" --precision {given.get('precision', 'fp32')}")


@pytest.mark.stress
@pytest.mark.usefixtures("terminal_signals")
def test_interrupted_table_goes_on(streets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the first row is labelled."""

    class Pressing:
        def begin(self, listing: Listing) -> None: ...

        def __call__(self, record: ImageRecord) -> None:
            if record.path == "a.png":
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(console, "progress", lambda quiet: nullcontext(Pressing()))
        with pytest.raises(typer.Exit) as end:
            call(streets)
    assert end.value.exit_code == 130
    assert not (streets / "out" / "table.md").exists()
    assert not (streets / "out/runs/keys").exists()
    first = state_of(streets / "out")
    assert first
    assert all(row["cells"]["streets.yaml"]["value"] is not None for row in call(streets)["rows"])
    assert {file: content for file, content in state_of(streets / "out").items() if file in first} == first


def test_photos_that_fail(streets: Path) -> None:
    """The table is written, and the exit code says that it is not of all photos."""
    (streets / "data/photos/a.png").write_bytes(b"no picture")
    (streets / "mine.yaml").write_text(ONE_ROW)
    with pytest.raises(typer.Exit) as end:
        call(streets)
    assert end.value.exit_code == 3
    cell = json.loads((streets / "out/table.json").read_text())["rows"][0]["cells"]["streets.yaml"]
    assert (cell["images"], cell["images_failed"]) == (1, 1)


def test_another_table_in_the_same_folder_is_refused(streets: Path) -> None:
    (streets / "mine.yaml").write_text(ONE_ROW)
    call(streets)
    other = ONE_ROW.replace('"stride": 56', '"stride": 56, "threshold": 0.5')
    (streets / "mine.yaml").write_text(other)
    with pytest.raises(RunError, match=r"settings\.threshold: the run has 0\.0, this command has 0\.5"):
        call(streets)
    cell = call(streets, overwrite=True)["rows"][0]["cells"]["streets.yaml"]
    assert open_run(streets / "out" / cell["run"]).manifest.config["settings"]["threshold"] == 0.5


def test_free_text_labels_score_as_annotate_eval(tmp_path: Path) -> None:
    """zeroguide on VOC's layout; `annotate eval` reads the same masks as a folder with a class list."""
    root = tmp_path / "data/VOCdevkit/VOC2012"
    for seed, key in enumerate(("2007_000033", "2011_000006")):
        values = np.zeros(SIZE)
        values[16:, 8:] = 12 + seed
        values[0] = 255
        write_pair(root / f"JPEGImages/{key}.jpg", root / f"SegmentationClass/{key}.png", values, seed)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n2011_000006\n")
    (tmp_path / "mine.yaml").write_text(
        "{title: t, paper: p, columns: [voc21 recall, voc21 tt, voc21 tgq, voc21 st], rows: [{name: full, "
        "labeler: zeroguide, settings: {patches: 8, segments: 6}, paper: {voc21 st: [17.5, 19.6]}}]}"
    )
    cells = call(tmp_path)["rows"][0]["cells"]
    (tmp_path / "classes.txt").write_text("\n".join(load_benchmark("voc21").classes))
    evaluate(
        tmp_path / "out/runs/full/voc21",
        root / "SegmentationClass",
        "st,tt,recall,tgq",
        tmp_path / "classes.txt",
        tmp_path / "eval",
    )
    found = json.loads((tmp_path / "eval/open.json").read_text())
    by = {result["by"]: result for result in found["results"]}
    assert {name: cell["value"] for name, cell in cells.items()} == {
        "voc21 st": by["st"]["iou"],
        "voc21 recall": by["st"]["recall"],
        "voc21 tt": by["tt"]["iou"],
        "voc21 tgq": found["tgq"]["share"],
    }
    assert found["tgq"]["segments"] == 2
    assert cells["voc21 st"]["images"] == 2
    assert {"clip", "dino", "phrases", "sentence"} <= cells["voc21 st"]["weights"].keys()  # whoever labelled or scored
    assert "(17.5–19.6)" in (tmp_path / "out/table.md").read_text()


def test_a_rows_own_weights_win(streets: Path) -> None:
    (streets / "mine.yaml").write_text(ONE_ROW.replace("settings", "weights: {clip: own.safetensors}, settings"))
    with pytest.raises(WeightsError, match=r"own\.safetensors"):
        call(streets, weights=["clip=given.safetensors"])
    (streets / "mine.yaml").write_text(ONE_ROW)
    with pytest.raises(WeightsError, match=r"given\.safetensors"):
        call(streets, weights=["clip=given.safetensors"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": None}, "expected RUN for its web pages, or --preset"),
        ({"run": Path("runs")}, "expected RUN for its web pages, or --preset"),
        ({"preset": "voc"}, "no table 'voc'"),
        ({"data": None}, "expected --data, the folder that holds the benchmarks, but got none"),
        ({"data": Path("nowhere")}, "but got nowhere"),
        ({"subset": 0}, "subset: expected at least 1"),
    ],
)
def test_mistakes(streets: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(streets, **change)


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ("name: a, labeler: zeroguide", "cityscapes", "zeroguide names its own classes, so .* by miou"),
        ("name: a, labeler: maskclip", "cityscapes st", "maskclip takes class names, so .* by st"),
        ("name: a, labeler: maskclip, settings: {gama: 1}", "cityscapes", "labeler maskclip has no setting 'gama'"),
        ("name: a, labeler: nobody", "cityscapes", "nobody"),
        ("name: a, labeler: maskclip", "cityscape", "no benchmark 'cityscape'"),
    ],
)
def test_a_table_that_cannot_be_is_refused_at_once(streets: Path, row: str, column: str, message: str) -> None:
    rows = f"{{name: good, labeler: maskclip, columns: [voc20]}}, {{{row}, columns: [{column}]}}"
    (streets / "mine.yaml").write_text(f"{{title: t, paper: p, columns: [voc20, {column}], rows: [{rows}]}}")
    with pytest.raises(ConfigError, match=message):
        call(streets)
    assert not (streets / "out").exists()


def test_no_data_at_all(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each benchmark is one line that says what was looked for; the table has the paper's figures alone."""
    (tmp_path / "empty").mkdir()
    table = call(streets, data=tmp_path / "empty")
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in err.splitlines()] == ["streets.yaml is left out", "voc20 is left out"]
    assert "empty/photos/*.png" in err
    assert "0 of 4 runs; missing data: streets.yaml, voc20" in out
    assert all(cell["value"] is None for row in table["rows"] for cell in row["cells"].values())
    assert not (streets / "out/runs").exists()


def test_flags_and_list(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    listed = CliRunner().invoke(app, ["--preset", "list"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()[1:]] == available()
    refused = CliRunner().invoke(app, ["--preset", "diy-table3", "--data", str(tmp_path), "--weights", "clip"])
    assert isinstance(refused.exception, ConfigError)
    assert "expected NAME=VALUE, but got 'clip'" in str(refused.exception)
