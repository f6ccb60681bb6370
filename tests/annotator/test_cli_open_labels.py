"""The commands for runs with free-text labels, with the sentence encoder of the embedded pack."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers_gallery import Reader
from helpers_runs import Answer, annotate_here
from PIL import Image
from reference.open_runs import Labelled, write_run

from annotator import cli
from annotator.run import open_run

Annotate = Callable[..., Answer]
CLASSES = "background\ncat\nmotorbike\nsky\n"


@pytest.fixture
def annotate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Annotate:
    return lambda *arguments: annotate_here(arguments, monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two photos, its truth, and a list of classes."""
    photos = {
        "a.png": Labelled([[0, 0, 1, 1], [0, 0, 2, 2]], ["a kitten", "motorcycles", "the clear sky"]),
        "b.png": Labelled([[0, 0, 0, 0], [1, 1, 1, 1]], ["motorcycle", "xylophone"]),
    }
    write_run(tmp_path / "run", photos, image_root=tmp_path / "photos", labeler="zeroguide", pack={"name": "embedded"})
    for kind, value in (("photos", 90), ("truth", 0)):
        (tmp_path / kind).mkdir()
        for name in photos:
            Image.new("L", (4, 2), value).save(tmp_path / kind / name)
    Image.fromarray(np.array([[1, 1, 2, 2], [1, 1, 2, 2]], np.uint8)).save(tmp_path / "truth" / "a.png")
    Image.fromarray(np.array([[2, 2, 2, 2], [255, 0, 0, 0]], np.uint8)).save(tmp_path / "truth" / "b.png")
    (tmp_path / "truth" / "classes.txt").write_text(CLASSES)
    (tmp_path / "classes.txt").write_text(CLASSES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_export_with_limits(folder: Path, annotate: Annotate) -> None:
    code, out, err = annotate("export", "run", "--format", "coco", "--out", "labels.json", "--min-count", "2")
    assert code == 0, err
    assert "3 of 4 labels are left out as too rare" in out
    assert [each["name"] for each in json.loads(Path("labels.json").read_text())["categories"]] == ["motorcycle"]
    code, out, err = annotate("export", "run", "--format", "mask-png", "--out", "masks", "--top", "1")
    assert code == 0, err
    assert Path("masks/classes.txt").read_text() == "motorcycle\n"


def test_all_commands_count_the_same_photos(folder: Path, annotate: Annotate) -> None:
    """Several segments of one photo with one label, in whatever spelling, are one photo."""
    photos = {
        "a.png": Labelled([[0, 1, 2, 3], [0, 1, 2, 4]], ["an orange", "oranges", "Orange", "bike", "bike"]),
        "b.png": Labelled([[0, 0, 0, 0], [1, 1, 1, 1]], ["orange", "sky"]),
    }
    write_run(folder / "fruit", photos, image_root=folder / "photos", labeler="zeroguide")
    expected = {"orange": 2, "bike": 1, "sky": 1}

    code, out, err = annotate("status", "fruit")
    assert code == 0, err
    assert {name: int(number) for name, number in re.findall(r"^(\w+) +(\d+) +[\d.]+%$", out, re.MULTILINE)} == expected

    code, out, err = annotate("report", "fruit")
    assert code == 0, err
    index = Reader(folder / "fruit" / "report" / "index.html").index["classes"]
    assert {found["name"]: found["photos"] for found in index.values()} == expected

    code, out, err = annotate("export", "fruit", "--out", "labels.json", "--min-count", "2")
    assert code == 0, err
    assert [each["name"] for each in json.loads(Path("labels.json").read_text())["categories"]] == ["orange"]
    code, out, err = annotate("export", "fruit", "--out", "labels.json", "--min-count", "3")
    assert "the most common, 'orange', is in 2" in err


def test_relabel_then_score_by_pixel(folder: Path, annotate: Annotate) -> None:
    code, out, err = annotate("relabel", "run", "--vocab", "classes.txt", "--by", "tt")
    assert code == 0, err
    assert "4 of 5 segments (80%) kept a class → run-tt" in out
    records = {record.path: record for record in open_run("run-tt").records()}
    assert [segment.label for segment in records["a.png"].segments] == ["cat", "motorbike", "sky"]
    with open("run-tt/mapping.csv", newline="") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert (rows["xylophone"]["kept"], rows["motorcycle"]["class"]) == ("0", "motorbike")
    assert float(rows["motorcycle"]["similarity"]) > 0.8

    code, out, err = annotate("eval", "run-tt", "--truth", "truth")
    assert code == 0, err
    assert "mIoU" in out
    code, out, err = annotate("relabel", "run", "--vocab", "cat, dog", "--by", "tt")
    assert code == cli.EXIT_USAGE
    assert "(vocabulary: only the run has 'background', 'motorbike', 'sky', only this command has 'dog')" in err


def test_scores_of_free_text(folder: Path, annotate: Annotate) -> None:
    code, out, err = annotate("eval", "run", "--truth", "truth", "--metrics", "tt,recall")
    assert code == 0, err
    # photo a: cat 1, motorbike 2 / 4, sky on a motorbike 0; photo b: 1, as the xylophone drops out
    found = json.loads(Path("run/eval/open.json").read_text())["results"]
    assert [(each["by"], each["iou"], each["recall"]) for each in found] == [
        ("tt", pytest.approx((0.5 + 1) / 2), pytest.approx(2 / 3))
    ]
    assert "75.0" in out
    assert Path("run/eval/threshold-tt.png").is_file()

    Path("human.csv").write_text("path,segment,human\na.png,0,3\na.png,1,0\na.png,2,0\n")
    code, out, err = annotate("eval", "run", "--truth", "truth", "--metrics", "tt", "--human", "human.csv")
    assert code == 0, err
    assert out.count("human >= ") == 3


def test_a_run_with_a_vocabulary_has_both_kinds_of_scores(folder: Path, annotate: Annotate) -> None:
    assert annotate("relabel", "run", "--vocab", "classes.txt", "--by", "tt")[0] == 0
    code, out, err = annotate("eval", "run-tt", "--truth", "truth", "--metrics", "miou,recall")
    assert code == 0, err
    assert "mIoU" in out
    assert sorted(path.name for path in Path("run-tt/eval").iterdir()) == [
        "confusion.csv", "confusion.png", "metrics.json", "open.json", "open.md", "per_class.csv", "photos.csv",
        "recall-names.csv", "recall-names.png", "report.md",
    ]  # fmt: skip


def test_one_photo_is_shown(folder: Path, annotate: Annotate) -> None:
    code, out, err = annotate("show", "run", "photos/a.png")
    assert code == 0, err
    assert "motorcycles" in out
    assert Image.open("run/show/a.png.png").size[0] >= 4
    Path("photos/b.png").unlink()
    code, out, err = annotate("show", "run", "b.png", "--out", "b.jpg")
    assert code == cli.EXIT_USAGE
    assert "xylophone" in out
    assert "photos/b.png: " in err
    assert "only the tree can be shown" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("eval", "run", "--truth", "truth"),
            "miou needs a run with a vocabulary, but zeroguide names its own classes",
        ),
        (
            ("eval", "run", "--truth", "truth", "--metrics", "tt,x"),
            "no metric 'x'; known are miou, st, tt, recall, tgq",
        ),
        (
            ("eval", "run", "--truth", "truth", "--metrics", "tt", "--human", "no.csv"),
            "no.csv: expected a CSV of human",
        ),
        (("eval", "run", "--truth", "truth", "--metrics", "tgq", "--set", "captioner=none"), "tgq needs captions"),
        (("relabel", "run", "--vocab", "none.txt"), "none.txt: no such file"),
        (("relabel", "run", "--vocab", "cat, dog", "--by", "tt", "--out", "run"), "another folder than the run's own"),
        (("relabel", "run", "--vocab", "cat, dog", "--by", "tt", "--pack", "nothing"), "no pack 'nothing'"),
        (("export", "run", "--min-count", "3"), "no label is in 3 photos or more"),
        (("export", "run", "--top", "0"), "top: expected at least 1, but got 0"),
        (("train", "phrases", "--captions", "none.json", "--out", "x.bin"), "expected a file name in .safetensors"),
    ],
)
def test_mistakes_are_one_line(folder: Path, annotate: Annotate, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = annotate(*arguments)
    assert code == cli.EXIT_USAGE
    assert message in err
    assert err.strip().splitlines()[-1].startswith("annotate: ")
    assert "Traceback" not in err
