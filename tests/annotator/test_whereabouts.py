"""A project that was moved: its photos are elsewhere than where the run found them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from annotator import cli
from annotator.cli import app
from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunWriter
from annotator.vocabulary import Vocabulary
from exporters.base import available, export, find

NAMES = ["background", "cat"]
PHOTOS = ["a.jpg", "sub/b.jpg"]
NEED_PHOTOS = {
    "yolo-seg": [],
    "voc": [],
    "datumaro": [],
    "hf-dataset": [],
    "overlay": [],
    "mask-png": ["--preset", "mmseg"],
}


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A folder with `photos` and `run`, which found them in the folder `before`."""
    prediction = Prediction(np.array([[0, 1], [1, 1]], dtype=np.int32), NAMES, (0, 1), (0.5, 0.5))
    manifest = Manifest(
        {}, "x", str(tmp_path / "before/photos"), "1", "test", vocabulary=Vocabulary.of(NAMES).to_dict()
    )
    with RunWriter.open(tmp_path / "before/run", manifest) as writer:
        for path in PHOTOS:
            file = tmp_path / "before/photos" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2)).save(file)
            writer.write(ImageRecord(path, "ok", width=2, height=2, segments=tuple(prediction.segments())))
    return (tmp_path / "before").rename(tmp_path / "after")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("name", "flags"), NEED_PHOTOS.items())
def test_without_its_photos_a_format_that_needs_them_is_refused(moved: Path, name: str, flags: list[str]) -> None:
    """One line, exit code 2, and no empty data set is left; `--images` mends it."""
    out = moved / "out"
    command = ["export", moved / "run", "--format", name, "--out", out, *flags]
    error = call(*command).exception
    leave = "" if name == "overlay" else ", or leave them out with --photos none"
    assert str(error) == (
        f"{moved.parent}/before/photos: expected the run's photos, but none of them is there any more, such as "
        f"'a.jpg'; say where they are now with --images DIR{leave}"
    )
    assert not out.exists()
    result = call(*command, "--images", moved / "photos")
    assert result.exit_code == 0
    assert result.output.startswith("2 photos")
    assert "note: \n" not in result.output
    if name != "overlay":
        assert call(*command, "--photos", "none").exit_code == 0


def test_it_is_a_mistake_of_the_user(moved: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["annotate", "export", str(moved / "run"), "--format", "yolo-seg"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in available() if name not in NEED_PHOTOS or name == "mask-png"])
def test_other_formats_do_without(moved: Path, name: str) -> None:
    suffix = find(name).suffix
    assert call("export", moved / "run", "--format", name, "--out", moved / f"out{suffix}").exit_code == 0


def test_labelme_leads_to_the_photos(moved: Path) -> None:
    lost = call("export", moved / "run", "--format", "labelme", "--out", moved / "out").output
    assert f"2 photos are no longer in {moved.parent}/before/photos, where imagePath leads; say where they" in lost
    found = call("export", moved / "run", "--format", "labelme", "--out", moved / "out", "--images", moved / "photos")
    assert "no longer" not in found.output
    content = json.loads((moved / "out/sub/b.json").read_text())
    assert (moved / "out/sub" / content["imagePath"]).resolve() == moved / "photos/sub/b.jpg"


def test_a_part_of_the_photos_is_enough(moved: Path) -> None:
    (moved / "photos/a.jpg").unlink()
    result = call("export", moved / "run", "--format", "voc", "--out", moved / "out", "--images", moved / "photos")
    assert result.output.startswith("1 photo,")
    assert f"1 photo is left out: no longer in {moved / 'photos'}" in result.output


@pytest.mark.parametrize("command", [["export"], ["report"], ["show", "a.jpg"], ["eval", "--truth", "photos"]])
def test_a_folder_without_any_of_them_is_refused(moved: Path, command: list[str]) -> None:
    name, *rest = command
    error = call(name, moved / "run", *rest, "--images", moved / "run").exception
    assert str(error) == (
        f"--images {moved / 'run'}: expected the run's photos, but none of them is there, such as 'a.jpg'; the run "
        f"found them in {moved.parent}/before/photos"
    )


def test_pages_and_pictures_find_them(moved: Path) -> None:
    assert "2 photos are shown as masks alone" in call("report", moved / "run").output
    assert "note" not in call("report", moved / "run", "--images", moved / "photos").output
    assert "unless --images says where" in str(call("show", moved / "run", "b.jpg").exception)
    assert call("show", moved / "run", "b.jpg", "--images", moved / "photos").exit_code == 0
    assert (moved / "run/show/sub/b.jpg.png").is_file()


def test_from_python(moved: Path) -> None:
    from annotator import open_run

    summary = export("yolo-seg", open_run(moved / "run", images=moved / "photos"), moved / "out")
    assert summary.images == 2
