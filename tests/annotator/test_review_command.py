"""`annotate review` where it needs no FiftyOne, and where there is none."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import typer
from reference.open_runs import Labelled, write_run
from typer.testing import CliRunner

from annotator.commands.review import review
from annotator.corrections import Correction, append
from annotator.errors import ConfigError, RunError
from annotator.review.database import open_fiftyone
from annotator.review.server import refuse_taken
from annotator.review.views import rarest
from annotator.run import RunReader
from annotator.vocabulary import Vocabulary

app = typer.Typer()
app.command()(review)


@pytest.fixture
def run(tmp_path: Path) -> RunReader:
    return write_run(tmp_path / "run", {"a.jpg": Labelled([[0]], ["cat"])}, Vocabulary.of(["cat"]))


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_pulls_are_listed_and_undone(run: RunReader) -> None:
    assert said(str(run.directory), "--list") == "nothing was pulled yet\n"
    append(run.directory, [Correction("a.jpg", 1, 1, "reject", False, "x"), Correction("b.jpg", 1, 1, "", True, "x")])
    append(run.directory, [Correction("a.jpg", 1, 1)])
    first, second = said(str(run.directory), "--list").splitlines()
    assert first.startswith("pull 1  20")
    assert first.endswith("  2 photos: 1 edited, 1 reject")
    assert second.endswith("  1 photo: verdicts withdrawn")
    assert "pull 1 is undone" in said(str(run.directory), "--undo", "1")
    assert said(str(run.directory), "--list").splitlines()[0].endswith("1 edited, 1 reject  (undone)")


@pytest.mark.parametrize("flags", [("--pull", "--list"), ("--discard", "--undo", "1")])
def test_one_thing_at_a_time(run: RunReader, flags: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="expected one of --pull, --list, --undo and --discard"):
        said(str(run.directory), *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--export", "set", "--pull"), "expected --export without --pull, --list and --undo"),
        (("--photos", "copy"), "expected --photos with --export"),
    ],
)
def test_a_folder_is_asked_for_alone(run: RunReader, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        said(str(run.directory), *flags)


def test_without_fiftyone_the_static_report_is_named(run: RunReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ConfigError, match=r"pip install 'annotate\[review\]'; .*: annotate report .*run"):
        open_fiftyone(run)


def test_a_taken_port_is_named_before_anything_is_loaded(run: RunReader) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"expected a free port, but {port} cannot be had on 127\.0\.0\.1"):
            said(str(run.directory), "--port", str(port))
    refuse_taken(port)


def test_rare_classes_are_a_tenth_but_some() -> None:
    counts = {f"c{number:03d}": number + 1 for number in range(200)}
    assert rarest(counts) == [f"c{number:03d}" for number in range(20)]
    assert rarest({"dog": 2, "cat": 2, "owl": 1, "elk": 9}) == ["owl", "cat", "dog"]
    assert len(rarest({f"c{number}": 1 for number in range(9000)})) == 50
    assert rarest({}) == []


def test_images_says_where_the_photos_are_now(run: RunReader, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(RunError, match="expected the run's photos, but none of them is there, such as"):
        said(str(run.directory), "--images", str(tmp_path / "elsewhere"), "--export", str(tmp_path / "out"))
    (tmp_path / "elsewhere/a.jpg").touch()
    assert said(str(run.directory), "--images", str(tmp_path / "elsewhere"), "--list") == "nothing was pulled yet\n"
