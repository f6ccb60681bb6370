"""Whole runs with a third party's labeler: photos in, a run on disk out, whatever some of the photos are like."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from helpers_runs import PLUGINS, VOCAB, rows, write_photos
from PIL import Image

from annotator import annotate, open_run, pipeline
from annotator.config import RunConfig
from annotator.errors import AnnotatorError, ConfigError, RunError
from annotator.pipeline import Job
from annotator.run import ImageRecord, Manifest
from labelers import base

NAMES = [f"{number:02d}.png" for number in range(20)]
Prepare = Callable[..., Job]


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third party's package is installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """A job over `tmp_path / photos`, by default without worker processes."""

    def make(**given: object) -> Job:
        defaults = {
            "images": str(tmp_path / "photos"),
            "labeler": "bands",
            "vocab": VOCAB,
            "pack": "embedded",
            "out": str(tmp_path / "run"),
            "workers": 0,
        }
        return pipeline.prepare(RunConfig.load(None, {**defaults, **given}))

    return make


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", NAMES)
    return tmp_path / "photos"


def test_the_labeler_is_known_by_its_entry_point_alone() -> None:
    (point,) = entry_points(group="annotator.labelers", name="bands")
    assert point.dist is not None
    assert point.dist.name == "bands"
    assert base.available()[-2:] == ["bands", "shades"]
    assert base.find("shades").spec.name == "shades"


def test_good_and_bad_photos_end_to_end(tmp_path: Path, prepare: Prepare) -> None:
    folder = tmp_path / "photos"
    write_photos(folder, ["a.jpg", "deep/er/b.png", "c.bmp", "d.webp", "e.gif", "whole.jpg"])
    halves = np.zeros((40, 60), dtype=np.uint8)
    halves[:, 40:] = 255
    gray = Image.fromarray(halves)
    Image.fromarray(halves.astype(np.uint16) * 257).save(folder / "16 bit.png")
    gray.convert("RGBA").save(folder / "rgba.png")
    gray.convert("P").save(folder / "palette.png")
    gray.convert("CMYK").save(folder / "cmyk.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    gray.save(folder / "turned.png", exif=exif)
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-400])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not a photo")
    (folder / "notes.txt").write_text("no image's name, so passed over")

    job = prepare(workers=1, batch_size=3)
    seen: list[ImageRecord] = []
    outcome = pipeline.run(job, seen.append)

    assert (outcome.state, outcome.labelled, outcome.summary.ok, outcome.summary.failed) == ("complete", 14, 11, 3)
    manifest = Manifest.load(tmp_path / "run")
    assert manifest.state == "complete"
    assert manifest.counts == {"photos": 14, "ok": 11, "failed": 3}
    run = open_run(tmp_path / "run")
    assert rows(tmp_path / "run") == sorted(
        (replace(record, seconds=0.0) for record in seen), key=lambda each: each.path
    )
    records = {record.path: record for record in run}
    assert {path: record.error for path, record in records.items() if record.status == "failed"} == {
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image: its first bytes are those of no known format",
        "truncated.jpg": "truncated: the end of the file is missing",
    }
    for path in ("16 bit.png", "rgba.png", "palette.png", "cmyk.tif"):
        areas = {segment.label: segment.area for segment in records[path].segments}
        assert areas == {"dark": 40 * 40, "bright": 20 * 40}, path
    turned = records["turned.png"]
    assert (turned.width, turned.height, turned.orientation) == (40, 60, 6)
    expected = np.zeros((60, 40), dtype=np.int32)
    expected[40:] = 2
    np.testing.assert_array_equal(turned.prediction().class_map(), expected)


def test_the_summary_counts_what_the_parts_hold(prepare: Prepare, photos: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"")
    summary = pipeline.run(prepare()).summary
    pixels, photos_with = Counter[str](), Counter[str]()
    for name in NAMES:
        brightness = np.asarray(Image.open(photos / name)).astype(float) @ [0.25, 0.5, 0.25]
        for band, label in enumerate(("dark", "middle", "bright")):
            inside = (brightness >= band * 256 / 3) & (brightness < (band + 1) * 256 / 3)
            pixels[label] += int(inside.sum())
            photos_with[label] += bool(inside.any())
    assert summary.classes == pixels
    assert summary.photos_with == photos_with
    assert summary.pixels == 20 * 48 * 64
    assert summary.failures == {"the file is empty": 1}


def test_a_labeler_may_name_its_own_classes(prepare: Prepare, photos: Path, tmp_path: Path) -> None:
    pipeline.run(prepare(labeler="shades", vocab=None))
    run = open_run(tmp_path / "run")
    assert run.vocabulary is None
    assert {segment.label for record in run for segment in record.segments} == {"dark", "bright"}


def test_the_python_call_returns_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen: list[str | Path] = [photos / "03.png", "photos/01.png"]
    run = annotate(chosen, "bands", ["night", "day"], "embedded", settings={"tints": [1, 0, 0]}, workers=0)
    assert run.directory == Path("runs/photos-bands")
    assert run.vocabulary is not None
    assert run.vocabulary.names == ("night", "day")
    assert [record.path for record in run] == ["01.png", "03.png"]
    red = np.asarray(Image.open(photos / "01.png"))[..., 0]
    np.testing.assert_array_equal(next(run.records()).prediction().class_map(), red >= 128)
    assert capsys.readouterr() == ("", "")


def test_the_limit_counts_this_call_only(prepare: Prepare, photos: Path, tmp_path: Path) -> None:
    for done in (6, 12, 18, 20):
        outcome = pipeline.run(prepare(limit=6, batch_size=4))
        assert [record.path for record in rows(tmp_path / "run")] == NAMES[:done]
        assert outcome.summary.photos == done
    assert pipeline.run(prepare()).labelled == 0


def test_what_decides_only_speed_may_change_between_resumes(prepare: Prepare, photos: Path, tmp_path: Path) -> None:
    pipeline.run(prepare(limit=6, batch_size=4, workers=1))
    pipeline.run(prepare(batch_size=7, max_failure_rate=0.1))
    pipeline.run(prepare(out=str(tmp_path / "other"), batch_size=1))
    assert rows(tmp_path / "run") == rows(tmp_path / "other")


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"vocab": "dark, bright"}, "vocabulary: only the run has 'middle'"),
        (
            {"settings": {"tints": [1, 0, 0]}},
            "settings.tints: the run has [0.25, 0.5, 0.25], this command has [1.0, 0.0, 0.0]",
        ),
        ({"full_decode": True}, "full_decode: the run has false, this command has true"),
        (
            {"labeler": "shades", "vocab": None},
            "labeler: the run has bands, this command has shades; "
            "vocabulary: the run has 3 classes, this command has none",
        ),
    ],
)
def test_what_decides_labels_may_not(
    prepare: Prepare, photos: Path, tmp_path: Path, changed: dict[str, object], difference: str
) -> None:
    pipeline.run(prepare(limit=3))
    before = rows(tmp_path / "run")
    with pytest.raises(RunError) as caught:
        pipeline.run(prepare(**changed))
    assert f"made with other options ({difference}); --overwrite starts anew, --out DIR keeps both" in str(caught.value)
    assert rows(tmp_path / "run") == before
    pipeline.run(prepare(**changed, overwrite=True))
    assert len(rows(tmp_path / "run")) == 20


def test_failed_photos_are_tried_again_only_when_asked(prepare: Prepare, photos: Path) -> None:
    content = (photos / "03.png").read_bytes()
    (photos / "03.png").write_bytes(content[:100])
    assert pipeline.run(prepare()).summary.failed == 1
    (photos / "03.png").write_bytes(content)
    assert pipeline.run(prepare()).labelled == 0
    outcome = pipeline.run(prepare(retry_failed=True))
    assert (outcome.labelled, outcome.summary.ok, outcome.summary.failed) == (1, 20, 0)


def test_a_hopeless_run_stops_and_can_be_resumed(prepare: Prepare, tmp_path: Path) -> None:
    bad, good = [f"a{number:02d}.jpg" for number in range(40)], [f"b{number:02d}.png" for number in range(60)]
    write_photos(tmp_path / "photos", good)
    for name in bad:
        (tmp_path / "photos" / name).write_bytes(b"")
    with pytest.raises(RunError) as caught:
        pipeline.run(prepare())
    assert str(caught.value) == (
        "40 of 50 photos failed, more than --max-failure-rate 0.5; the last one: 'a39.jpg': the file is empty"
    )
    run = open_run(tmp_path / "run")
    assert run.manifest.state == "interrupted"
    assert len(run) == 50
    outcome = pipeline.run(prepare(max_failure_rate=0.9))
    assert (outcome.state, outcome.labelled, outcome.summary.failed) == ("complete", 50, 40)


@pytest.mark.stress
@pytest.mark.usefixtures("terminal_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_batch_and_the_rest_can_follow(
    prepare: Prepare, photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    def stop_at_the_sixth(record: ImageRecord) -> None:
        if record.path == NAMES[5]:
            os.kill(os.getpid(), number)

    outcome = pipeline.run(prepare(batch_size=4, workers=1), stop_at_the_sixth)
    assert signal.getsignal(number) == before
    assert outcome.state == Manifest.load(tmp_path / "run").state == "interrupted"
    assert [record.path for record in rows(tmp_path / "run")] == NAMES[: outcome.labelled]
    assert outcome.labelled in (8, 12)  # with the batch that was under way

    outcome = pipeline.run(prepare(batch_size=4))
    assert (outcome.state, outcome.summary.photos) == ("complete", 20)
    pipeline.run(prepare(out=str(tmp_path / "undisturbed")))
    assert rows(tmp_path / "run") == rows(tmp_path / "undisturbed")


@pytest.mark.stress
@pytest.mark.usefixtures("terminal_signals")
def test_a_second_ctrl_c_interrupts_at_once(prepare: Prepare, photos: Path, tmp_path: Path) -> None:
    def interrupt_twice(record: ImageRecord) -> None:
        if record.path == NAMES[5]:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(prepare(batch_size=4, workers=1), interrupt_twice)
    run = open_run(tmp_path / "run")
    assert run.manifest.state == "interrupted"
    assert [record.path for record in run] == NAMES[:6]
    assert pipeline.run(prepare()).summary.photos == 20


@pytest.mark.stress
def test_a_dry_run_writes_nothing(prepare: Prepare, photos: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    estimate = pipeline.estimate(prepare(settings={"seconds": 0.25}))
    assert (estimate.photos, estimate.finished, estimate.sample) == (20, 0, 4)
    assert estimate.seconds_per_photo is not None
    assert 0.25 <= estimate.seconds_per_photo < 4 * 0.25  # of a photo, not of the sample
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_counts_what_is_finished(prepare: Prepare, photos: Path, tmp_path: Path) -> None:
    pipeline.run(prepare(limit=18))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    estimate = pipeline.estimate(prepare())
    assert (estimate.photos, estimate.finished, estimate.sample) == (20, 18, 2)
    assert pipeline.estimate(prepare(overwrite=True)).finished == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labeler": "band"}, "no labeler 'band'; known are maskclip, dinoiser, diy, zeroguide, bands, shades"),
        ({"settings": {"tint": [1, 0, 0]}}, r"labeler bands has no setting 'tint' .*; did you mean 'tints'\?"),
        ({"settings": {"seconds": "long"}}, "labeler bands: seconds: expected float, but got 'long'"),
        ({"device": "tpu"}, r"--device tpu: expected auto or one that this machine has \(cpu"),
        ({"precision": "fp8"}, "precision: expected one of auto, fp32, bf16, but got 'fp8'"),
        ({"batch_size": 0}, "batch_size: expected at least 1, but got 0"),
        ({"pack": "paprika"}, "no pack 'paprika'; known are .*embedded"),
        ({"weights": {"eyes": "x"}}, r"--weights eyes=FILE: the pack 'embedded' has no such file"),
        ({"vocab": None}, r"bands needs class names: --vocab classes\.txt"),
        ({"labeler": "shades"}, "shades names its own classes and takes no vocabulary; leave --vocab out"),
        ({"images": "nowhere"}, "nowhere: expected a folder, a glob, a .txt list or an image"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    prepare: Prepare,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        prepare(**given)
    assert isinstance(caught.value, AnnotatorError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_class_names_are_taken_from_the_working_directory(
    prepare: Prepare, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("classes.txt").write_text("night\nday\n")
    job = prepare(vocab=None)
    assert job.vocabulary is not None
    assert job.vocabulary.names == ("night", "day")
