"""Every file appears whole or not at all, through no link, and with the mode that the umask leaves."""

from __future__ import annotations

import os
import resource
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from helpers_processes import PATIENCE
from helpers_runs import manifest
from PIL import Image
from reference.open_runs import Labelled, write_run

from annotator import relabel
from annotator.corrections import Correction, append, fingerprint, pulls, undo
from annotator.errors import AnnotatorError, ConfigError
from annotator.files import append_text, hidden_name, refuse_leading_out, replace_with_link, replacing, replacing_text
from annotator.models.phrases import PhraseBank, save_phrases
from annotator.models.weights import write_note
from annotator.review.samples import write_mask
from annotator.run import ImageRecord, RunReader, RunWriter
from annotator.training import loop
from annotator.training.curve import Curve
from annotator.training.provenance import hold_to, save_weights
from annotator.vocabulary import Vocabulary
from exporters import base as exporters

CLASSES = Vocabulary.of(["background", "cat"])


def a_run(folder: Path) -> RunReader:
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    Image.new("RGB", (2, 1)).save(photos / "a.jpg")
    run = write_run(folder / "run", {"a.jpg": Labelled([[0, 1]], ["background", "cat"])}, CLASSES)
    return RunReader(run.directory, images=photos)


def correction(run: RunReader) -> Correction:
    (record,) = run.records()
    return Correction("a.jpg", 2, 1, "approve", False, fingerprint(record.segments), ())


@dataclass(frozen=True)
class Recipe:
    steps: int = 1


def write_checkpoint(folder: Path) -> None:
    line = torch.nn.Linear(1, 1)
    loop._save(folder / "checkpoint.pt", line, torch.optim.SGD(line.parameters()), Recipe(), 1)


def write_pull(folder: Path) -> None:
    run = a_run(folder)
    append(run.directory, [correction(run)])


def write_mapping(folder: Path) -> None:
    with relabel._mapping(folder) as write:
        write(["a.jpg", 0, "dog"])


def write_curve(folder: Path) -> None:
    with Curve(folder / "curve.csv", ["loss"]) as curve:
        curve.add(1, {"loss": 0.5})


def export(folder: Path, name: str, out: str) -> None:
    exporters.export(name, a_run(folder), folder / out)


# what writes: the file that it writes, and the names that its temporary file had, or could have, in its folder
WRITERS: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "weights": (lambda folder: save_weights({"a": torch.ones(1)}, folder / "w.safetensors", {}), "w.safetensors", ()),
    "phrases": (
        lambda folder: save_phrases(PhraseBank(["cat"], torch.ones(1, 2)), folder / "p.safetensors", {}),
        "p.safetensors",
        (),
    ),
    "checkpoint": (write_checkpoint, "checkpoint.pt", ("checkpoint.part",)),
    "training's note": (lambda folder: hold_to({"seed": 0}, folder), "made_of.json", ()),
    "curve": (write_curve, "curve.csv", ()),
    "pull": (write_pull, "run/corrections/000001.parquet", (".000001.parquet.tmp",)),
    "mapping": (write_mapping, "mapping.csv", (".mapping.csv.tmp",)),
    "mask of the app": (
        lambda folder: write_mask(folder / "app", "mask", "a.jpg", np.zeros((1, 2), np.uint8)).rename(folder / "m.png"),
        "m.png",
        (),
    ),
    "coco": (lambda folder: export(folder, "coco", "out.json"), "out.json", (".out.json.{pid}.tmp",)),
    "mask": (lambda folder: export(folder, "mask-png", "out"), "out/a.png", (".a.png.{pid}.tmp",)),
    "copy of a photo": (
        lambda folder: exporters.export("mask-png", a_run(folder), folder / "out", {"preset": "voc", "photos": "copy"}),
        "out/JPEGImages/a.jpg",
        (".a.jpg.{pid}.tmp",),
    ),
    "shard": (
        lambda folder: export(folder, "hf-dataset", "out"),
        "out/data/train-00000.parquet",
        (".train-00000.{pid}.tmp",),
    ),
    "lock": (a_run, "run/run.lock", ()),
    "part": (a_run, "run/parts/part-000000.parquet", ()),
    "manifest": (a_run, "run/run.json", ()),
}


@pytest.fixture
def umask() -> Iterator[None]:
    """One that gives others of the group what the owner has."""
    before = os.umask(0o002)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_has_the_mode_that_the_umask_leaves(writer: str, tmp_path: Path) -> None:
    write, name, _ = WRITERS[writer]
    write(tmp_path)
    assert oct(stat.S_IMODE((tmp_path / name).stat().st_mode)) == "0o664"


@pytest.mark.parametrize("writer", [name for name, (_, _, temporary) in WRITERS.items() if temporary])
def test_a_link_at_a_likely_temporary_name_is_not_followed(writer: str, tmp_path: Path) -> None:
    write, name, likely = WRITERS[writer]
    victim, folder = tmp_path / "victim", (tmp_path / "work" / name).parent
    victim.write_text("precious")
    (tmp_path / "work").mkdir()
    a_run(tmp_path / "work")
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in likely:
        (folder / pattern.format(pid=os.getpid())).symlink_to(victim)
    write(tmp_path / "work")
    assert victim.read_text() == "precious"
    assert (tmp_path / "work" / name).is_file()


@pytest.mark.parametrize("writer", [name for name in WRITERS if name not in ("lock", "part", "mask of the app")])
def test_a_link_at_a_files_own_name_is_replaced(writer: str, tmp_path: Path) -> None:
    write, name, _ = WRITERS[writer]
    victim, file = tmp_path / "victim", tmp_path / "work" / name
    victim.write_text("precious")
    (tmp_path / "work").mkdir()
    if writer not in ("pull", "manifest"):  # the first numbers its file by what is there, the second must find a run
        file.parent.mkdir(parents=True, exist_ok=True)
        if writer == "training's note":
            victim.unlink()  # it reads what is there
        file.symlink_to(victim)
    else:
        a_run(tmp_path / "work")
    write(tmp_path / "work")
    assert not file.is_symlink()
    assert file.stat().st_size > 0
    assert not victim.exists() or victim.read_text() == "precious"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def interrupted(opening: AbstractContextManager[IO[Any]], content: bytes | str) -> None:
        with opening as opened:
            opened.write(content)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(replacing(file), b"new")
    with pytest.raises(KeyboardInterrupt):
        interrupted(replacing_text(file), "new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_with_link(tmp_path / "folder", file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]
    assert file.read_text() == "old"


def test_a_name_of_full_length_has_a_temporary_one(tmp_path: Path) -> None:
    for name in ("x" * 255, "猫" * 85):
        with replacing_text(tmp_path / name) as file:
            file.write("whole")
        assert (tmp_path / name).read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing"])
def test_a_hidden_name_that_is_taken_is_left_alone(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody guessed it, against all odds."""
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)
    victim, taken = tmp_path / "victim", hidden_name(tmp_path / "a.txt")
    if kind != "link to nothing":
        victim.write_text("precious")
    if kind == "file":
        victim.rename(taken)
    else:
        taken.symlink_to(victim)
    with pytest.raises(FileExistsError), replacing(tmp_path / "a.txt") as file:
        file.write(b"new")
    assert not (tmp_path / "a.txt").exists()
    assert kind == "link to nothing" or taken.read_text() == "precious"
    assert taken.is_symlink() == (kind != "file")
    assert victim.exists() == (kind == "link")


def test_what_is_added_to_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        append_text(tmp_path / "link")
    assert not (tmp_path / "victim").exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system refuses to write more than ten bytes to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_full_cache_folder_keeps_no_empty_file(own_caches: Path) -> None:
    write_note("hashes.json", "weights", {"sha256": "0" * 64})  # costs only time
    assert list(own_caches.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "link", "expected"),
    [
        ("in/a", None, None),  # need not exist
        ("in/../in/a", None, None),
        ("link/a", "real", None),  # leads to another place inside
        ("link/a", "../aside", "link: expected a folder inside .*, but found a link to .*aside"),
        ("link/a", "../aside/gone", "remove the link"),  # would be made there
        ("in/../../aside", None, "a path of the run leads out of it"),
        ("/somewhere/else", None, "a path of the run leads out of it"),
    ],
)
def test_leading_out_of_a_folder(path: str, link: str | None, expected: str | None, tmp_path: Path) -> None:
    for name in ("real root/in", "real root/real", "aside"):
        (tmp_path / name).mkdir(parents=True)
    root = tmp_path / "root"
    root.symlink_to("real root")  # the user's own
    if link:
        (root / "link").symlink_to(link)
    if expected is None:
        refuse_leading_out(root / path, root)
    else:
        with pytest.raises(ConfigError, match=expected):
            refuse_leading_out(root / path, root)


@pytest.mark.parametrize("name", ["parts", "ledger", "todo"])
def test_a_runs_folder_that_is_a_link_is_refused(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "part-000000.parquet").write_text("precious")
    with RunWriter.open(tmp_path / "run", manifest()):
        pass
    if (tmp_path / "run" / name).is_dir():
        (tmp_path / "run" / name).rmdir()
    (tmp_path / "run" / name).symlink_to(outside)
    with (
        pytest.raises(AnnotatorError, match="found a link"),
        RunWriter.open(tmp_path / "run", manifest(), overwrite=True) as writer,
    ):
        writer.write(ImageRecord("a.jpg", "failed", error="empty file"))
    assert [file.read_text() for file in outside.iterdir()] == ["precious"]


def test_corrections_that_are_a_link_are_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    append(run.directory, [correction(run)])
    (run.directory / "corrections").rename(tmp_path / "outside")
    (run.directory / "corrections").symlink_to(tmp_path / "outside")
    with pytest.raises(AnnotatorError, match="found a link"):
        append(run.directory, [correction(run)])
    with pytest.raises(AnnotatorError, match="found a link"):
        undo(run.directory, 1)
    assert [file.name for file in (tmp_path / "outside").iterdir()] == ["000001.parquet"]


@pytest.mark.slow
def test_two_pulls_at_once_are_two_pulls(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    both_began = threading.Barrier(2, timeout=PATIENCE)

    def rows() -> Iterator[Correction]:
        for number in range(300):  # more than are collected before a file is opened
            if number == 299:
                both_began.wait()
            yield correction(run)

    threads = [threading.Thread(target=append, args=(run.directory, rows())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(pull.number, pull.photos) for pull in pulls(run.directory)] == [(1, 300), (2, 300)]
    assert len(list((run.directory / "corrections").iterdir())) == 2


@pytest.mark.parametrize(
    "name", ["run.json", "mapping.csv", "parts/part-000001.parquet", "ledger/ledger-000000.parquet"]
)
def test_what_a_killed_process_left_is_removed_by_the_next(name: str, tmp_path: Path) -> None:
    with RunWriter.open(tmp_path, manifest()):
        pass
    (tmp_path / "ledger").mkdir(exist_ok=True)
    left = hidden_name(tmp_path / name)
    left.write_text("half")
    with RunWriter.open(tmp_path, manifest()):
        assert not left.exists()
