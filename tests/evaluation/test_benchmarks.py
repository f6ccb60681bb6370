"""The benchmarks on miniatures in their own folder layouts, and what is said where files are missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers_miniatures import (
    CITYSCAPES,
    CONTEXT59_MAT,
    MINIATURES,
    OBJECT_MAPS,
    VOC20,
    VOC21,
    Miniature,
    save_photo,
    save_text,
)
from PIL import Image

from annotator.errors import ConfigError
from evaluation.benchmarks import available, complete, load_benchmark, result_rows, score, spread, write_benchmark
from evaluation.layouts import numbers, ranges
from evaluation.matching import TruthError


@pytest.mark.parametrize("name", MINIATURES)
def test_miniature_has_the_score_computed_by_hand(name: str, make_run: Callable, tmp_path: Path) -> None:
    miniature = MINIATURES[name]
    benchmark = load_benchmark(miniature.benchmark)
    run = make_run(miniature.build(tmp_path / "data"), benchmark.vocabulary)
    dataset = complete(benchmark, tmp_path / "data")
    evaluation = score(benchmark, dataset, run).evaluation
    shares = dict(zip(evaluation.matrix.classes, evaluation.scores.iou, strict=True))
    assert evaluation.images == len(miniature.photos) == len(dataset.keys)
    assert evaluation.without_truth == 0
    assert {label: share for label, share in shares.items() if not np.isnan(share)} == pytest.approx(
        {label: float(share) for label, share in miniature.iou.items()}
    )
    assert evaluation.scores.miou == pytest.approx(miniature.miou)


def test_every_benchmark_has_a_miniature() -> None:
    assert {miniature.benchmark for miniature in MINIATURES.values()} == set(available())


def test_table_stands_beside_the_papers(make_run: Callable, tmp_path: Path) -> None:
    benchmark = load_benchmark("voc21")
    run = make_run(VOC21.build(tmp_path / "data"), benchmark.vocabulary)
    run.manifest.labeler, run.manifest.pack = "dinoiser", {"name": "paper"}
    run.manifest.config["precision"] = "fp32"
    result = score(benchmark, complete(benchmark, tmp_path / "data"), run)
    assert result_rows([result]) == [
        ("dinoiser (paper, fp32)", "70.8", "62.1", "+8.7", "2"),  # 17/24
        ("maskclip", "", "32.9", "", ""),
        ("diy", "", "59.9", "", ""),
    ]
    files = write_benchmark(result, tmp_path / "report")
    assert all(file.is_file() for file in files)
    text = (tmp_path / "report/benchmark.md").read_text()
    assert "| dinoiser (paper, fp32) | 70.8 | 62.1 | +8.7 | 2 |" in text
    assert "2 photos of voc21 are there, but the benchmark has 1,449" in text
    found = json.loads((tmp_path / "report/benchmark.json").read_text())
    assert found["miou"] == pytest.approx(17 / 24)
    assert found["difference"] == pytest.approx(17 / 24 - 0.621)
    assert (tmp_path / "report/benchmark.csv").read_text().splitlines()[1].startswith("voc21,dinoiser,paper,fp32,0.708")
    assert (tmp_path / "report/confusion.csv").is_file()


def test_a_subset_is_spread_and_scored_alone(make_run: Callable, tmp_path: Path) -> None:
    assert spread("abcdefghij", 4) == ["a", "c", "f", "h"]
    assert spread("abc", 3) == spread("abc", 9) == spread("abc", None) == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="subset: expected at least 1, but got 0"):
        spread("abc", 0)
    benchmark = load_benchmark("voc20")
    run = make_run(VOC20.build(tmp_path / "data"), benchmark.vocabulary)
    evaluation = score(benchmark, complete(benchmark, tmp_path / "data"), run, subset=1).evaluation
    assert (evaluation.images, evaluation.without_truth) == (1, 0)
    assert evaluation.scores.miou == 1  # the first photo's answers are right wherever they are scored
    assert any("Only 1 of the 2 photos" in note for note in evaluation.notes)


def test_photos_that_are_not_labelled_yet_are_told(make_run: Callable, tmp_path: Path) -> None:
    answers = VOC20.build(tmp_path / "data")
    benchmark = load_benchmark("voc20")
    run = make_run(dict([next(iter(answers.items()))]), benchmark.vocabulary)
    evaluation = score(benchmark, complete(benchmark, tmp_path / "data"), run).evaluation
    assert (evaluation.images, evaluation.unused_truth) == (1, 1)
    assert "Photos that are not labelled yet: 1." in evaluation.notes


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def clear(folder: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        for file in (root / folder).iterdir():
            if file.is_dir():
                clear(f"{folder}/{file.name}")(root)
            else:
                file.unlink()

    return damage


VOC = "VOCdevkit/VOC2012"


@pytest.mark.parametrize(
    ("miniature", "damage", "expected"),
    [
        (
            VOC20,
            remove(f"{VOC}/JPEGImages/2011_000006.jpg"),
            r"6\.jpg: missing; expected a photo, as .*val\.txt lists",
        ),
        (
            VOC20,
            remove(f"{VOC}/SegmentationClass/2007_000033.png"),
            r"SegmentationClass/2007_000033\.png: missing; expected the truth of .*JPEGImages/2007_000033\.jpg$",
        ),
        (VOC20, remove(f"{VOC}/ImageSets/Segmentation/val.txt"), r"no split: expected .*/Segmentation/val\.txt$"),
        (VOC20, clear(f"{VOC}/JPEGImages"), r"no photo: expected .*VOC2012/JPEGImages/\*\.jpg$"),
        (VOC20, clear(f"{VOC}/SegmentationClass"), r"no ground truth: expected .*SegmentationClass/\*\.png$"),
        (
            CITYSCAPES,
            remove("gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"),
            r"gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds\.png: missing",
        ),
        (
            CITYSCAPES,
            remove("leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png"),
            r"lindau_000000_000019_leftImg8bit\.png: missing; expected a photo, as its truth is there",
        ),
        (CONTEXT59_MAT, remove("VOCdevkit/VOC2010/labels.txt"), r"VOC2010/labels\.txt: missing; expected lines"),
        (
            OBJECT_MAPS,
            clear("stuffthingmaps"),
            r"expected .*stuffthingmaps/val2017/\*\.png or .*_instanceTrainIds\.png or .*instances_val2017\.json$",
        ),
    ],
)
def test_what_is_missing_is_named(
    miniature: Miniature, damage: Callable[[Path], None], expected: str, tmp_path: Path
) -> None:
    benchmark = load_benchmark(miniature.benchmark)
    miniature.build(tmp_path)
    assert benchmark.find(tmp_path).problems == ()
    damage(tmp_path)
    problems = benchmark.find(tmp_path).problems
    assert len(problems) == 1
    with pytest.raises(TruthError, match=expected):
        complete(benchmark, tmp_path)


def test_many_problems_are_one_line(tmp_path: Path) -> None:
    VOC20.build(tmp_path)
    save_text(tmp_path / VOC / "ImageSets/Segmentation/val.txt", "".join(f"2007_{n:06}\n" for n in range(10)))
    with pytest.raises(TruthError, match=r"and 17 more, which --check lists$"):
        complete(load_benchmark("voc20"), tmp_path)
    with pytest.raises(TruthError, match="no such folder"):
        complete(load_benchmark("voc20"), tmp_path / "nowhere")


def test_photos_outside_the_split_do_not_count(make_run: Callable, tmp_path: Path) -> None:
    answers = VOC20.build(tmp_path / "data")
    save_photo(tmp_path / "data" / VOC / "JPEGImages/2009_000001.jpg", [[0]])
    assert complete(load_benchmark("voc20"), tmp_path / "data").keys == tuple(VOC20.photos)
    run = make_run({"2009_000001.jpg": [[0]]}, load_benchmark("voc20").vocabulary)
    with pytest.raises(TruthError, match=r"voc20's 2 photos, such as '2007_000033\.jpg' .*, but found 1 photo and"):
        score(load_benchmark("voc20"), complete(load_benchmark("voc20"), tmp_path / "data"), run)
    assert len(answers) == 2


def test_a_benchmark_of_ones_own(make_run: Callable, tmp_path: Path) -> None:
    """The same form in a file of the user's, here with 16-bit masks."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{title: Mine, photos: 1, images: ['p/*.jpg'], truth: [{files: 't/*.png', values: '300-301'}],"
        " classes: [cat, dog]}"
    )
    save_photo(tmp_path / "p/x.jpg", [[0, 0, 0]])
    (tmp_path / "t").mkdir()
    Image.fromarray(np.array([[300, 301, 301]], dtype=np.uint16)).save(tmp_path / "t/x.png")
    benchmark = load_benchmark(file)
    run = make_run({"x.jpg": [[0, 1, 0]]}, benchmark.vocabulary)
    result = score(benchmark, complete(benchmark, tmp_path), run)
    assert result.evaluation.scores.miou == 0.5
    assert result_rows([result])[0][2:4] == ("–", "")  # no paper has it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{title: x}", "truth: expected a list"),
        ("{title: x, truth: [{files: a, vales: '0'}]}", "no setting 'vales'.*did you mean 'values'"),
        ("{title: x, truth: [{files: a}]}", "expected either values or names"),
        ("{title: x, truth: [{files: a.json, values: '1'}]}", "others: expected background or ignored"),
        ("{title: x, truth: [{files: a, values: '0'}]}", "photos, classes, images must be set"),
        (
            "{title: x, photos: 1, images: [a], truth: [{files: a, values: '0'}], classes: [background]}",
            "background: expected the first class",
        ),
        (
            "{title: x, photos: 1, images: [a], truth: [{files: a, values: '0'}], classes: [cat, cat]}",
            "expected every name once",
        ),
    ],
)
def test_benchmarks_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_benchmark(tmp_path / "x.yaml")


def test_unknown_benchmark() -> None:
    with pytest.raises(ConfigError, match=r"no benchmark 'voc'; known are ade20k, .*voc20, voc21"):
        load_benchmark("voc")


def test_values_are_read_and_written() -> None:
    assert numbers("0-2, 5,7-7") == [0, 1, 2, 5, 7]
    assert ranges([0, 1, 2, 5, 7]) == "0-2, 5, 7"
    for text in ("a", "1-", "-3", "70000", "1-70000"):
        with pytest.raises(TruthError, match="expected values such as"):
            numbers(text)
