"""An export writes below its own folder, and never over a photo, whatever links lie there and paths the run names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_formats import files_below, save_photos

from annotator import cli
from annotator.demo import make_demo
from annotator.errors import AnnotatorError, ConfigError
from annotator.review import folder as review_folder
from annotator.review.checked import SampleError
from annotator.run import RunReader
from exporters.base import export

MAP = np.array([[0, 1, 1]], dtype=np.int32)
MASKS = {"preset": "mmseg", "photos": "copy"}

# format, its options, the folders in which it writes files for the photo s0/a.jpg
NAMED_AFTER_PHOTOS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("mask-png", {}, ("s0",)),
    ("mask-png", MASKS, ("ann_dir/train/s0", "img_dir/train/s0", "ann_dir", "img_dir/train")),
    ("mask-png", {**MASKS, "photos": "link"}, ("img_dir/train/s0",)),
    ("mask-png", {**MASKS, "preset": "hf"}, ("train/labels/s0", "train/images/s0", "train")),
    ("voc", {}, ("Annotations/s0", "SegmentationClass/s0", "SegmentationObject/s0", "JPEGImages/s0", "ImageSets")),
    ("yolo-seg", {"split": ""}, ("images/train/s0", "labels/train/s0", "labels")),
    ("datumaro", {}, ("images/train/s0", "annotations")),
    ("labelme", {}, ("s0",)),
    ("overlay", {}, ("s0",)),
    ("coco", {"variant": "panoptic"}, ("labels/s0", "labels")),
    ("hf-dataset", {}, ("data",)),
]
ATTACKS = [(name, options, folder) for name, options, folders in NAMED_AFTER_PHOTOS for folder in folders]


def target(out: Path, name: str) -> Path:
    return out / "labels.json" if name == "coco" else out


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


@pytest.fixture
def run(make_run: Callable[..., RunReader], tmp_path: Path) -> RunReader:
    maps = {"s0/a.jpg": MAP, "s0/a.png": MAP, "s0/b.jpg": MAP}
    return make_run(maps, ["cat", "dog"], root=save_photos(tmp_path / "photos", maps))


@pytest.mark.parametrize(("name", "options", "folder"), ATTACKS)
def test_a_link_out_of_the_folder_is_refused(
    name: str, options: dict[str, Any], folder: str, run: RunReader, tmp_path: Path
) -> None:
    out, photos = tmp_path / "out", tmp_path / "photos"
    before = content(photos)
    (out / folder).parent.mkdir(parents=True)
    (out / folder).symlink_to(photos / "s0" if folder.endswith("s0") else photos)
    with pytest.raises(ConfigError, match=r"found a link|expected a folder apart from the photos"):
        export(name, run, target(out, name), options)
    assert content(photos) == before


@pytest.mark.parametrize(("name", "options", "folders"), NAMED_AFTER_PHOTOS)
def test_the_folder_itself_may_be_a_link_and_hold_links_that_stay_inside(
    name: str, options: dict[str, Any], folders: tuple[str, ...], run: RunReader, tmp_path: Path
) -> None:
    plain, real, out = tmp_path / "plain", tmp_path / "real", tmp_path / "out"
    plain.mkdir()
    (real / "elsewhere").mkdir(parents=True)
    out.symlink_to(real)
    inside = out / folders[0]
    inside.parent.mkdir(parents=True, exist_ok=True)
    if name != "coco":  # whose masks have a folder of their own beside the JSON
        inside.symlink_to(real / "elsewhere")
    export(name, run, target(plain, name), options)
    export(name, run, target(out, name), options)
    assert len(files_below(real)) == len(files_below(plain))


@pytest.mark.parametrize(
    "path", ["../evil.jpg", "../../evil.jpg", "../../../../evil.jpg", "s0/../../../../../evil.jpg", "ABSOLUTE/evil.jpg"]
)
@pytest.mark.parametrize(("name", "options", "folders"), NAMED_AFTER_PHOTOS)
def test_a_path_out_of_the_folder_is_not_followed(
    name: str, options: dict[str, Any], folders: tuple[str, ...], path: str, make_run: Callable, tmp_path: Path
) -> None:
    """A part that someone tampered with. Some paths stay inside the folder, as the format's own folders are deeper."""
    root = tmp_path / "a/b/c/photos"
    path = path.replace("ABSOLUTE", str(tmp_path))
    save_photos(root, {"s0/b.jpg": MAP, path: MAP})
    before = content(tmp_path)
    with suppress(AnnotatorError):
        tampered = make_run({path: MAP}, ["cat", "dog"], root=root)
        export(name, tampered, target(tmp_path / "a/b/c/out", name), options)
    after = {file: read for file, read in content(tmp_path).items() if not file.startswith(("a/b/c/out/", "run"))}
    assert after == before


@pytest.mark.parametrize("path", ["../evil.jpg", "ABSOLUTE/evil.jpg"])
def test_a_path_out_of_the_folder_is_an_error(path: str, make_run: Callable, tmp_path: Path) -> None:
    path = path.replace("ABSOLUTE", str(tmp_path))
    with pytest.raises(AnnotatorError):
        export("mask-png", make_run({path: MAP}, ["cat", "dog"], root=tmp_path), tmp_path / "out")


def hard_links(run: RunReader, out: Path) -> Iterator[Path]:
    """Every file of an export, one after the other, when a photo lies there under a second name."""
    for file in [out / name for name in files_below(out)]:
        if not file.is_symlink():
            file.unlink()
            os.link(run.image_root / "s0/a.jpg", file)
            yield file
            file.unlink()


@pytest.mark.parametrize(("name", "options", "folders"), NAMED_AFTER_PHOTOS)
def test_a_photo_by_another_name_is_not_written_over(
    name: str, options: dict[str, Any], folders: tuple[str, ...], run: RunReader, tmp_path: Path
) -> None:
    """Names are no proof: device and inode are."""
    out, before = tmp_path / "out", content(tmp_path / "photos")
    export(name, run, target(out, name), options)
    tried = 0
    for file in hard_links(run, out):
        with pytest.raises(ConfigError, match="expected no photo of the run in the way, but this is one"):
            export(name, run, target(out, name), options)
        assert file.read_bytes() == before["s0/a.jpg"]
        tried += 1
    assert tried >= 3
    assert content(tmp_path / "photos") == before


def test_a_second_export_takes_the_place_of_the_first(run: RunReader, tmp_path: Path) -> None:
    for name, options, _ in NAMED_AFTER_PHOTOS:
        out = tmp_path / name
        export(name, run, target(out, name), options)
        before = files_below(out)
        export(name, run, target(out, name), options)
        assert files_below(out) == before


@pytest.mark.parametrize(
    ("arguments", "link"),
    [
        (["export"], "exports"),
        (["export", "--format", "mask-png"], "exports"),
        (["export", "--format", "mask-png"], "exports/mask-png"),
        (["report"], "report"),
        (["eval", "--truth", "TRUTH"], "eval"),
        (["show", "s0/a.jpg"], "show"),
        (["show", "s0/a.jpg"], "show/s0"),
    ],
)
def test_a_default_place_of_a_foreign_run_is_no_link(
    arguments: list[str],
    link: str,
    run: RunReader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export("mask-png", run, tmp_path / "truth")
    before = content(tmp_path / "photos")
    (run.directory / link).parent.mkdir(exist_ok=True)
    (run.directory / link).symlink_to(tmp_path / "photos/s0")
    command, *rest = [argument.replace("TRUTH", str(tmp_path / "truth")) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["annotate", command, str(run.directory), *rest])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert f"{link}: expected a folder inside {run.directory}, but found a link" in capsys.readouterr().err
    assert content(tmp_path / "photos") == before


@pytest.mark.parametrize(
    ("out", "complaint"),
    [("photos/s0/a.jpg", "expected no photo of the run in the way"), ("a.tiff", "expected a name that ends in .png")],
)
def test_a_picture_takes_no_photos_place(
    out: str,
    complaint: str,
    run: RunReader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = content(tmp_path / "photos")
    monkeypatch.setattr(sys, "argv", ["annotate", "show", str(run.directory), "s0/b.jpg", "--out", str(tmp_path / out)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err
    assert content(tmp_path / "photos") == before


@pytest.mark.parametrize("photos", ["link", "copy"])
@pytest.mark.parametrize("path", ["../../evil.jpg", "ABSOLUTE"])
def test_a_dataset_for_the_app_stays_in_its_folder(photos: Any, path: str, make_run: Callable, tmp_path: Path) -> None:
    root, out = tmp_path / "a/b/photos", tmp_path / "x/y/out"
    path = path.replace("ABSOLUTE", str(tmp_path / "absolute.jpg"))
    save_photos(root, {"s0/b.jpg": MAP, path: MAP})
    out.mkdir(parents=True)
    before = content(tmp_path)
    run = make_run({"s0/b.jpg": MAP}, ["cat", "dog"], root=root)
    with pytest.raises(SampleError, match="expected a photo of the run, but its path is"):
        review_folder._photo(run, path, out, photos)
    assert {file: read for file, read in content(tmp_path).items() if not file.startswith("run")} == before


@pytest.mark.parametrize("name", ["photos", "run", "masks", "overlays", "captions"])
def test_a_demo_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="found a link"):
        make_demo(tmp_path / "demo", "maskclip", "embedded", print)
    assert files_below(tmp_path / "outside") == []
