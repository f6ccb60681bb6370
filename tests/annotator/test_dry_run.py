"""`--dry-run` and the run itself agree: the same refusal, and as many photos as the run then labels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_runs import PLUGINS, VOCAB, Answer, annotate_here, environment, python, write_photos

NAMES = [f"{number:02d}.png" for number in range(12)]
COMMAND = ("run", "--labeler", "bands", "--pack", "embedded", "--images", "photos", "--out", "run", "--workers", "0")


Annotate = Callable[..., Answer]


@pytest.fixture
def annotate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Annotate:
    """In a folder, as in a shell, but in this process."""
    monkeypatch.syspath_prepend(str(PLUGINS))

    def call(folder: Path, *options: str) -> Answer:
        vocabulary = () if "--vocab" in options else ("--vocab", VOCAB)
        monkeypatch.chdir(folder)
        return annotate_here([*COMMAND, *vocabulary, *options], monkeypatch, capsys)

    return call


def fresh(folder: Path, annotate: Annotate) -> None: ...


def half_done(folder: Path, annotate: Annotate) -> None:
    assert annotate(folder, "--limit", "5", "-q").code == 0


def done(folder: Path, annotate: Annotate) -> None:
    assert annotate(folder, "-q").code == 0


def some_failed(folder: Path, annotate: Annotate) -> None:
    """Three of nine, and one of those that are left is damaged."""
    for name in (*NAMES[2:5], NAMES[10]):
        (folder / "photos" / name).write_bytes(b"")
    assert annotate(folder, "--limit", "9", "-q").code == 3


def some_vanished(folder: Path, annotate: Annotate) -> None:
    """Two with a row, two without, and a new one comes before them."""
    half_done(folder, annotate)
    for name in (*NAMES[1:3], *NAMES[8:10]):
        (folder / "photos" / name).unlink()
    shutil.copy(folder / "photos" / NAMES[0], folder / "photos" / "00a.png")


def failed_vanished(folder: Path, annotate: Annotate) -> None:
    some_failed(folder, annotate)
    (folder / "photos" / NAMES[2]).unlink()


def listed_twice(folder: Path, annotate: Annotate) -> None:
    """A list file that names photos more than once, with a run of half of it."""
    listed_twice_anew(folder, annotate)
    assert annotate(folder, "--images", "photos/list.txt", "--limit", "3", "-q").code == 0


def listed_twice_anew(folder: Path, annotate: Annotate) -> None:
    (folder / "photos" / "list.txt").write_text("".join(f"{name}\n./{name}\n" for name in [*NAMES[:7], NAMES[3]]))


def killed_at_once(folder: Path, annotate: Annotate) -> None:
    (folder / "run" / "parts").mkdir(parents=True)


def foreign(folder: Path, annotate: Annotate) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "letter.txt").write_text("mine")


def file_in_its_place(folder: Path, annotate: Annotate) -> None:
    (folder / "run").write_text("mine")


def file_for_its_parts(folder: Path, annotate: Annotate) -> None:
    half_done(folder, annotate)
    shutil.rmtree(folder / "run" / "parts")
    (folder / "run" / "parts").write_text("mine")


def damaged_manifest(folder: Path, annotate: Annotate) -> None:
    half_done(folder, annotate)
    (folder / "run" / "run.json").write_text("{")


def later_manifest(folder: Path, annotate: Annotate) -> None:
    half_done(folder, annotate)
    manifest = json.loads((folder / "run" / "run.json").read_text())
    (folder / "run" / "run.json").write_text(json.dumps({**manifest, "schema": 99}))


def damaged_part(folder: Path, annotate: Annotate) -> None:
    half_done(folder, annotate)
    next((folder / "run" / "parts").iterdir()).write_bytes(b"PAR1")


LIST = ("--images", "photos/list.txt")
OTHER_VOCABULARY = ("--vocab", "dark, light")
OTHER_SETTINGS = ("--set", "tints=[1, 0, 0]")


@pytest.mark.parametrize(
    ("scene", "options", "labels", "photos"),
    [
        (fresh, (), 12, 12),
        (fresh, ("--limit", "5"), 5, 12),
        (fresh, ("--limit", "0"), 0, 12),
        (fresh, ("--limit", "50"), 12, 12),
        (killed_at_once, (), 12, 12),
        (half_done, (), 7, 12),
        (half_done, ("--limit", "3"), 3, 12),
        (half_done, ("--limit", "8"), 7, 12),
        (half_done, ("--overwrite",), 12, 12),
        (half_done, ("--overwrite", "--limit", "4"), 4, 12),
        (half_done, ("--overwrite", *OTHER_SETTINGS), 12, 12),
        (done, (), 0, 12),
        (done, ("--retry-failed",), 0, 12),
        (some_failed, (), 3, 12),
        (some_failed, ("--retry-failed",), 6, 12),
        (some_failed, ("--retry-failed", "--limit", "4"), 4, 12),
        (some_vanished, (), 6, 9),
        (some_vanished, ("--limit", "2"), 2, 9),
        (failed_vanished, ("--retry-failed",), 5, 11),
        (listed_twice_anew, LIST, 7, 7),
        (listed_twice, LIST, 4, 7),
        (damaged_manifest, ("--overwrite",), 12, 12),
        (damaged_part, (), 12, 12),
        (damaged_part, ("--retry-failed",), 12, 12),
    ],
)
def test_a_dry_run_says_how_many_photos_the_run_labels(
    tmp_path: Path,
    annotate: Annotate,
    scene: Callable[[Path, Annotate], None],
    options: tuple[str, ...],
    labels: int,
    photos: int,
) -> None:
    folder = prepared(tmp_path, annotate, scene)
    before = seen(folder)
    dry = annotate(folder, *options, "--dry-run")
    assert dry.code == 0, dry.err
    said = re.search(r"would label (\d+) of (\d+) photos", dry.out)
    assert said is not None
    assert (int(said[1]), int(said[2])) == (labels, photos)
    assert seen(folder) == before

    real = annotate(folder, *options, "--max-failure-rate", "1")
    assert real.code in (0, 3), real.err
    labelled = re.search(r"^(\d+) photos? in ", real.out, re.MULTILINE)
    assert (int(labelled[1]) if labelled else 0) == labels
    assert (labels == 0) == ("nothing was left to do" in real.out) == ("nothing is left to do" in dry.out)


@pytest.mark.parametrize(
    ("scene", "options", "complaint"),
    [
        (
            done,
            OTHER_VOCABULARY,
            "(vocabulary: only the run has 'middle', 'bright', only this command has 'light'); "
            "--overwrite starts anew, --out DIR keeps both",
        ),
        (half_done, OTHER_VOCABULARY, "only this command has 'light'"),
        (
            half_done,
            OTHER_SETTINGS,
            "(settings.tints: the run has [0.25, 0.5, 0.25], this command has [1.0, 0.0, 0.0])",
        ),
        (half_done, ("--full-decode",), "(full_decode: the run has false, this command has true)"),
        (some_failed, ("--retry-failed", *OTHER_SETTINGS), "settings.tints"),
        (half_done, ("--limit", "1", *OTHER_SETTINGS), "settings.tints"),
        (
            half_done,
            ("--set", "tints=[0.25, 0.5, 0.25]", "--images", "other"),
            "other: expected the photos of the run ",
        ),
        (foreign, (), "run: expected an empty or new folder, but it holds other files; choose another --out"),
        (foreign, ("--overwrite",), "run: expected an empty or new folder"),
        (file_in_its_place, (), "run: cannot be written (Not a directory); choose another --out"),
        (file_in_its_place, ("--overwrite",), "run: cannot be written (Not a directory)"),
        (file_for_its_parts, (), "run: cannot be written (Not a directory)"),
        (damaged_manifest, (), "run/run.json: damaged ("),
        (damaged_manifest, ("--retry-failed",), "run/run.json: damaged ("),
        (later_manifest, (), "run/run.json: expected schema 1, but found 99"),
    ],
)
def test_a_dry_run_refuses_as_the_run_does(
    tmp_path: Path,
    annotate: Annotate,
    scene: Callable[[Path, Annotate], None],
    options: tuple[str, ...],
    complaint: str,
) -> None:
    folder = prepared(tmp_path, annotate, scene)
    before = seen(folder)
    dry = annotate(folder, *options, "--dry-run")
    assert seen(folder) == before
    real = annotate(folder, *options)
    assert complaint in real.complaint
    assert dry.complaint == real.complaint
    assert dry.code == real.code == 2
    assert "would label" not in dry.out
    assert "resuming" not in real.err


HOLD = """
import sys
from pathlib import Path
from annotator.run import Manifest, RunWriter
with RunWriter.open(Path("run"), Manifest.load(Path("run"))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_another_process_writes_is_refused_by_both(tmp_path: Path, annotate: Annotate) -> None:
    folder = prepared(tmp_path, annotate, half_done)
    pipe = subprocess.PIPE
    command, given = python("-c", HOLD), environment()
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=given, cwd=folder, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = seen(folder)
        for options in ((), ("--overwrite",), ("--retry-failed",)):
            dry, real = annotate(folder, *options, "--dry-run"), annotate(folder, *options)
            assert f"run: another process (pid {holder.pid}) is writing this run; wait for it" in real.complaint
            assert dry.complaint == real.complaint
            assert dry.code == real.code == 2
            assert "resuming" not in real.err
        assert seen(folder) == before
        holder.communicate()
    assert annotate(folder, "--dry-run").code == 0


def test_photos_that_cannot_be_labelled_give_no_time(tmp_path: Path, annotate: Annotate) -> None:
    def damaged(folder: Path, annotate: Annotate) -> None:
        for name in NAMES:
            (folder / "photos" / name).write_bytes(b"")

    answer = annotate(prepared(tmp_path, annotate, damaged), "--dry-run")
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == (
        "cannot estimate the time: none of the photos that were tried could be labelled; nothing was written"
    )


def prepared(folder: Path, annotate: Annotate, scene: Callable[[Path, Annotate], None]) -> Path:
    write_photos(folder / "photos", NAMES, (12, 16))
    write_photos(folder / "other", ["new.png"], (12, 16))
    scene(folder, annotate)
    return folder


def seen(folder: Path) -> dict[Path, object]:
    """Everything below a folder, with its content and time of writing."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else sorted(path.iterdir()))
        for path in [folder, *folder.rglob("*")]
    }
