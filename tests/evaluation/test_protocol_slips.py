"""Each way to get the papers' numbers wrong without noticing, and what catches it here.

The windows themselves (resize, cut, average, upsample, argmax) are compared with a plain per-pixel version in
tests/models/test_windows.py; here it is shown that the benchmarks use them as the papers do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_miniatures import (
    ADE,
    CONTEXT59,
    CONTEXT60_MAT,
    MINIATURES,
    OBJECT_INSTANCES,
    VOC20,
    VOC21,
    Miniature,
    save_mask,
)
from PIL import Image
from scipy.io import savemat
from torch.nn import functional as F

from annotator.models.windows import WindowPlan
from annotator.prediction import nearest
from annotator.vocabulary import ClassEntry, Vocabulary
from evaluation.benchmarks import PROTOCOL, available, complete, load_benchmark, score
from evaluation.confusion import _scored_size
from evaluation.layouts import Pattern
from evaluation.matching import IGNORE, TruthError
from labelers.base import default_parameters, find, resolve_parameters

REDUCED = (VOC20, CONTEXT59, ADE)
LONGEST = 3000


def truth_of(miniature: Miniature, root: Path) -> dict[str, np.ndarray]:
    """Masks by key, in class order."""
    benchmark = load_benchmark(miniature.benchmark)
    miniature.build(root)
    dataset = complete(benchmark, root)
    assert dataset.truth is not None
    return {key: dataset.truth.mask(key, np.shape(miniature.photos[key][1])) for key in dataset.keys}  # type: ignore


# Off by one


@pytest.mark.parametrize("miniature", REDUCED, ids=lambda miniature: miniature.benchmark)
def test_the_zero_label_is_reduced(miniature: Miniature, make_run: Callable, tmp_path: Path) -> None:
    """Value 0 is not scored and value n is class n - 1: a run that is right scores 1, one that is shifted scores 0."""
    masks = truth_of(miniature, tmp_path / "data")
    for key, mask in masks.items():
        values = np.array(miniature.photos[key][0])
        np.testing.assert_array_equal(mask, np.where((values == 0) | (values == 255), IGNORE, values - 1))
    benchmark = load_benchmark(miniature.benchmark)
    dataset = complete(benchmark, tmp_path / "data")
    right = {key + miniature.suffix: np.where(mask == IGNORE, 0, mask).astype(int) for key, mask in masks.items()}
    assert score(benchmark, dataset, make_run(right, benchmark.vocabulary)).evaluation.scores.miou == 1
    count = len(benchmark.classes)
    shifted = {path: (answer + 1) % count for path, answer in right.items()}
    run = make_run(shifted, benchmark.vocabulary)
    assert score(benchmark, dataset, run).evaluation.scores.pixel_accuracy < 0.5


@pytest.mark.parametrize("miniature", [VOC21, VOC20, ADE], ids=lambda miniature: miniature.benchmark)
def test_a_value_past_the_last_class_is_refused(miniature: Miniature, tmp_path: Path) -> None:
    """As it comes where masks were shifted already, or are of another data set."""
    benchmark = load_benchmark(miniature.benchmark)
    miniature.build(tmp_path)
    key = next(iter(miniature.photos))
    beyond = {"voc21": 21, "voc20": 21, "ade20k": 151}[miniature.benchmark]
    save_mask(Path(Pattern(tmp_path, benchmark.truth[0].files).file(key)), [[0, 0, 1], [255, beyond, 1]])
    truth = complete(benchmark, tmp_path).truth
    assert truth is not None
    with pytest.raises(TruthError, match=rf"{key}\.png: value {beyond} is none of the benchmark's; its classes have"):
        truth.mask(key, (2, 3))


def test_unused_coco_ids_are_refused(tmp_path: Path) -> None:
    """Value 11 is COCO id 12, which no class has; taken as class 11 it would shift all that follow."""
    stuff = MINIATURES["coco-stuff"]
    stuff.build(tmp_path)
    save_mask(tmp_path / "stuffthingmaps/val2017/000000000285.png", [[11, 92]])
    truth = complete(load_benchmark("coco-stuff"), tmp_path).truth
    assert truth is not None
    with pytest.raises(TruthError, match="value 11 is none of the benchmark's; its classes have 0-10, 12-24"):
        truth.mask("000000000285", (1, 2))


# What is not scored


@pytest.mark.parametrize("name", ["voc21", "voc20", "context60", "context59", "coco-stuff", "cityscapes", "ade20k"])
def test_answers_on_unscored_pixels_change_nothing(name: str, make_run: Callable, tmp_path: Path) -> None:
    miniature, benchmark = MINIATURES[name], load_benchmark(name)
    answers = miniature.build(tmp_path / "data")
    dataset = complete(benchmark, tmp_path / "data")
    assert dataset.truth is not None
    before = score(benchmark, dataset, make_run(answers, benchmark.vocabulary)).evaluation.matrix.counts
    changed, pixels = {}, 0
    for key in dataset.keys:
        answer = np.array(answers[key + miniature.suffix])
        unscored = dataset.truth.mask(key, answer.shape) == IGNORE  # type: ignore[arg-type]
        pixels += int(unscored.sum())
        changed[key + miniature.suffix] = np.where(unscored, len(benchmark.classes) - 1, answer)
    after = score(benchmark, dataset, make_run(changed, benchmark.vocabulary)).evaluation.matrix.counts
    assert pixels > 0
    assert before.tolist() == after.tolist()


@pytest.mark.parametrize("name", available())
def test_nothing_but_the_ignored_values_is_unscored(name: str, tmp_path: Path) -> None:
    """Every form of every benchmark in 8 bits: classes one to one, the rest unscored, refused or background."""
    benchmark = load_benchmark(name)
    for form in benchmark.truth:
        if form.names:
            continue  # by name, in the miniatures
        table = form.table(tmp_path, benchmark.classes)[:256].astype(int)
        classes = table[table < len(benchmark.classes)]
        if form.others == "background":
            classes = classes[classes > 0]
            assert (table != IGNORE).all()
        else:
            assert set(classes) == set(range(len(benchmark.classes)))
        assert (np.diff(classes) == 1).all()  # each once, in order


# Background


@pytest.mark.parametrize("name", available())
def test_background_is_the_first_class_or_none(name: str) -> None:
    benchmark = load_benchmark(name)
    with_background = name in ("voc21", "context60", "coco-object")
    assert benchmark.background == with_background
    assert benchmark.vocabulary.background_class == (0 if with_background else None)
    assert ("background" in benchmark.classes) == with_background


@pytest.mark.parametrize(
    ("name", "objectness"), [("voc21", "head"), ("coco-object", "head"), ("context60", "none"), ("voc20", "head")]
)
def test_background_is_filtered_where_the_papers_do(name: str, objectness: str) -> None:
    """On for VOC and COCO-Object, off for Context; where no class is the background there is nothing to filter."""
    settings = load_benchmark(name).settings_of("dinoiser", default_parameters("dinoiser"))
    found = resolve_parameters("dinoiser", settings)
    assert found.objectness == objectness
    assert found.background_patch == ("shared" if name in ("voc21", "coco-object") else None)


def test_a_background_at_the_end_is_refused(make_run: Callable, tmp_path: Path) -> None:
    benchmark = load_benchmark("voc21")
    answers = VOC21.build(tmp_path / "data")
    dataset = complete(benchmark, tmp_path / "data")
    names = [*benchmark.classes[1:], "background"]
    with pytest.raises(TruthError, match="expected 'background' but found 'aeroplane'"):
        score(benchmark, dataset, make_run(answers, names))


# Class order and names


def test_other_classes_are_refused(make_run: Callable, tmp_path: Path) -> None:
    benchmark = load_benchmark("voc20")
    answers = VOC20.build(tmp_path / "data")
    dataset = complete(benchmark, tmp_path / "data")
    swapped = [*benchmark.classes[:18], "tvmonitor", "train"]
    with pytest.raises(TruthError, match="not those of voc20 in their order: expected 'train' but found 'tvmonitor'"):
        score(benchmark, dataset, make_run(answers, swapped))
    expanded = tuple(
        replace(entry, prompts=("person", "man", "woman")) if entry.name == "person" else entry
        for entry in benchmark.vocabulary.entries
    )
    with pytest.raises(TruthError, match="expected one name per class"):
        score(benchmark, dataset, make_run(answers, Vocabulary(expanded)))
    longer = Vocabulary((*benchmark.vocabulary.entries, ClassEntry("cup", ("cup",))))
    with pytest.raises(TruthError, match="expected one name per class, but found other entries"):
        score(benchmark, dataset, make_run(answers, longer))
    with pytest.raises(TruthError, match="expected the classes of voc20, but test names its own"):
        score(benchmark, dataset, make_run({"2007_000033.jpg": [[0]]}, None))


def test_published_context_values_go_by_name(tmp_path: Path) -> None:
    """Their order among 459 names is not the benchmark's: shuffled lines give the same masks."""
    before = truth_of(CONTEXT60_MAT, tmp_path)
    file = tmp_path / "VOCdevkit/VOC2010/labels.txt"
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    truth = complete(load_benchmark("context60"), tmp_path).truth
    assert truth is not None
    for key, mask in before.items():
        np.testing.assert_array_equal(truth.mask(key, mask.shape), mask)  # type: ignore[arg-type]
    file.write_text(file.read_text().replace(": wood", ": plank"))
    with pytest.raises(TruthError, match=r"labels\.txt: expected a line `value: wood`, but there is none"):
        complete(load_benchmark("context60"), tmp_path)


# Sizes and windows


def plan_of(labeler: str) -> WindowPlan:
    """As the benchmarks have the labeler resize and cut."""
    settings = load_benchmark("voc21").settings_of(labeler, default_parameters(labeler))
    found = resolve_parameters(labeler, settings)
    return WindowPlan(found.short_side, found.long_side, found.window, found.stride)


@pytest.mark.parametrize("labeler", ["maskclip", "dinoiser"])
def test_photos_are_resized_as_in_the_papers(labeler: str) -> None:
    """Ratio kept, scale = min(448 / short side, 2048 / long side): thin photos stop at the long side."""
    plan = plan_of(labeler)
    rng = np.random.default_rng(0)
    limited = 0
    for height, width in rng.integers(1, LONGEST, (3000, 2)).tolist():
        scale = min(448 / min(height, width), 2048 / max(height, width))
        expected = height * scale, width * scale
        resized = plan.resized((height, width))
        np.testing.assert_allclose(resized, expected, atol=0.5 + 1e-9 + (min(expected) < 0.5))
        limited += max(resized) == 2048
    assert limited > 100
    assert plan.resized((500, 5000)) == (205, 2048)
    assert plan.resized((1024, 2048)) == (448, 896)  # Cityscapes


@pytest.mark.parametrize("labeler", ["maskclip", "dinoiser"])
def test_the_last_window_ends_at_the_border(labeler: str) -> None:
    """Windows of 448 every 224; the count is ceil((side - 448) / 224) + 1, and the last is pushed back inside."""
    plan = plan_of(labeler)
    for side in range(1, 2049):
        count = int(np.ceil(max(side - 448, 0) / 224)) + 1
        starts = [min(224 * number, max(side - 448, 0)) for number in range(count)]
        assert plan.starts(side) == starts
        assert max(starts) + 448 >= side


def test_other_defaults_of_a_labeler_do_not_change_the_protocol() -> None:
    benchmark = load_benchmark("voc20")
    assert benchmark.settings_of("dinoiser", {"short_side": 336, "stride": 112, "gamma": 0.2}) == {
        "short_side": 448,
        "stride": 224,
    }
    assert PROTOCOL == {"short_side": 448, "long_side": 2048, "window": 448, "stride": 224}
    assert not PROTOCOL.keys() & default_parameters("diy").keys()  # it cuts crops of its own
    assert find("diy").spec.needs_background


@pytest.mark.parametrize("name", ["voc21", "context60 as published", "coco-object from instances"])
def test_truth_of_another_size_is_refused(name: str, make_run: Callable, tmp_path: Path) -> None:
    """Never resized, not even to a multiple: doubled truth would be nearest-resized back without a trace."""
    miniature = MINIATURES[name]
    benchmark = load_benchmark(miniature.benchmark)
    answers = miniature.build(tmp_path / "data")
    key, (values, answer) = next(iter(miniature.photos.items()))
    double(tmp_path / "data", miniature, key, np.array(values))
    dataset = complete(benchmark, tmp_path / "data")
    size = f"{len(answer[0])} x {len(answer)}"
    with pytest.raises(TruthError, match=rf"expected the size of its photo, {size}, but found"):
        score(benchmark, dataset, make_run(answers, benchmark.vocabulary))


def double(root: Path, miniature: Miniature, key: str, values: np.ndarray) -> None:
    larger = values.repeat(2, axis=0).repeat(2, axis=1)
    if miniature is OBJECT_INSTANCES:
        file = root / "annotations/instances_val2017.json"
        content = json.loads(file.read_text())
        content["images"][0].update(height=8, width=8)
        file.write_text(json.dumps(content))
    elif miniature is CONTEXT60_MAT:
        savemat(root / f"VOCdevkit/VOC2010/trainval/{key}.mat", {"LabelMap": larger.astype(np.uint16)})
    else:
        save_mask(root / f"VOCdevkit/VOC2012/SegmentationClass/{key}.png", larger.tolist(), palette=True)


def test_damaged_truth_is_refused(tmp_path: Path) -> None:
    CONTEXT60_MAT.build(tmp_path)
    truth = complete(load_benchmark("context60"), tmp_path).truth
    assert truth is not None
    file = tmp_path / "VOCdevkit/VOC2010/trainval/2008_000002.mat"
    for content, message in (
        ({"Other": np.zeros((2, 3))}, "expected a variable LabelMap"),
        ({"LabelMap": np.zeros((2, 3))}, "to be rows of whole numbers, but found float64"),
    ):
        savemat(file, content)
        with pytest.raises(TruthError, match=message):
            truth.mask("2008_000002", (2, 3))
    file.write_bytes(b"no mat")
    with pytest.raises(TruthError, match=r"2008_000002\.mat: expected a \.mat file, but it cannot be read"):
        truth.mask("2008_000002", (2, 3))
    VOC21.build(tmp_path)
    Image.new("RGB", (3, 2)).save(tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png")
    truth = complete(load_benchmark("voc21"), tmp_path).truth
    assert truth is not None
    with pytest.raises(TruthError, match="expected one channel of class indices, but found RGB"):
        truth.mask("2007_000033", (2, 3))


# CLIP-DIY measured otherwise than the others


def test_diy_is_measured_as_its_paper_measured() -> None:
    """Its own names of three classes, FOUND at the photo's own size, labels brought up by nearest, truth at 448."""
    voc, coco = (load_benchmark(name).measured_for("diy") for name in ("voc21", "coco-object"))
    for benchmark, renamed in (
        (voc, {"dining table": ("diningtable",), "tvmonitor": ("tv/monitor",)}),
        (coco, {"aeroplane": ("airplane",)}),
    ):
        assert benchmark.vocabulary.names == benchmark.classes
        prompts = {entry.name: entry.prompts for entry in benchmark.vocabulary.entries}
        assert prompts == {**{name: (name,) for name in benchmark.classes}, **renamed}
        assert benchmark.departure.short_side == 448
        settings = benchmark.settings_of("diy", default_parameters("diy"))
        found = resolve_parameters("diy", settings)
        assert (found.objectness_side, found.upsample) == (None, "labels")


@pytest.mark.parametrize("labeler", ["maskclip", "dinoiser", "a third party's"])
@pytest.mark.parametrize("name", ["voc21", "coco-object"])
def test_other_labelers_are_measured_as_the_benchmark_says(name: str, labeler: str) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.measured_for(labeler) == benchmark


def test_diys_coco_truth_is_painted_from_instances(tmp_path: Path) -> None:
    """Where both forms are there, the others take stuffthingmaps."""
    MINIATURES["coco-object from maps"].build(tmp_path)
    MINIATURES["coco-object from instances"].build(tmp_path)
    benchmark = load_benchmark("coco-object")
    sources = [each.find(tmp_path).truth for each in (benchmark, benchmark.measured_for("diy"))]
    assert [found.source.relative_to(tmp_path).parts[0] for found in sources if found] == [
        "stuffthingmaps",
        "annotations",
    ]


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (640, 480), (100, 1000), (448, 600), (448, 3000)])
def test_truth_is_brought_to_a_short_side_by_nearest(size: tuple[int, int]) -> None:
    """As torch's nearest does it; ratio kept, long side at most 2048: 100 x 1000 becomes 205 x 2048."""
    labels = np.random.default_rng(0).integers(0, 255, size).astype(np.uint16)
    found = nearest(labels, _scored_size(size, 448))
    expected = {
        (375, 500): (448, 597),
        (500, 375): (597, 448),
        (640, 480): (597, 448),
        (100, 1000): (205, 2048),
        (448, 3000): (306, 2048),
    }
    assert found.shape == expected.get(size, size)
    theirs = F.interpolate(torch.from_numpy(labels.astype(np.float32))[None, None], found.shape)
    assert (found == theirs[0, 0].numpy()).mean() > 0.99  # torch rounds the scale to float32


def test_scores_at_a_short_side_say_so(make_run: Callable, tmp_path: Path) -> None:
    """One small photo of a few pixels, each of which becomes a square of many: shares stay as they were."""
    benchmark = load_benchmark("voc21")
    answers = dict([next(iter(VOC21.build(tmp_path / "data").items()))])
    dataset = complete(benchmark, tmp_path / "data")
    run, other_run = (make_run(answers, each.vocabulary) for each in (benchmark.measured_for("diy"), benchmark))
    found, plain = (
        score(each, dataset, each_run).evaluation
        for each, each_run in ((benchmark.measured_for("diy"), run), (benchmark, other_run))
    )
    assert "short side of 448 px" in " ".join(found.notes)
    assert "short side" not in " ".join(plain.notes)
    assert found.matrix.counts.sum() > 1000 * plain.matrix.counts.sum()
    assert found.scores.miou == pytest.approx(plain.scores.miou, abs=1e-9)
