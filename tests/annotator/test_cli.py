"""The command line from end to end, on small photos and the embedded pack: what it prints, writes and returns."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from helpers_processes import PATIENCE
from helpers_runs import Answer, annotate_here
from PIL import Image

from annotator import cli
from annotator.run import open_run

SMALL = ("--set", "short_side=64", "--set", "window=64", "--set", "stride=32")
RUN = ("run", "--images", "photos", "--labeler", "maskclip", "--pack", "embedded", "--workers", "0", *SMALL)
SIZES = {"a.jpg": (60, 90), "b.png": (75, 64), "sub/c d.png": (64, 64)}  # height, width


Annotate = Callable[..., Answer]


@pytest.fixture
def annotate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Annotate:
    """annotate("run", "--quiet"): as in a shell, but in this process."""

    def call(*arguments: str) -> Answer:
        return annotate_here(arguments, monkeypatch, capsys)

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with three photos and class names."""
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 255, (10, 10, 3), dtype=np.uint8).repeat(10, axis=0).repeat(10, axis=1)
        Image.fromarray(blocks[: size[0], : size[1]]).save(path)
    (tmp_path / "classes.txt").write_text("background\ndog, puppy\ncat\nbus\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_photos_to_scores(folder: Path, annotate: Annotate) -> None:
    answer = annotate(*RUN)
    assert answer.code == 0, answer.err
    assert "maskclip · pack embedded · 4 classes" in answer.err
    assert "3 photos labelled" in answer.out
    run = "runs/photos-maskclip"
    assert f"next: annotate export {run}" in answer.out
    records = {record.path: record for record in open_run(run).records()}
    assert {path: record.size for path, record in records.items()} == SIZES

    answer = annotate(*RUN)  # resumed: nothing to do
    assert answer.code == 0
    assert "resuming: 3 photos are finished" in answer.err
    assert "nothing was left to do" in answer.out

    answer = annotate("status", run)
    assert answer.code == 0
    assert "3 photos labelled" in answer.out

    answer = annotate("export", run, "--format", "coco", "--out", "labels.json", "--segmentation", "rle")
    assert answer.code == 0, answer.err
    coco = json.loads((folder / "labels.json").read_text())
    assert [(each["file_name"], each["height"], each["width"]) for each in coco["images"]] == [
        (path, *size) for path, size in SIZES.items()
    ]
    ids = {each["name"]: each["id"] for each in coco["categories"]}
    areas = {
        (path, ids[segment.label]): segment.area
        for path, record in records.items()
        for segment in record.segments
        if segment.label != "background"
    }
    names = {each["id"]: each["file_name"] for each in coco["images"]}
    found = {(names[each["image_id"]], each["category_id"]): each["area"] for each in coco["annotations"]}
    assert found == areas

    answer = annotate("export", run, "--format", "mask-png", "--out", "masks")
    assert answer.code == 0, answer.err
    mask = np.array(Image.open(next((folder / "masks").rglob("c d.png"))))
    assert mask.shape == SIZES["sub/c d.png"]
    np.testing.assert_array_equal(mask, records["sub/c d.png"].prediction().class_map())

    answer = annotate("eval", run, "--truth", "masks")  # its own masks are the truth
    assert answer.code == 0, answer.err
    assert re.search(r"mIoU\s+100\.0", answer.out)
    assert (folder / run / "eval").is_dir()


def test_resume_says_how_many_are_finished(folder: Path, annotate: Annotate) -> None:
    assert annotate(*RUN, "--limit", "2").code == 0
    assert len(open_run("runs/photos-maskclip")) == 2
    answer = annotate(*RUN, "--dry-run")
    assert answer.code == 0
    assert "would label 1 of 3 photos (2 finished)" in answer.out
    assert "short_side: 64" in answer.out
    assert re.search(r"about \S+ s, at \S+ s a photo \(1 tried\); nothing was written", answer.out)
    assert len(open_run("runs/photos-maskclip")) == 2
    answer = annotate(*RUN)
    assert "resuming: 2 photos are finished" in answer.err
    assert len(open_run("runs/photos-maskclip")) == 3


def test_a_bad_photo_costs_itself_only(folder: Path, annotate: Annotate) -> None:
    (folder / "photos" / "torn.jpg").write_bytes((folder / "photos" / "a.jpg").read_bytes()[:200])
    answer = annotate(*RUN)
    assert answer.code == cli.EXIT_SOME_FAILED == 3
    assert "3 photos labelled, 1 failed" in answer.out
    answer = annotate("status", "runs/photos-maskclip", "--failures")
    assert "torn.jpg" in answer.out


def test_quiet_says_nothing(folder: Path, annotate: Annotate) -> None:
    answer = annotate(*RUN, "--quiet", "--limit", "1")
    assert (answer.code, answer.out, answer.err) == (0, "", "")


def test_flags_win_over_a_config_file(folder: Path, annotate: Annotate) -> None:
    (folder / "run.yaml").write_text(
        "images: photos\nlabeler: maskclip\npack: embedded\nvocab: cat, dog\nout: here\nworkers: 0\nlimit: 0\n"
        "settings: {short_side: 64, window: 64, stride: 32}\n"
    )
    assert annotate("run", "--config", "run.yaml", "--limit", "1", "--set", "stride=64").code == 0
    run = open_run("here")
    assert len(run) == 1
    assert run.vocabulary is not None
    assert run.vocabulary.names == ("cat", "dog")
    settings = run.manifest.config["settings"]
    assert (settings["short_side"], settings["stride"]) == (64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--labeler", "maskclap"), "no labeler 'maskclap'; known are maskclip, dinoiser, diy"),
        ((*RUN, "--set", "windw=64"), "no setting 'windw'"),
        ((*RUN, "--set", "window"), "expected NAME=VALUE, but got 'window'"),
        ((*RUN, "--set", "stride=65"), "stride: expected at most window (64)"),
        (
            (*RUN, "--vocab", "none.txt"),
            "none.txt: no such file; a vocabulary is a file with a class per line, or names: 'cat, dog'",
        ),
        ((*RUN, "--vocab", "dog, dog"), "vocabulary, name 2: class 'dog' repeats name 1; remove one"),
        ((*RUN, "--images", "nowhere"), "nowhere"),
        (
            ("run", "--images", "photos/a.jpg", "photos/b.png", "--limit", "1"),
            "--images photos/a.jpg: expected one value, but got 2, as the shell does where a glob is not quoted; "
            "put it in quotes: --images 'photos/*.jpg'",
        ),
        (("run", "photos"), "expected options only, but got 'photos'; name photos with --images"),
        ((*RUN, "--pack", "nothing"), "nothing"),
        ((*RUN, "--device", "cuda:9"), "--device cuda:9: expected auto or one that this machine has"),
        ((*RUN, "--precision", "fp64"), "--precision: expected one of auto, fp32, bf16, but got 'fp64'"),
        ((*RUN, "--batch-size", "0"), "--batch-size: expected at least 1, but got 0"),
        ((*RUN, "--weights", "clap=x.pt"), "--weights clap=FILE: the pack 'embedded' has no such file"),
        ((*RUN, "--config", "none.yaml"), "none.yaml: cannot be read (No such file or directory)"),
        (("export", "nowhere"), "nowhere: no run here (run.json is missing); `annotate run` makes one"),
        (("status", "photos"), "photos: no run here (run.json is missing); `annotate run` makes one"),
        (("labelers", "maskclap"), "no labeler 'maskclap'"),
        (("models", "show", "nothing"), "nothing"),
    ],
)
def test_mistakes_are_one_line(folder: Path, annotate: Annotate, arguments: tuple[str, ...], message: str) -> None:
    answer = annotate(*arguments)
    assert answer.code == cli.EXIT_USAGE == 2
    assert answer.err.startswith("annotate: ")
    assert answer.err.count("\n") == 1
    assert message in answer.err
    assert answer.out == ""
    assert not (folder / "runs").exists()


def test_mistakes_about_a_run(folder: Path, annotate: Annotate) -> None:
    assert annotate(*RUN, "--limit", "1", "-q").code == 0
    assert annotate("export", "runs/photos-maskclip", "--format", "mask-png", "--out", "masks").code == 0
    for arguments, message in (
        ((*RUN, "--vocab", "cat, dog"), "(vocabulary: only the run has 'background', 'bus'"),
        (("export", "runs/photos-maskclip", "--format", "cocoa"), "no export format 'cocoa'; known are coco, mask-png"),
        (
            ("export", "runs/photos-maskclip", "--preset", "voc"),
            "format coco has no --preset, which is for mask-png; leave it out",
        ),
        (("eval", "runs/photos-maskclip", "--truth", "masks", "--metrics", "iou"), "'iou'"),
    ):
        answer = annotate(*arguments)
        assert answer.code == 2, answer
        assert message in answer.err
        assert answer.err.strip().splitlines()[-1].startswith("annotate: ")
        assert "Traceback" not in answer.err
    assert annotate(*RUN, "--vocab", "cat, dog", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--lablr", "x"), "No such option: --lablr"),
        (("run", "--labelr", "x"), "--labeler"),  # what was probably meant
        (("run", "--set"), "Option '--set' requires an argument"),
        (("run", "--batch-size", "x"), "Invalid value for '--batch-size'"),
        (("eval", "--precision", "fp16"), "Invalid value for '--precision'"),
        (("status",), "Missing argument 'RUN'"),
        (("status", "a", "b"), "unexpected extra argument"),
        (("stats",), "No such command 'stats'"),
        (("models", "lst"), "No such command 'lst'"),
        (("train", "heads"), "Missing option '--images'"),
        (("export", "s3x://bucket/run"), "expected a folder or the URL of a known store"),
    ],
)
def test_errors_of_typer_are_one_line_like_all_others(
    annotate: Annotate, arguments: tuple[str, ...], message: str
) -> None:
    answer = annotate(*arguments)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert answer.err.startswith("annotate: ")
    assert message in answer.err


@pytest.mark.parametrize("arguments", [(), ("models",), ("train",)])
def test_no_arguments_show_the_help(annotate: Annotate, arguments: tuple[str, ...]) -> None:
    answer = annotate(*arguments)
    assert answer.code == 2
    assert "Commands" in answer.out + answer.err
    assert "annotate: " not in answer.err


def test_listings(annotate: Annotate) -> None:
    answer = annotate("labelers")
    assert answer.code == 0
    assert {"maskclip", "dinoiser", "diy"} <= {line.split()[0] for line in answer.out.splitlines()}
    assert "gamma: 0.2" in annotate("labelers", "dinoiser").out
    assert "--set NAME=VALUE" in annotate("labelers", "dinoiser").out
    answer = annotate("models", "list")
    assert answer.code == 0
    assert {"paper", "embedded", "auto"} <= {line.split()[0] for line in answer.out.splitlines() if line.strip()}
    answer = annotate("models", "show", "paper")
    assert answer.code == 0
    assert "laion/CLIP-ViT-B-16-laion2B-s34B-b88K" in answer.out
    assert annotate("models", "show", "embedded").code == 0
    answer = annotate("export", ".", "--format", "list")
    assert answer.code == 0
    assert "mask-png" in answer.out
    assert "segmentation" in answer.out


def test_version(annotate: Annotate) -> None:
    assert annotate("--version") == (0, f"annotate {version('annotate')}\n", "")


def test_debug_shows_the_traceback(folder: Path) -> None:
    """In a shell, since this process would catch it."""
    code = "from annotator.cli import main; main()"
    command = [sys.executable, "-c", code, "status", "nowhere"]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (plain.returncode, plain.stderr.count("\n")) == (2, 1)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert debug.returncode != 0
    assert debug.stderr.startswith("Traceback")
    assert debug.stderr.splitlines()[-1].startswith("annotator.errors.RunError: nowhere: no run here")


def test_our_own_errors_are_one_line_too(annotate: Annotate, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise KeyError("two\nlines")

    monkeypatch.setattr(cli, "app", broken)
    answer = annotate("status", "x")
    assert answer.code == cli.EXIT_ERROR == 1
    assert answer.err == "annotate: internal error: KeyError: 'two\\nlines'; --debug shows the traceback\n"
