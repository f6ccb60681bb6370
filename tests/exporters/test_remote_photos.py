"""Exports of a run whose photos lie at a URL (a real S3 server) are those of the same run with its photos here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_formats import files_below
from PIL import Image
from typer.testing import CliRunner

from annotator import storage
from annotator.cli import app
from annotator.errors import ConfigError
from annotator.run import RunReader
from annotator.storage import place
from exporters.base import available, export, find

NAMES = ["background", "cat", "dog"]
PATHS = ("a.jpg", "gone.jpg", "sub/b.png", "sub/turned.jpg")
BROUGHT = [
    ("yolo-seg", {}),
    ("voc", {}),
    ("datumaro", {}),
    ("hf-dataset", {}),
    *(("mask-png", {"preset": preset}) for preset in ("voc", "mmseg", "ade", "hf")),
]

Runs = tuple[RunReader, RunReader]


@pytest.fixture
def runs(make_run, noise, tmp_path: Path, bucket: str) -> Runs:
    """With photos here, and with the same at a URL; one of them is turned by EXIF, one is gone from both."""
    here, there = tmp_path / "photos", place(f"s3://{bucket}/photos")
    maps = {path: noise(seed, 20, 30, 3) for seed, path in enumerate(PATHS)}
    for seed, path in enumerate(PATHS):
        file = here / path
        file.parent.mkdir(parents=True, exist_ok=True)
        turned = "turned" in path
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 20, 3) if turned else (20, 30, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[274] = 6 if turned else 1
        Image.fromarray(pixels).save(file, exif=exif)
        if path != "gone.jpg":
            storage.write_bytes(there / path, file.read_bytes())
    (here / "gone.jpg").unlink()
    maps["failed.jpg"] = None
    here_run, there_run = (make_run(maps, NAMES, root=root, turned=["sub/turned.jpg"]) for root in (here, there))
    return here_run, there_run


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), BROUGHT)
def test_copies_are_fetched(runs: Runs, tmp_path: Path, name: str, options: dict[str, str]) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    here, there = (
        export(name, run, folder, {**options, "photos": "copy"}) for run, folder in zip(runs, folders, strict=True)
    )
    assert files_below(folders[1]) == files_below(folders[0])
    for file in files_below(folders[0]):
        assert (folders[1] / file).read_bytes() == (folders[0] / file).read_bytes(), file
    assert (there.images, there.annotations, there.skipped) == (here.images, here.annotations, here.skipped)
    (note,) = (note for note in there.notes if "no longer in" in note)
    assert note.startswith("1 photo ")
    assert note.endswith(str(runs[1].image_root))


@pytest.mark.parametrize(("name", "options"), [pair for pair in BROUGHT if pair[0] != "hf-dataset"])
@pytest.mark.parametrize("photos", ["copy", "none"])
def test_photos_that_stay_where_they_are_may_be_turned(
    runs: Runs, tmp_path: Path, name: str, options: dict[str, str], photos: str
) -> None:
    """A copy is upright, as its mask is."""
    notes = export(name, runs[0], tmp_path / "out", {**options, "photos": photos}).notes
    assert any(note.startswith("1 photo is turned by EXIF") for note in notes) == (photos == "none")


@pytest.mark.parametrize(("name", "options"), BROUGHT)
def test_there_is_nothing_to_link_to(runs: Runs, tmp_path: Path, name: str, options: dict[str, str]) -> None:
    with pytest.raises(
        ConfigError, match=r"s3://.*expected photos on this machine to link to.*photos='copy' fetches"
    ) as caught:
        export(name, runs[1], tmp_path / "out", {**options, "photos": "link"})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_every_format_takes_such_a_run(runs: Runs, tmp_path: Path) -> None:
    for name in available():
        options = {"photos": "none"} if "photos" in find(name).options.__dataclass_fields__ else {}
        assert export(name, runs[1], tmp_path / f"{name}{find(name).suffix}", options).images == len(PATHS), name
    assert export("coco", runs[1], tmp_path / "panoptic.json", {"variant": "panoptic"}).images == len(PATHS)


def test_labelme_names_urls(runs: Runs, tmp_path: Path) -> None:
    for run, folder in zip(runs, ("here", "there"), strict=True):
        export("labelme", run, tmp_path / folder, {})
    for path in PATHS:
        name = Path(path).with_suffix(".json")
        here, there = (json.loads((tmp_path / folder / name).read_text()) for folder in ("here", "there"))
        assert there.pop("imagePath") == f"{runs[1].image_root}/{path}"
        assert (tmp_path / "here" / name).parent.joinpath(here.pop("imagePath")).resolve() == tmp_path / "photos" / path
        assert there == here


@pytest.mark.parametrize("command", [["export", "--format", "yolo-seg"], ["review"], ["review", "--export", "out"]])
def test_commands_say_it_in_one_line(runs: Runs, command: list[str]) -> None:
    result = CliRunner().invoke(app, [command[0], str(runs[1].directory), *command[1:]])
    assert isinstance(result.exception, ConfigError)
    assert "expected photos on this machine" in str(result.exception)
    assert "\n" not in str(result.exception)
