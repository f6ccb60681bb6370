"""The whole way from a run with free-text labels and a truth folder to scores and files, worked out by hand."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference.open_runs import Labelled, Table, image_of, write_run

from annotator.errors import ConfigError
from annotator.models.networks import Networks
from annotator.run import RunReader
from annotator.vocabulary import Vocabulary
from evaluation.human import HumanScores
from evaluation.matching import TruthError
from evaluation.open_evaluation import OpenEvaluation, evaluate_open
from evaluation.open_report import RESULT_COLUMNS, open_summary_rows, result_rows, write_open_report
from evaluation.truth import Truth, open_truth

# directions in the plane, by angle: a text's cosine with a name is that of the angle between them
ANGLES = {"cat": 0, "dog": 90, "sky": 180, "kitten": 20, "hound": 70, "thing": 61, "cloud": 200, "background": 270}
TABLE = {name: (math.cos(math.radians(angle)), math.sin(math.radians(angle))) for name, angle in ANGLES.items()}


VOC = Path(os.environ.get("ANNOTATE_TEST_DATA", "not-set")) / "voc/VOCdevkit/VOC2012"


def toward(name: str) -> Sequence[float]:
    return TABLE[name]


PHOTOS = {
    # truth   background  cat x 4     dog x 2 | open
    # said    kitten      thing       hound, thing
    "a.png": Labelled(
        [[0, 0, 1, 1, 1, 1, 2, 2, 3, 3]],
        ["sky", "kitten", "hound", "thing"],
        [toward("cloud"), toward("cat"), toward("dog"), toward("sky")],
    ),
    "b.png": Labelled([[0, 0, 0, -1]], ["thing"], [toward("cat")]),
    "c.png": None,
    "d.png": Labelled([[0]], ["cat"], [toward("cat")]),  # no truth
}
TRUTH = {"a.png": [[0, 0, 0, 1, 1, 1, 1, 2, 2, 255]], "b.png": [[2, 2, 0, 0]]}


@pytest.fixture
def networks() -> Networks:
    return Networks.of(sentence=Table(TABLE), clip=Table(image_of(TABLE)))


@pytest.fixture
def run(tmp_path: Path, save_mask: Callable) -> RunReader:
    for name, mask in TRUTH.items():
        save_mask(name, mask)
    (tmp_path / "truth" / "classes.txt").write_text("background\ncat\ndog\nsky\n")
    return write_run(tmp_path / "run", PHOTOS, image_root=tmp_path / "photos")


def truth_of(run: RunReader) -> Truth:
    return open_truth(run.directory.parent / "truth", run, own_classes=True)


def scores(evaluation: OpenEvaluation) -> dict[tuple[str, str], tuple[float, float]]:
    return {
        (result.by, result.verification): (result.scores.iou, result.scores.recall) for result in evaluation.results
    }


def test_tt_and_st_by_hand(run: RunReader, networks: Networks) -> None:
    evaluation = evaluate_open(run, truth_of(run), ["tt", "st", "recall"], networks)
    # tt, photo a: sky on background alone does not count; kitten -> cat 3 / 5; hound and thing (61 degrees: nearer to
    # dog, 29) -> dog 2 / 3. photo b: thing -> dog, on dog x 2 and background x 1: 2 / 3.
    # st, photo a: cloud -> sky; cat -> cat 3 / 5; dog alone: hit 1 of 2 + 2 - 1; sky too lies on one dog -> 0.
    # photo b: cat, which is not there, over a dog: dog 0, cat 0.
    tt_iou, st_iou = ((3 / 5 + 2 / 3) / 2 + 2 / 3) / 2, ((3 / 5 + 1 / 3 + 0) / 3 + 0) / 2
    assert scores(evaluation) == {
        ("st", "cosine >= 0.1"): pytest.approx((st_iou, 1 / 3)),
        ("tt", "cosine >= 0.5"): pytest.approx((tt_iou, 1)),
    }
    assert (evaluation.images, evaluation.without_truth, evaluation.failed) == (2, 1, 1)
    assert [(photo.path, photo.by, photo.labels, photo.found) for photo in evaluation.photos] == [
        ("a.png", "st", 2, 1), ("a.png", "tt", 2, 2), ("b.png", "st", 1, 0), ("b.png", "tt", 1, 1)
    ]  # fmt: skip
    assert any("background is no class" in note for note in evaluation.notes)


def test_curves_equal_evaluations_at_each_threshold(
    run: RunReader, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = evaluate_open(run, truth_of(run), ["tt"], networks).curves["threshold-tt"]
    for place in (0, 50, 87, 88, 93, 94, 95, 100):  # cosines: 29 degrees 0.875, 20 degrees 0.940
        monkeypatch.setattr("evaluation.open_evaluation.THRESHOLDS", {"tt": place / 100})
        (result,) = evaluate_open(run, truth_of(run), ["tt"], networks).results
        assert curves.lines["IoU"][place] == pytest.approx(result.scores.iou)
        assert curves.lines["recall at 0.5"][place] == pytest.approx(result.scores.recall)
        assert curves.lines["segments verified"][place] == pytest.approx(result.scores.verified / 5)
    assert len({round(value, 6) for value in curves.lines["IoU"]}) > 2


def test_people_verify_instead(run: RunReader, networks: Networks, tmp_path: Path) -> None:
    sheet = tmp_path / "scores.csv"
    sheet.write_text("path,segment,human\na.png,1,2\na.png,2,3\na.png,3,0\n")
    evaluation = evaluate_open(run, truth_of(run), ["tt"], networks, human=HumanScores.load(sheet))
    dog = 1 / 3  # segment 2 alone: one of 2 + 2 - 1
    found = scores(evaluation)
    assert found["tt", "human >= 1"] == found["tt", "human >= 2"] == pytest.approx(((3 / 5 + dog) / 2, 1 / 2))
    assert found["tt", "human >= 3"] == pytest.approx(((0 + dog) / 2, 0))
    assert any("People judged 1 photo (" in note for note in evaluation.notes)
    assert list(evaluation.curves["recall-tt"].lines) == [
        "cosine >= 0.5", "human >= 1", "human >= 2", "human >= 3"
    ]  # fmt: skip


def test_a_run_with_a_vocabulary_is_scored_by_its_names(tmp_path: Path, run: RunReader) -> None:
    """No network is asked; its background is nothing to find, a class of its own drops out."""
    vocabulary = Vocabulary.of(["background", "dog", "cat", "zebra"])
    named = write_run(
        tmp_path / "named",
        {"a.png": Labelled([[0, 0, 1, 1, 1, 1, 2, 3, 3, 3]], ["background", "cat", "zebra", "dog"])},
        vocabulary,
    )
    evaluation = evaluate_open(named, truth_of(run), ["recall"], Networks.of())
    assert scores(evaluation) == {("names", "none"): pytest.approx(((3 / 5 + 1) / 2, 1))}
    assert list(evaluation.curves) == ["recall-names"]
    assert any(note.startswith("Classes of the run that the truth does not have") for note in evaluation.notes)


def test_coco_json_as_truth(tmp_path: Path, run: RunReader, networks: Networks) -> None:
    box = {"id": 1, "image_id": 7, "category_id": 5, "iscrowd": 0, "segmentation": [[3, 0, 7, 0, 7, 1, 3, 1]]}
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 1, "width": 10}],
        "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [box],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = open_truth(tmp_path / "truth.json", run, own_classes=True)
    assert truth.names == ("cat", "dog", "background")
    evaluation = evaluate_open(run, truth, ["tt"], networks)
    # kitten -> cat 3 / (4 + 1); hound -> dog lies on a cat: 0; "sky" and "thing" lie on background alone
    # "sky" is no class here: it is as far from cat as can be and drops out
    assert scores(evaluation) == {("tt", "cosine >= 0.5"): pytest.approx(((3 / 5 + 0) / 2, 1))}


IGNORED = "background: {ignore: true}\ncat:\ndog:\nsky:\n"
MERGED = "stuff:\ncat:\ndog:\nsky:\nbackground: {merge_into: stuff}\n"


@pytest.mark.parametrize("classes", [IGNORED, MERGED], ids=["ignored", "merged"])
def test_a_background_that_is_no_class_of_the_truth(
    tmp_path: Path, save_mask: Callable, networks: Networks, classes: str
) -> None:
    """Its class list leaves the background out, or has it count as stuff, which then is to be found like the rest."""
    (tmp_path / "classes.yaml").write_text(classes)
    merged = classes == MERGED
    save_mask("a.png", [[0, 0, 1, 1]] if merged else [[255, 255, 0, 0]])
    vocabulary = Vocabulary.of(["stuff", "cat", "dog", "sky"] if merged else ["cat", "dog", "sky"])
    cat = vocabulary.names.index("cat")
    label_map = [[0, 0, cat, cat]] if merged else [[-1, -1, cat, cat]]
    named = write_run(tmp_path / "run", {"a.png": Labelled(label_map, vocabulary.names)}, vocabulary)
    truth = open_truth(tmp_path / "truth", named, tmp_path / "classes.yaml", own_classes=True)
    evaluation = evaluate_open(named, truth, ["recall"], networks)
    assert evaluation.photos[0].labels == (2 if merged else 1)
    assert not any("background is no class" in note for note in evaluation.notes)


def test_tgq_is_a_way_of_its_own(run: RunReader, networks: Networks, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, mask in TRUTH.items():
        Image.new("RGB", (len(mask[0]), 1)).save(tmp_path / "photos" / name)
    evaluation = evaluate_open(
        run,
        truth_of(run),
        ["tgq"],
        networks,
        describe=lambda: (lambda pixels, masks: len(masks), lambda count: ["kitten", "cloud"][-count:]),
    )
    assert evaluation.results == ()
    assert evaluation.quality is not None
    assert evaluation.quality.share == pytest.approx(1 / 3)  # cat: kitten; dog: cloud; dog: cloud
    files = write_open_report(evaluation, tmp_path / "report")
    assert sorted(path.name for path in files) == ["captions.csv", "open.json", "open.md"]
    rows = list(csv.DictReader((tmp_path / "report/captions.csv").open()))
    assert [(row["truth"], row["caption"], row["right"]) for row in rows] == [
        ("cat", "kitten", "1"), ("dog", "cloud", "0"), ("dog", "cloud", "0")
    ]  # fmt: skip
    assert "33.3 % of 3 segments of 2 photos" in dict(open_summary_rows(evaluation))["text quality (TGQ)"]


def test_files(run: RunReader, networks: Networks, tmp_path: Path) -> None:
    evaluation = evaluate_open(run, truth_of(run), ["st", "tt"], networks)
    for name in ("one", "two"):
        write_open_report(evaluation, tmp_path / name)
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == [
        "open.json", "open.md", "photos.csv",
        "recall-st.csv", "recall-st.png", "recall-tt.csv", "recall-tt.png",
        "threshold-st.csv", "threshold-st.png", "threshold-tt.csv", "threshold-tt.png",
    ]  # fmt: skip
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in written)

    found = json.loads((tmp_path / "one/open.json").read_text())
    assert [(each["by"], each["truth_labels"], each["segments"]) for each in found["results"]] == [
        ("st", 3, 5), ("tt", 3, 5)
    ]  # fmt: skip
    assert found["results"][1]["recall"] == pytest.approx(1)
    assert found["tgq"] is None
    photos = list(csv.DictReader((tmp_path / "one/photos.csv").open()))
    assert float(photos[1]["iou"]) == pytest.approx((3 / 5 + 2 / 3) / 2)
    curve = list(csv.reader((tmp_path / "one/recall-tt.csv").open()))
    assert len(curve) == 102
    assert (curve[1], curve[-1]) == (["0", "1.0"], ["1", "0.0"])
    assert Image.open(tmp_path / "one/threshold-st.png").size[0] > 300

    text = (tmp_path / "one/open.md").read_text()
    assert "| tt | cosine &gt;= 0.5 | 65.0 | 100.0 |" in text
    assert "(threshold-st.png)" in text
    assert all(len(row) == len(RESULT_COLUMNS) for row in result_rows(evaluation))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [(["iou"], "no metric 'iou'; known are miou, st, tt, recall, tgq"), (["tgq"], "tgq needs a captioner")],
)
def test_metrics_that_cannot_be(run: RunReader, networks: Networks, metrics: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_open(run, truth_of(run), metrics, networks)


def test_truth_that_does_not_fit(run: RunReader, networks: Networks, tmp_path: Path) -> None:
    (tmp_path / "truth" / "classes.txt").unlink()
    with pytest.raises(TruthError, match=r"expected a classes\.txt in or beside it that names the masks' values"):
        truth_of(run)
    with pytest.raises(ConfigError, match="miou needs a run with a vocabulary, but test names its own classes"):
        open_truth(tmp_path / "truth", run)
    (tmp_path / "truth" / "classes.txt").write_text("background\ncat\ndog\nsky\n")
    failed = write_run(tmp_path / "failed", {"a.png": None})
    with pytest.raises(TruthError, match="every photo that has truth failed"):
        evaluate_open(failed, truth_of(failed), ["tt"], networks)


def test_zero_verified_segments_are_zero_not_nan(tmp_path: Path, run: RunReader, networks: Networks) -> None:
    silent = write_run(
        tmp_path / "silent",
        {"a.png": Labelled(np.full((1, 10), -1), [], []), "b.png": Labelled([[0] * 4], ["background"], [(1, 1)])},
    )
    evaluation = evaluate_open(silent, truth_of(silent), ["tt"], networks)
    assert scores(evaluation) == {("tt", "cosine >= 0.5"): (0, 0)}
    assert evaluation.results[0].scores.photos == 2


@pytest.mark.skipif(not VOC.is_dir(), reason="VOC 2012 is not at hand (ANNOTATE_TEST_DATA)")
def test_voc_masks_found_as_they_are(tmp_path: Path) -> None:
    """Whatever is said of ambiguous pixels; and a wrong class on all of the background changes nothing either."""
    names = (VOC / "ImageSets/Segmentation/val.txt").read_text().split()
    classes = ["background", *(f"class {index}" for index in range(1, 21))]
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    photos = {}
    for name in names:
        mask = np.array(Image.open(VOC / f"SegmentationClass/{name}.png")).astype(np.int32)
        absent = min(set(range(1, 21)) - set(mask.ravel().tolist()))
        mask[mask == 0] = absent
        mask[mask == 255] = np.arange((mask == 255).sum()) % 20 + 1
        photos[f"{name}.jpg"] = Labelled(mask - 1, classes[1:])
    run = write_run(tmp_path / "run", photos, Vocabulary.of(classes))
    truth = open_truth(VOC / "SegmentationClass", run, tmp_path / "classes.txt", own_classes=True)
    (result,) = evaluate_open(run, truth, ["recall"], Networks.of()).results
    assert (result.scores.photos, result.scores.iou, result.scores.recall) == (len(names), 1, 1)
    assert result.scores.mean_recall == pytest.approx(100 / 101)  # none is above 1
