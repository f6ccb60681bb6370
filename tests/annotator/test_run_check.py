"""What keeps a run from being begun or resumed: said by reading alone, and the same whoever asks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_runs import environment, manifest, python

from annotator.differences import differences
from annotator.errors import RunError
from annotator.run import ImageRecord, Manifest, RunWriter
from annotator.run_check import check_run
from annotator.vocabulary import Vocabulary


def with_classes(*lines: str, **config: object) -> Manifest:
    """lines: of classes.txt."""
    vocabulary = Vocabulary.of(lines)
    return replace(manifest(vocabulary=vocabulary.fingerprint(), **config), vocabulary=vocabulary.to_dict())


PAPER, EMBEDDED = {"name": "paper"}, {"name": "embedded"}


@pytest.mark.parametrize(
    ("run", "command", "sentences"),
    [
        (
            manifest(settings={"threshold": 0.0, "affinity": "k", "sizes": (1, 2)}),
            manifest(settings={"threshold": 0.3, "affinity": "k", "sizes": (1, 2)}),
            ["settings.threshold: the run has 0.0, this command has 0.3"],
        ),
        (
            manifest(images="/a", precision="fp32", full_decode=False),  # as older versions wrote it down
            manifest(precision="bf16", full_decode=True, compile=True),
            [
                "compile: the run has none, this command has true",
                "full_decode: the run has false, this command has true",
                "precision: the run has fp32, this command has bf16",
            ],
        ),
        (
            with_classes("cat", "dog", "bus", "sky", "sea", "car", "hat"),
            with_classes("dog", "tree, shrub"),
            ["vocabulary: only the run has 'cat', 'bus', 'sky', 'sea' and 2 more, only this command has 'tree'"],
        ),
        (
            with_classes("cat", "dog"),
            with_classes("dog", "cat"),
            ["vocabulary: the classes come in another order"],
        ),
        (
            with_classes("cat", "dog, puppy"),
            with_classes("cat, kitten", "dog, hound"),
            ["vocabulary: 'cat', 'dog' with other prompts"],
        ),
        (
            with_classes("cat", labeler="bands", settings={"a": 1}, weights={"clip": "x"}),
            manifest(labeler="shades", settings={"b": 2}, weights={}, vocabulary=None),
            [
                "labeler: the run has bands, this command has shades",
                "vocabulary: the run has 1 class, this command has none",
            ],
        ),
        (
            replace(manifest(weights={"clip": "a" * 64, "dino": "b" * 64}), pack=PAPER),
            replace(manifest(weights={"clip": "c" * 64, "dino": "b" * 64}), pack=PAPER),
            ["weights.clip (SHA-256): the run has aaaaaaaaaaaa, this command has cccccccccccc"],
        ),
        (
            replace(manifest(weights={"clip": "a" * 64, "dino": "b" * 64}), pack=PAPER),
            replace(manifest(weights={"clip": "c" * 64, "dino": "d" * 64}), pack=EMBEDDED),
            ["pack: the run has paper, this command has embedded"],
        ),
    ],
)
def test_differences_are_named_with_both_values(run: Manifest, command: Manifest, sentences: list[str]) -> None:
    config, vocabulary = json.loads(json.dumps([run.config, run.vocabulary]))
    back = replace(run, config=config, vocabulary=vocabulary)  # as run.json gives it
    assert differences(back, command) == sentences
    assert differences(back, run) == []


def seen(folder: Path) -> dict[Path, object]:
    """Everything below a folder, with its content and time of writing."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else sorted(path.iterdir()))
        for path in [folder, *folder.rglob("*")]
    }


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises(RunError) as caught:
        ask()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nothing(folder: Path) -> None: ...


def foreign(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "photo.jpg").write_text("mine")


def file_in_its_place(folder: Path) -> None:
    (folder / "out").write_text("")


def file_for_its_parts(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "parts").write_text("")


def folder_for_its_lock(folder: Path) -> None:
    begun(folder)
    (folder / "out" / "run.lock").unlink()
    (folder / "out" / "run.lock").mkdir()


def begun(folder: Path) -> None:
    with RunWriter.open(folder / "out", manifest()) as writer:
        writer.write(ImageRecord("a.jpg", "failed", error="damaged"))


def otherwise(folder: Path) -> None:
    RunWriter.open(folder / "out", manifest(threshold=0.0)).close()


def damaged(folder: Path) -> None:
    begun(folder)
    (folder / "out" / "run.json").write_text("{")


def later_version(folder: Path) -> None:
    begun(folder)
    (folder / "out" / "run.json").write_text('{"schema": 7}')


def killed_at_once(folder: Path) -> None:
    (folder / "out" / "parts").mkdir(parents=True)


@pytest.mark.parametrize(
    ("scene", "message", "when_overwriting"),
    [
        (nothing, None, None),
        (begun, None, None),
        (killed_at_once, None, None),
        (foreign, "expected an empty or new folder", "expected an empty or new folder"),
        (file_in_its_place, "cannot be written (Not a directory)", "cannot be written (Not a directory)"),
        (file_for_its_parts, "cannot be written (Not a directory)", "cannot be written (Not a directory)"),
        (folder_for_its_lock, "cannot be written (Is a directory)", "cannot be written (Is a directory)"),
        (otherwise, "this run was made with other options (threshold: the run has 0.0, this command has none)", None),
        (damaged, "damaged", None),
        (later_version, "expected schema 1, but found 7", None),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_check_says_what_opening_says_and_writes_nothing(
    tmp_path: Path,
    scene: Callable[[Path], None],
    message: str | None,
    when_overwriting: str | None,
    overwrite: bool,
) -> None:
    scene(tmp_path)
    before = seen(tmp_path)
    expected = when_overwriting if overwrite else message
    if expected is None:
        check_run(tmp_path / "out", manifest(), overwrite=overwrite)
    else:
        found = refusal(lambda: check_run(tmp_path / "out", manifest(), overwrite=overwrite))
        assert expected in found
        assert refusal(lambda: RunWriter.open(tmp_path / "out", manifest(), overwrite=overwrite)) == found
    assert seen(tmp_path) == before
    if expected is None:
        RunWriter.open(tmp_path / "out", manifest(), overwrite=overwrite).close()


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may write to."""
    folder = tmp_path / "sealed"
    folder.mkdir()
    folder.chmod(0o500)
    yield folder
    folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("below", ["", "run", "a/b/c"])
def test_a_folder_without_the_right_to_write_is_refused_beforehand(sealed: Path, below: str) -> None:
    found = refusal(lambda: check_run(sealed / below, manifest()))
    assert "cannot be written (Permission denied); choose another --out" in found
    assert refusal(lambda: RunWriter.open(sealed / below, manifest())) == found


HOLD = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from helpers_runs import manifest
from annotator.run import RunWriter
writer = RunWriter.open(Path(sys.argv[1]), manifest())
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_that_is_being_written_is_refused_beforehand(tmp_path: Path) -> None:
    command = python("-c", HOLD, tmp_path / "run", Path(__file__).parent)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment(), text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = seen(tmp_path)
        found = refusal(lambda: check_run(tmp_path / "run", manifest(), overwrite=True))
        assert f"another process (pid {holder.pid}) is writing this run" in found
        assert refusal(lambda: RunWriter.open(tmp_path / "run", manifest(), overwrite=True)) == found
        assert seen(tmp_path) == before
        holder.kill()
    check_run(tmp_path / "run", manifest())
    RunWriter.open(tmp_path / "run", manifest()).close()  # the check left no lock behind
