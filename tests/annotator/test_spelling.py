"""Messages name an option as whoever gave it wrote it: in Python, in YAML, as a flag, or after `--set`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from annotator.cli import app
from annotator.config import RunConfig
from annotator.errors import AnnotatorError, ConfigError
from annotator.imported.convert import convert
from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunReader, RunWriter
from exporters.base import export


@pytest.fixture
def run(tmp_path: Path) -> RunReader:
    """One photo with the free-text labels "a cat" and "fog"."""
    manifest = Manifest({}, "x", str(tmp_path / "photos"), "1", "test")
    prediction = Prediction(np.array([[0, 1]], dtype=np.int32), ("a cat", "fog"), (-1, -1), (0.5, 0.5))
    with RunWriter.open(tmp_path / "run", manifest) as writer:
        writer.write(ImageRecord("a.jpg", "ok", width=2, height=1, segments=tuple(prediction.segments())))
    return RunReader(tmp_path / "run")


def mistake(*arguments: str | Path) -> str:
    """The message of the error that a command ends with."""
    error = CliRunner().invoke(app, [str(argument) for argument in arguments]).exception
    assert isinstance(error, AnnotatorError), error
    return str(error)


@pytest.mark.parametrize(
    ("name", "given", "typed", "python", "flags"),
    [
        ("coco", {"min_count": 5}, ["--min-count", "5"], "lower min_count", "lower --min-count"),
        ("coco", {"min_count": 5}, ["--set", "min_count=5"], "lower min_count", "lower --set min_count"),
        (
            "coco",
            {"min_area": -1},
            ["--min-area", "-1"],
            "coco: min_area: expected at",
            "coco: --min-area: expected at",
        ),
        ("coco", {"segmentation": "x"}, ["--segmentation", "x"], "coco: segmentation: ", "coco: --segmentation: "),
        ("overlay", {"opacity": 2.0}, ["--set", "opacity=2"], "overlay: opacity: ", "overlay: --set opacity: "),
        ("yolo-seg", {"split": "9"}, ["--split", "9"], "yolo-seg: split: expected", "yolo-seg: --split: expected"),
        ("labelme", {"split": "1/1"}, ["--split", "1/1"], "labelme has no split,", "labelme has no --split,"),
        ("labelme", {"split": "1/1"}, ["--set", "split=1/1"], "labelme has no split,", "labelme has no --set split,"),
        (
            "coco",
            {"min_aria": 1},
            ["--set", "min_aria=1"],
            r"no setting 'min_aria' \(it has .*min_score, .*\); did you mean 'min_area'\?",
            r"no setting --set min_aria \(it has .*--min-score, .*\); did you mean --min-area\?",
        ),
        (
            "label-studio",
            {"prefixes": "x"},
            ["--set", "prefixes=x"],
            "did you mean 'prefix'",
            "did you mean --set prefix",
        ),
        (
            "coco",
            {"variant": "stuff", "instances": True},
            ["--variant", "stuff", "--instances"],
            "variant='stuff' has one mask per class and photo; leave out instances$",
            "--variant stuff has one mask per class and photo; leave out --instances$",
        ),
        (
            "cvat",
            {"simplify": 1.0},
            ["--simplify", "1"],
            "simplify is for polygons; leave it out here, or ask for shape='polygon'",
            "--simplify is for polygons; leave it out here, or ask for --shape polygon",
        ),
        (
            "mask-png",
            {"split": "1/1"},
            ["--split", "1/1"],
            "mask-png: preset='plain' has no splits",
            "mask-png: --preset plain has no splits",
        ),
    ],
)
def test_options_of_a_format(
    run: RunReader, tmp_path: Path, name: str, given: dict[str, object], typed: list[str], python: str, flags: str
) -> None:
    with pytest.raises(ConfigError, match=python):
        export(name, run, tmp_path / "out.json", given)
    with pytest.raises(ConfigError, match=flags):
        raise ConfigError(mistake("export", run.directory, "--format", name, "--out", tmp_path / "out.json", *typed))


def test_a_format_that_has_no_split_says_which_have_one(run: RunReader, tmp_path: Path) -> None:
    """And takes it for no slip of the pen, as if `simplify` had been meant."""
    assert mistake("export", run.directory, "--format", "labelme", "--split", "0.75/0.25") == (
        "format labelme has no --split, which is for coco, mask-png, yolo-seg, voc, cvat, label-studio, datumaro, "
        "hf-dataset; leave it out"
    )


def test_options_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="annotate run: batch_size: expected at least 1"):
        RunConfig.load(None, {"batch_size": 0})
    assert "annotate run: --batch-size: expected at least 1" in mistake("run", "--batch-size", "0")
    file = tmp_path / "run.yaml"
    file.write_text("batch_size: 0\n")
    assert "run.yaml: batch_size: expected at least 1" in mistake("run", "--config", file)
    file.write_text("labler: diy\n")
    assert "has no setting 'labler' (it has images, labeler," in mistake("run", "--config", file)
    file.write_text("labeler: diy\n")
    assert "--batch-size: expected at least 1" in mistake("run", "--config", file, "--batch-size", "0")
    assert "--precision: expected one of auto" in mistake("run", "--config", file, "--precision", "half")


def test_options_of_convert(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    with pytest.raises(ConfigError, match=r"choose another out$"):
        convert(masks, "mask-png", masks)
    assert mistake("convert", masks, "--to", "mask-png", "--out", masks).endswith("choose another --out")
    with pytest.raises(ConfigError, match=r"say where they are with images='DIR'$"):
        convert(masks, "overlay", tmp_path / "out")
    asked = mistake("convert", masks, "--to", "overlay", "--out", tmp_path / "out")
    assert asked.endswith("say where they are with --images DIR")


def test_the_spelling_ends_with_the_command(run: RunReader, tmp_path: Path) -> None:
    from annotator.spelling import in_python, option, spelled

    mistake("export", run.directory, "--min-count", "5", "--out", tmp_path / "a.json")
    assert (option("min_count"), option("photos", "copy")) == ("min_count", "photos='copy'")
    with spelled(lambda name, value=None: name.upper()):
        assert option("min_count") == "MIN_COUNT"
        with spelled(in_python):
            assert option("min_count") == "min_count"
    assert option("min_count") == "min_count"
