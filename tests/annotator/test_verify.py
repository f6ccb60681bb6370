"""`annotate status --verify`: damage is found wherever it is, set aside, and labelled again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_runs import PLUGINS, VOCAB, Answer, annotate_here, rows, write_photos

from annotator import cli, ledger
from annotator.locks import acquire
from annotator.run import part_files

Annotate = Callable[..., Answer]
RUN = (
    "run",
    "--labeler",
    "bands",
    "--pack",
    "embedded",
    "--vocab",
    VOCAB,
    "--images",
    "photos",
    "--workers",
    "0",
    "-q",
)
NAMES = [f"{number:02d}.png" for number in range(12)]


@pytest.fixture
def annotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Annotate:
    """In a folder with a run of six parts, of which the first three or all share a ledger."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("annotator.run.PART_ROWS", 2)
    monkeypatch.setattr(ledger, "LEDGER_PARTS", 4)
    write_photos(tmp_path / "photos", NAMES)

    def call(*arguments: str) -> Answer:
        return annotate_here(arguments, monkeypatch, capsys)

    assert call(*RUN, "--out", "run").code == 0
    assert len(part_files(tmp_path / "run")) == 6
    assert len(list((tmp_path / "run/ledger").iterdir())) == 1
    return call


def damage(part: Path) -> None:
    """Some bytes of the first page; size and time of writing stay, as where a disk forgets."""
    status, content = part.stat(), bytearray(part.read_bytes())
    content[40:60] = bytes(20)
    part.write_bytes(content)
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_whole_run_has_none(annotate: Annotate) -> None:
    answer = annotate("status", "run", "--verify")
    assert answer.code == 0
    assert answer.out.startswith("every part holds what was written\n")
    assert "12 photos" in answer.out


@pytest.mark.parametrize("numbers", [(0,), (5,), (1, 4), (0, 1, 2, 3, 4, 5)])
def test_damaged_parts_are_named_and_their_photos_labelled_again(
    annotate: Annotate, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    """In a ledger or not; the good parts stay as they are."""
    before, parts = rows(tmp_path / "run"), part_files(tmp_path / "run")
    good = {part: part.read_bytes() for number, part in enumerate(parts) if number not in numbers}
    for number in numbers:
        damage(parts[number])
    answer = annotate("status", "run", "--verify")
    assert answer.code == cli.EXIT_SOME_FAILED
    *named, last = answer.out.splitlines()
    assert [line.split(": damaged (")[0] for line in named] == [str(Path("run/parts") / parts[n].name) for n in numbers]
    assert f"{len(numbers)} part" in last
    assert "labels their photos again" in last
    assert [part.name for part in part_files(tmp_path / "run")] == [part.name for part in good]
    assert annotate(*RUN, "--out", "run").code == 0
    assert rows(tmp_path / "run") == before
    assert {part: part.read_bytes() for part in good} == good
    assert annotate("status", "run", "--verify").code == 0


def test_while_it_is_written_damage_is_only_named(annotate: Annotate, tmp_path: Path) -> None:
    parts = part_files(tmp_path / "run")
    damage(parts[3])
    lock = acquire(tmp_path / "run")
    try:
        answer = annotate("status", "run", "--verify")
    finally:
        lock.release()
    assert answer.code == cli.EXIT_SOME_FAILED
    assert "part-000003.parquet: damaged (" in answer.out
    assert "1 part is damaged, but the run is being written or cannot be; nothing was changed" in answer.out
    assert part_files(tmp_path / "run") == parts


@pytest.mark.parametrize("command", [("export", "run", "--format", "coco"), ("report", "run")])
def test_who_meets_damage_says_what_to_do(annotate: Annotate, tmp_path: Path, command: tuple[str, ...]) -> None:
    damage(part_files(tmp_path / "run")[2])
    answer = annotate(*command)
    assert answer.code == cli.EXIT_USAGE
    assert "part-000002.parquet: damaged (" in answer.complaint
    assert "`annotate status --verify`" in answer.complaint
