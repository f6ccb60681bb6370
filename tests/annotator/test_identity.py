"""What a run may go on with: other colours, photos that were moved, lists that grow; and what it may not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers_runs import PLUGINS, rows, write_photos

from annotator import corrections, ledger, longer_paths, open_run, pipeline, storage
from annotator.config import RunConfig
from annotator.errors import RunError
from annotator.identity import config_hash
from annotator.longer_paths import FOLDER
from annotator.maker import KEY, maker
from annotator.manifest import DIGEST, MOVING
from annotator.parts import encoded, part_files, read_columns
from annotator.pipeline import Outcome
from annotator.record import ROW
from annotator.summary import summarise

CLASSES = "dark: {}\nmiddle: {}\nbright: {}\n"
PHOTOS = ["a/1.png", "a/2.png", "b/3.png", "b/c/4.png"]
Label = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third party's package is installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", PHOTOS)
    return tmp_path / "photos"


def job_of(tmp_path: Path, images: Any, **given: object) -> pipeline.Job:
    if not (tmp_path / "classes.yaml").exists():
        (tmp_path / "classes.yaml").write_text(CLASSES)
    defaults = {"labeler": "bands", "vocab": str(tmp_path / "classes.yaml"), "pack": "embedded", "workers": 0}
    return pipeline.prepare(RunConfig.load(None, defaults | {"out": str(tmp_path / "run")} | given), images=images)


@pytest.fixture
def label(tmp_path: Path) -> Label:
    """Runs over some photos, into the same run each time."""
    return lambda images, **given: pipeline.run(job_of(tmp_path, images, **given))


def paths(directory: Path) -> list[str]:
    return [record.path for record in open_run(directory).records(segments=False)]


def test_other_colours_go_on(tmp_path: Path, photos: Path, label: Label) -> None:
    label(photos)
    before = rows(tmp_path / "run")
    (tmp_path / "classes.yaml").write_text(CLASSES.replace("middle: {}", 'middle: {color: "#ff8800"}'))
    assert label(photos).labelled == 0
    assert rows(tmp_path / "run") == before
    vocabulary = open_run(tmp_path / "run").vocabulary
    assert vocabulary is not None
    assert vocabulary.classes[1].color == (255, 136, 0)


def test_a_run_of_an_older_version_goes_on(tmp_path: Path, photos: Path, label: Label) -> None:
    """It wrote down the photos' folder as an option, and a digest over the classes with their colours."""
    label(photos, limit=1)
    file = tmp_path / "run/run.json"
    content = json.loads(file.read_text())
    content["config"] |= {"images": str(photos), "vocabulary": "a digest by the older rule"}
    content["config_hash"] = config_hash(content["config"])
    del content[DIGEST]
    file.write_text(json.dumps(content))
    assert label(photos).labelled == 3


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"full_decode": True}, "full_decode: the run has false, this command has true"),
        ({"vocab": "dark, middle"}, "vocabulary: only the run has 'bright'"),
    ],
)
def test_another_option_is_refused_before_any_network_is_looked_for(
    tmp_path: Path, photos: Path, label: Label, given: dict[str, Any], sentence: str
) -> None:
    label(photos)
    with pytest.raises(RunError) as caught:
        label(photos, weights={"clip": str(tmp_path / "no such file")}, **given)
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: this run was made with other options ({sentence}); --overwrite starts anew, "
        "--out DIR keeps both"
    )


def test_moved_photos_go_on(tmp_path: Path, photos: Path, label: Label) -> None:
    label(photos, limit=2)
    moved = photos.rename(tmp_path / "elsewhere")
    assert label(moved).labelled == 2
    assert paths(tmp_path / "run") == PHOTOS
    assert open_run(tmp_path / "run").image_root == moved


@pytest.mark.parametrize("to", ["photos/deep", "."])
def test_photos_moved_into_or_out_of_their_folder_go_on(tmp_path: Path, photos: Path, label: Label, to: str) -> None:
    label(photos, limit=2)
    folders = [photos / "a", photos / "b"]
    target = tmp_path / to
    target.mkdir(exist_ok=True)
    for folder in folders:
        folder.rename(target / folder.name)
    assert label(target).labelled == 2
    assert paths(tmp_path / "run") == PHOTOS


def test_another_folder_is_refused(tmp_path: Path, photos: Path, label: Label) -> None:
    label(photos)
    write_photos(tmp_path / "other", ["x.png"])
    before = (tmp_path / "run/run.json").read_bytes()
    with pytest.raises(RunError) as caught:
        label(tmp_path / "other")
    assert str(caught.value) == (
        f"images='{tmp_path / 'other'}': expected the photos of the run {tmp_path / 'run'}, but none of them is there, "
        f"such as 'a/1.png'; the run found its own in {photos}. overwrite starts anew, out='DIR' keeps both"
    )
    assert (tmp_path / "run/run.json").read_bytes() == before
    assert label(tmp_path / "other", overwrite=True).summary.photos == 1


def test_a_list_file_that_grows_finds_its_run_again(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --out, in the same folder as before."""
    monkeypatch.chdir(tmp_path)
    given = {"labeler": "bands", "vocab": "dark, middle, bright", "pack": "embedded", "workers": 0}
    for count in (1, 4):
        Path("mine.txt").write_text("".join(f"photos/{path}\n" for path in PHOTOS[:count]))
        outcome = pipeline.run(pipeline.prepare(RunConfig.load(None, given), images="mine.txt"))
        assert (str(outcome.directory), outcome.summary.photos) == ("runs/mine-bands", count)


def test_other_photos_of_the_same_names_are_refused(tmp_path: Path, photos: Path, label: Label) -> None:
    """As where two projects call their photos alike, and their runs, too."""
    label(photos)
    before = rows(tmp_path / "run")
    write_photos(tmp_path / "other", reversed(PHOTOS), (60, 64))
    with pytest.raises(RunError, match=r"but those there are others, such as 'a/1\.png'; the run found its own in "):
        label(tmp_path / "other")
    assert rows(tmp_path / "run") == before
    shutil.copytree(photos, tmp_path / "copy")  # with the same times, or with new ones
    (tmp_path / "copy/a/1.png").touch()
    write_photos(tmp_path / "copy", PHOTOS[3:], (60, 64))
    assert label(tmp_path / "copy").labelled == 1


@pytest.mark.parametrize("url", [False, True], ids=["folder", "url"])
def test_a_list_may_grow_and_shrink(tmp_path: Path, photos: Path, label: Label, url: bool) -> None:
    """With it grows and shrinks the folder that all its photos share."""
    root = f"memory://{tmp_path.name}/photos" if url else str(photos)
    if url:
        for path in PHOTOS:
            storage.write_bytes(storage.place(f"{root}/{path}"), (photos / path).read_bytes())
    listed = [f"{root}/{path}" for path in PHOTOS]
    out = f"{root}-run" if url else str(tmp_path / "run")
    run = storage.place(out)
    assert label(listed[3:], out=out).labelled == 1
    assert paths(run) == ["4.png"]
    assert label(listed[2:], out=out).labelled == 1
    assert paths(run) == ["3.png", "c/4.png"]
    assert label(listed, out=out).labelled == 2
    assert label(listed[1:2], out=out).labelled == 0
    assert paths(run) == PHOTOS
    whole = label(listed, out=str(tmp_path / "whole"))
    assert rows(run) == rows(whole.directory)
    assert str(open_run(run).image_root) == root


def test_a_folder_below_names_the_photos_as_from_above(tmp_path: Path, photos: Path, label: Label) -> None:
    label(photos, limit=1)
    assert label(photos / "b").labelled == 2
    assert paths(tmp_path / "run") == ["a/1.png", "b/3.png", "b/c/4.png"]
    assert label(str(photos / "?" / "*.png")).labelled == 1
    assert paths(tmp_path / "run") == PHOTOS
    whole = label(photos, out=str(tmp_path / "whole"))
    assert rows(tmp_path / "run") == rows(whole.directory)


def test_a_dry_run_from_a_folder_above_counts_right_and_changes_nothing(
    tmp_path: Path, photos: Path, label: Label
) -> None:
    label(photos / "b")
    estimate = pipeline.estimate(job_of(tmp_path, photos))
    assert (estimate.photos, estimate.finished, estimate.todo) == (4, 2, 2)
    assert paths(tmp_path / "run") == ["3.png", "c/4.png"]


@pytest.mark.slow
def test_a_kill_at_any_write_loses_nothing(
    tmp_path: Path, photos: Path, label: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and a person's corrections of photos that get other paths."""
    whole = label(photos, out=str(tmp_path / "whole"))
    expected = rows(whole.directory)
    moving = steps = 0
    for last in range(1, 30):
        out = tmp_path / f"run{last}"
        label(photos / "b", out=str(out))
        corrections.append(out, [corrections.Correction("3.png", 64, 48, "reject")])
        with monkeypatch.context() as patch:
            counted = kill_after(last, patch)
            try:
                label(photos, out=str(out))
                break
            except Killed:
                steps += 1
        if json.loads((out / "run.json").read_text())["state"] == MOVING:
            moving += 1
            with pytest.raises(RunError, match="the same `annotate run` again finishes that"):
                open_run(out)
        label(photos, out=str(out))
        assert rows(out) == expected, f"killed at the writing of {counted[-1]}"
        left_out = [each.path for each in expected if each not in list(corrections.corrected(expected, open_run(out)))]
        assert left_out == ["b/3.png"]
        assert [pull.photos for pull in corrections.pulls(out)] == [1]
        assert not (out / FOLDER).exists()
    assert steps >= 8
    assert moving >= 2


class Killed(BaseException): ...


def kill_after(last: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Lets the process get as far as its n-th write or renaming; its lock is given up, as the system does it."""
    counted: list[str] = []

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *rest: Any, **options: Any) -> Any:
            counted.append(path.name)
            if len(counted) >= last:
                raise Killed
            return real(path, *rest, **options)

        return call

    for module, name in [(storage, "write_bytes"), (storage, "delete"), (longer_paths, "move")]:
        patch.setattr(module, name, counting(getattr(module, name)))
    return counted


def test_another_process_that_moved_the_run_meanwhile_is_noticed(tmp_path: Path, photos: Path, label: Label) -> None:
    label(photos / "b")
    late = job_of(tmp_path, photos)
    found = open_run(tmp_path / "run").manifest
    replace(found, image_root="/elsewhere").save(tmp_path / "run")
    with pytest.raises(RunError, match="another process has changed where this run's photos are; try again"):
        pipeline.run(late)
    assert paths(tmp_path / "run") == ["3.png", "c/4.png"]


def test_parts_say_what_made_them_and_a_mixture_is_said(
    tmp_path: Path, photos: Path, label: Label, caplog: pytest.LogCaptureFixture
) -> None:
    label(photos, limit=1)
    now = f"annotate {version('annotate')} on cpu"
    assert summarise(tmp_path / "run").makers == {now: 1}
    found = open_run(tmp_path / "run").manifest
    replace(found, tool_version="0.0", execution={"device": "cuda:0,cuda:1"}).save(tmp_path / "run")
    (part,) = part_files(tmp_path / "run")
    part.write_bytes(encoded(read_columns(part, ROW.names), made_with=maker(["cuda:0", "cuda:1"], "0.0")))
    label(photos)
    assert caplog.messages == [
        f"{tmp_path / 'run'}: begun with annotate 0.0 on cuda, and this command goes on with {now}: masks may differ "
        "in a few pixels; `annotate status` counts the photos of each, --overwrite starts anew"
    ]
    assert summarise(tmp_path / "run").makers == {"annotate 0.0 on cuda": 1, now: 3}
    ledger.make_ledger(tmp_path / "run", [each.name for each in part_files(tmp_path / "run")], open_labels=False)
    assert not ledger.survey(tmp_path / "run").rest
    assert summarise(tmp_path / "run").makers == {"annotate 0.0 on cuda": 1, now: 3}


def test_another_name_for_what_made_a_part_is_damage(tmp_path: Path, photos: Path, label: Label) -> None:
    label(photos)
    (part,) = part_files(tmp_path / "run")
    table = pq.read_table(part)
    said = {**table.schema.metadata, KEY.encode(): b"annotate 9.9 on cuda"}
    pq.write_table(table.replace_schema_metadata(said), part, write_page_checksum=True)
    with pytest.raises(RunError, match="damaged"):
        rows(tmp_path / "run")
