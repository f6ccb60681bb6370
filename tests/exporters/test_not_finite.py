"""Scores that are no numbers, as runs of older versions may hold them: nothing that is written has them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers_formats import files_below, save_photos
from typer.testing import CliRunner

from annotator.cli import app
from annotator.errors import AnnotatorError, RunError
from annotator.gallery.report import make_report
from annotator.imported.convert import convert
from annotator.prediction import Prediction
from annotator.run import ImageRecord, RunReader, write_part
from exporters.base import available, export, find
from exporters.files import json_line

NAMES = ["background", "cat", "dog"]
MAP = np.array([[0, 0, 1], [2, 2, 1]], dtype=np.int32)


def record(path: str, cat: float) -> ImageRecord:
    """As older versions wrote it; a `Prediction` has refused such scores since."""
    scores = {"background": 0.5, "cat": cat, "dog": 0.75}
    found = Prediction(MAP, NAMES, (0, 1, 2), (0.5, 0.5, 0.75)).segments()
    segments = tuple(replace(segment, score=scores[segment.label]) for segment in found)
    return ImageRecord(path, "ok", width=3, height=2, segments=segments)


@pytest.fixture
def run(make_run, tmp_path: Path) -> RunReader:
    """good.jpg, bad.jpg with a cat of score NaN and worse.jpg with one of infinity, as they lie on a disk."""
    root = save_photos(tmp_path / "photos", dict.fromkeys(["bad.jpg", "good.jpg", "worse.jpg"], MAP))
    run = make_run({}, NAMES, root=root)
    write_part(run.directory, 0, [record("bad.jpg", math.nan), record("good.jpg", 0.25), record("worse.jpg", math.inf)])
    return run


def written(folder: Path) -> str:
    return "\n".join(
        str(pq.read_table(folder / path).to_pylist()) if path.endswith("parquet") else (folder / path).read_text()
        for path in files_below(folder)
        if path.endswith((".json", ".xml", ".txt", ".yaml", ".parquet", ".csv", ".html", ".jsonl"))
    )


@pytest.mark.parametrize("split", ["", "0.5/0.5"])
@pytest.mark.parametrize("name", available())
def test_such_a_photo_counts_as_failed(run: RunReader, tmp_path: Path, name: str, split: str) -> None:
    """It is left out, counted and named; the good one is there with its scores."""
    given = {"preset": "voc"} if name == "mask-png" else {}
    if "split" in find(name).options.__dataclass_fields__:
        given["split"] = split
    out = tmp_path / "x" / f"out{find(name).suffix}"
    summary = export(name, run, out, given)
    assert (summary.images, summary.skipped) == (1, 2)
    assert summary.notes[-1] == (
        "2 of the photos left out count as failed because of a score that is not finite ('bad.jpg': the score of the "
        "segment 'cat' is nan); label them again"
    )
    assert not re.search(r"\b(nan|inf|infinity)\b", written(tmp_path / "x"), re.IGNORECASE)


def test_the_good_photo_keeps_its_scores(run: RunReader, tmp_path: Path) -> None:
    export("coco", run, tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert [image["file_name"] for image in content["images"]] == ["good.jpg"]
    assert [each["score"] for each in content["annotations"]] == [0.25, 0.75]


def test_what_a_person_corrected_is_asked_as_well(make_run, tmp_path: Path) -> None:
    """After all that changes the labels: here a pull whose segments have no score."""
    run = make_run({"good.jpg": MAP}, NAMES)
    summary = export(
        "coco", run, tmp_path / "a.json", amend=lambda records: (record(r.path, math.nan) for r in records)
    )
    assert (summary.images, summary.skipped) == (0, 1)


def test_the_web_report_lists_them_as_failures(run: RunReader, tmp_path: Path) -> None:
    done = make_report(run, tmp_path / "report")
    assert (done.photos, done.failed) == (1, 2)
    page = done.index.read_text()
    assert page.count("the score of the segment &#x27;cat&#x27; is nan") >= 1
    assert "worse.jpg" in page
    assert "NaN" not in page.replace("isNaN", "")


@pytest.mark.parametrize("options", [[], ["--metrics", "recall"]])
def test_evaluating_the_rest(run: RunReader, make_run, tmp_path: Path, options: list[str]) -> None:
    """They count as failed, though the truth has them; the report is JSON."""
    whole = make_run(dict.fromkeys(["bad.jpg", "good.jpg", "worse.jpg"], MAP), NAMES, root=run.image_root)
    export("mask-png", whole, tmp_path / "truth")
    result = CliRunner().invoke(app, ["eval", str(run.directory), "--truth", str(tmp_path / "truth"), *options])
    assert result.exit_code == 0, result.exception
    (report,) = (run.directory / "eval").glob("*.json")
    found = json.loads(report.read_text(), parse_constant=pytest.fail)
    assert (found["images"], found["images_failed"]) == (1, 2)


def test_looking_at_one_says_what_is_wrong(run: RunReader) -> None:
    result = CliRunner().invoke(app, ["show", str(run.directory), "bad.jpg"])
    assert isinstance(result.exception, RunError)
    assert str(result.exception).startswith("bad.jpg: the score of the segment 'cat' is nan")


def test_a_coco_file_with_such_scores(tmp_path: Path) -> None:
    """Its labels are good all the same; as far as it does not say how sure it is, the score is 1."""
    square = [0, 0, 2, 0, 2, 2, 0, 2]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square], "score": math.nan}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert convert(tmp_path / "a.json", "coco", tmp_path / "b.json").images == 1
    (found,) = json.loads((tmp_path / "b.json").read_text(), parse_constant=pytest.fail)["annotations"]
    assert (found["area"], found["score"]) == (4, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_json_has_them(value: float) -> None:
    with pytest.raises(AnnotatorError, match=rf"expected finite numbers for JSON, but found {value} at a\[1\]\.score$"):
        json_line({"a": [{"score": 1.0}, {"score": value}]})
    assert json_line({"a": [1.5, None, "NaN"]}) == '{"a":[1.5,null,"NaN"]}'
