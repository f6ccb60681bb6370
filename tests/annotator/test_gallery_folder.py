"""The folder that `annotate report` writes: replaced as a whole, never another's; and the command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers_gallery import names_on, write_hostile_run, write_plain_run
from helpers_processes import PATIENCE
from helpers_runs import ROOT, environment, python, write_photos

from annotator.commands.report import report
from annotator.corrections import Correction, append
from annotator.errors import ConfigError
from annotator.gallery.report import make_report


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_report_takes_the_place_of_the_first(tmp_path: Path) -> None:
    run, out = write_plain_run(tmp_path, {"a": [(1, 1)], "b": []}), tmp_path / "report"
    make_report(run, out)
    first = everything(out)
    make_report(run, out)
    second = everything(out)
    assert {name.replace("files-2", "files-1") for name in second} == set(first)
    assert second["index.html"].replace(b"files-2", b"files-1") == first["index.html"]
    make_report(run, tmp_path / "again")
    assert everything(tmp_path / "again") == first


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = write_plain_run(tmp_path, {"a": [(1, 1)], "b": []}), tmp_path / "report"
    make_report(run, out)
    before = everything(out)

    def stop(stage: str, share: float, detail: str) -> None:
        if stage == "drawing" and share == 1:
            assert (out / "files-2").is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_report(run, out, report=stop)
    assert everything(out) == before


KILLED = """
import os, sys
from pathlib import Path
from annotator.gallery.report import make_report
from annotator.gallery.survey import confidence
from annotator.run import open_run
def stop(stage, share, detail):
    if stage == "drawing":
        os.kill(os.getpid(), 9)
make_report(open_run(sys.argv[1]), Path(sys.argv[2]), report=stop)
"""


@pytest.mark.stress
def test_a_killed_report_leaves_the_old_one_and_is_cleared_away(tmp_path: Path) -> None:
    run, out = write_plain_run(tmp_path, {"a": [(1, 1)], "b": []}), tmp_path / "report"
    make_report(run, out)
    before = everything(out)
    killed = subprocess.run(python("-c", KILLED, run.directory, out), env=environment(), check=False, timeout=PATIENCE)
    assert killed.returncode == -9
    assert {name: content for name, content in everything(out).items() if "files-2" not in name} == before
    assert (out / "files-2").is_dir()
    make_report(run, out)
    assert {path.name for path in out.iterdir()} == {"index.html", "files-3"}


def test_folders_that_are_not_ours_stay(tmp_path: Path) -> None:
    run = write_plain_run(tmp_path, {"a": [(1, 1)]})
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    (other / "index.html").write_text("my page")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"expected a report, but its index\.html is something else"):
            make_report(run, other, overwrite=overwrite)
    (other / "index.html").unlink()
    with pytest.raises(ConfigError, match=r"expected an empty or new folder, but it holds thesis\.txt"):
        make_report(run, other)
    assert {path.name for path in other.iterdir()} == {"thesis.txt"}
    with pytest.raises(ConfigError, match="cannot be made a folder"):
        make_report(run, other / "thesis.txt")
    write_photos(tmp_path / "photos", ["a.png"])
    with pytest.raises(ConfigError, match="expected a folder apart from the photos"):
        make_report(run, tmp_path / "photos")


def test_another_runs_report_stays_unless_asked(tmp_path: Path) -> None:
    out = tmp_path / "report"
    first = write_hostile_run(tmp_path)
    second = write_plain_run(tmp_path, {"a": [(1, 1)]})
    make_report(first, out)
    make_report(first, out)  # whose hash needs escaping
    with pytest.raises(ConfigError, match="holds the report of another run; --overwrite takes its place"):
        make_report(second, out)
    make_report(second, out, overwrite=True)
    assert names_on(out / "index.html") == ["a"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    run, out = write_plain_run(tmp_path, {"a": [(1, 1)]}), tmp_path / "report"
    refused = []

    def second(stage: str, share: float, detail: str) -> None:
        with pytest.raises(ConfigError, match="another process is writing this report"):
            make_report(run, out)
        refused.append(stage)

    make_report(run, out, report=second)
    assert refused
    assert {path.name for path in out.iterdir()} == {"index.html", "files-1"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_plain_run(tmp_path, {"a": [(1, 1)], "b": []})
    report(run.directory)
    shown = capsys.readouterr().out
    assert f"2 photos on 1 page → {run.directory / 'report' / 'index.html'}" in shown
    assert "2 photos are shown as masks alone" in shown
    report(run.directory, tmp_path / "report", sort="confidence", limit=1)
    assert names_on(tmp_path / "report" / "index.html") == ["b"]


def test_what_a_person_rejected_is_not_shown(tmp_path: Path) -> None:
    run = write_plain_run(tmp_path, {"a": [(1, 1)], "b": []})
    first = next(iter(run.records()))
    append(run.directory, [Correction(first.path, first.width, first.height, "reject")])
    report(run.directory)
    assert names_on(run.directory / "report" / "index.html") == ["b"]


def test_the_package_brings_its_files() -> None:
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = ROOT / "annotator" / "gallery"
    brought = {path for pattern in patterns["annotator.gallery"] for path in folder.glob(pattern)}
    assert brought == {path for path in folder.rglob("*") if path.suffix in (".html", ".css", ".js")}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """Six times the photos take less than 30 MB more."""
    peaks = []
    for count in (500, 3000):
        run = write_plain_run(tmp_path / str(count), {f"{n:05d}": [(1, 0.5), (2, 0.1)] for n in range(count)})
        code = (
            "import resource, sys; from pathlib import Path; from annotator.gallery.report import make_report;"
            "from annotator.run import open_run; make_report(open_run(sys.argv[1]), Path(sys.argv[2]));"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            python("-c", code, run.directory, tmp_path / f"report{count}"),
            env=environment(),
            check=True,
            capture_output=True,
            timeout=200,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 30_000
