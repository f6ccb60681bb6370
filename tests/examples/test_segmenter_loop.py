"""The example's loop: a run of bad labels -> export -> training -> a labeler that is better than they were."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers_drawn_scenes import CLASSES, Labels, draw_scenes, spoil, write_run

from annotator import cli
from annotator.errors import ConfigError
from annotator.run import open_run
from annotator.training import loop
from evaluation.confusion import ConfusionMatrix

pytestmark = pytest.mark.slow

RECIPE = {"batch": 4, "crop": 96, "short_side": 96, "lr": 3e-3, "seed": 3}
FLAGS = [text for name, value in RECIPE.items() for text in (f"--{name.replace('_', '-')}", str(value))]
STEPS = 40


class Loop(NamedTuple):
    """fresh: photos that no training saw, with their true masks."""

    folder: Path
    export: Path
    model: Path
    untrained: Path
    labels_miou: float
    fresh: dict[str, Labels]
    said: str


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def call(main: Callable[[], None], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Answer:
    """As in a shell, but in this process."""
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                sys.stderr.write(end.code)
    return Answer(code, *capsys.readouterr())


def train(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Answer:
    from segmenter.train import main

    return call(main, arguments, capsys)


def annotate(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Answer:
    return call(cli.main, arguments, capsys)


def miou(truth: dict[str, Labels], found: dict[str, Labels]) -> float:
    matrix = ConfusionMatrix(CLASSES)
    for name, mask in truth.items():
        matrix.update(mask, found[name])
    return matrix.compute().miou


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """The loop as far as the model, with the real exporter and the real training."""
    from segmenter.data import open_export
    from segmenter.train import Recipe
    from segmenter.train import train as train_model

    from exporters.base import export

    folder = tmp_path_factory.mktemp("loop")
    truth = draw_scenes(folder / "photos", 40, seed=0)
    labels = spoil(truth, seed=1)
    write_run(folder / "run", folder / "photos", labels)
    options = {"preset": "mmseg", "split": "0.9/0.1", "photos": "link"}
    export("mask-png", open_run(folder / "run"), folder / "export", options)

    pairs = open_export(folder / "export")
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("segmenter.train.tell", said.append)
        for name, steps in (("model", STEPS), ("untrained", 0)):
            recipe = Recipe(**RECIPE, steps=steps, labels=pairs.fingerprint())  # type: ignore[arg-type]
            assert train_model(pairs, recipe, folder / f"{name}.safetensors")
    return Loop(
        folder=folder,
        export=folder / "export",
        model=folder / "model.safetensors",
        untrained=folder / "untrained.safetensors",
        labels_miou=miou(truth, labels),
        fresh=draw_scenes(folder / "fresh", 16, seed=2),
        said="\n".join(said),
    )


def label(loop: Loop, weights: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> Answer:
    arguments = ["run", "--labeler", "segmenter", "--set", f"weights={weights}", "--images", str(loop.folder / "fresh")]
    arguments += ["--vocab", str(loop.export / "classes.txt"), "--out", str(out), "--workers", "0", "--device", "cpu"]
    return annotate([*arguments, *more], capsys)


def found_in(run: Path) -> dict[str, Labels]:
    return {record.path: record.prediction().class_map() for record in open_run(run)}


def test_the_model_is_better_than_its_labels(trained: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On new photos, against the truth that it never saw."""
    scores = {}
    for name, weights in (("trained", trained.model), ("untrained", trained.untrained)):
        answer = label(trained, weights, tmp_path / name, capsys)
        assert answer.code == 0, answer.err
        scores[name] = miou(trained.fresh, found_in(tmp_path / name))
    assert trained.labels_miou < 0.7
    assert scores["trained"] > max(0.7, trained.labels_miou + 0.05)
    assert scores["untrained"] < 0.4


def test_the_labels_come_with_scores_of_their_own(
    trained: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(trained, trained.model, tmp_path / "run", capsys, "--limit", "3")
    scores = [segment.score for record in open_run(tmp_path / "run") for segment in record.segments]
    assert len(set(scores)) > 5
    assert all(1 / 3 < score <= 1 for score in scores)


def test_training_tells_how_far_it_is(trained: Loop) -> None:
    assert f"step {STEPS} of {STEPS}, loss 0." in trained.said
    (held,) = re.findall(r"val mIoU (\d+\.\d)%", trained.said)
    assert float(held) > 40
    assert not [*trained.folder.glob("*.checkpoint")]


def test_masks_do_not_depend_on_the_batch(trained: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in ("1", "3"):
        label(trained, trained.model, tmp_path / size, capsys, "--batch-size", size, "--limit", "6")
    alone, together = found_in(tmp_path / "1"), found_in(tmp_path / "3")
    assert len(alone) == 6
    assert all(np.array_equal(alone[name], together[name]) for name in alone)


def test_a_vocabulary_may_say_more_than_names(
    trained: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes that only compete are none of the model's; thresholds hold."""
    vocabulary = tmp_path / "classes.yaml"
    vocabulary.write_text("sky: {ignore: true}\nground: {}\nmud: {merge_into: ground}\nball: {}\nbox: {threshold: 1}\n")
    label(trained, trained.model, tmp_path / "plain", capsys, "--limit", "4")
    assert (
        label(trained, trained.model, tmp_path / "more", capsys, "--limit", "4", "--vocab", str(vocabulary)).code == 0
    )
    plain, more = found_in(tmp_path / "plain"), found_in(tmp_path / "more")
    assert {int(value) for labels in plain.values() for value in np.unique(labels)} == {0, 1, 2}
    for name, labels in plain.items():
        assert np.array_equal(more[name], np.where(labels == 2, -1, labels))


def test_other_weights_are_another_run(trained: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file's hash stands in the run's settings, though its name stays the same."""
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(trained.model.read_bytes())
    assert label(trained, weights, tmp_path / "run", capsys, "--limit", "2").code == 0
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["config"]["settings"]
    assert settings["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()

    assert label(trained, weights, tmp_path / "run", capsys, "--limit", "2").code == 0  # goes on
    weights.write_bytes(trained.untrained.read_bytes())
    answer = label(trained, weights, tmp_path / "run", capsys)
    assert answer.code == 2
    assert f"settings.sha256: the run has {settings['sha256']}, this command has " in answer.err
    answer = label(trained, weights, tmp_path / "new", capsys, "--set", f"sha256={settings['sha256']}")
    assert answer.code == 2
    assert "sha256: expected" in answer.err


@pytest.mark.parametrize(
    ("vocabulary", "problem"),
    [
        ("ground, box, ball", "with 'ball' as number 2, but found 'box'"),
        ("ground, ball", "with 'box' as number 3, but found 'nothing'"),
        ("ground, ball, box, cone", "with 'nothing' as number 4, but found 'cone'"),
    ],
)
def test_other_class_names_are_one_line(
    trained: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str], vocabulary: str, problem: str
) -> None:
    answer = label(trained, trained.model, tmp_path / "run", capsys, "--vocab", vocabulary)
    assert answer.code == 2
    assert problem in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_a_model_are_one_line(
    trained: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors in here")
    for name, problem in (
        ("missing", "there is no"),
        ("other", "expected a model that segmenter.train wrote"),
        ("text", "damaged"),
    ):
        answer = label(trained, tmp_path / f"{name}.safetensors", tmp_path / "run", capsys)
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert problem in answer.err


def test_a_stopped_training_comes_to_the_same_end(
    trained: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import segmenter.train

    arguments = [str(trained.export), "--device", "cpu", *FLAGS, "--steps", "4", "--out"]
    assert train([*arguments, str(tmp_path / "whole.safetensors")], capsys).code == 0

    monkeypatch.setattr(loop, "SAVED_EVERY", 2)
    drawn = 0

    def interrupted(*given: object) -> object:
        nonlocal drawn
        drawn += 1
        if drawn == 4:
            raise KeyboardInterrupt
        return draw(*given)

    draw = segmenter.train.draw
    stopped = [*arguments, str(tmp_path / "stopped.safetensors")]
    with monkeypatch.context() as patch:
        patch.setattr(segmenter.train, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, capsys)
    answer = train([*stopped, "--minutes", "0"], capsys)
    assert answer.code == 0
    assert "is not finished; the same command goes on" in answer.err
    half = (tmp_path / "stopped.safetensors").read_bytes()

    answer = train([*stopped, "--lr", "0.5"], capsys)
    assert answer.code == 1
    assert "expected a checkpoint of the same recipe" in answer.err
    assert train(stopped, capsys).code == 0
    assert (tmp_path / "stopped.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes() != half


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--backbone", "resnet18"], "only tf_efficientnet_lite2 comes with its weights; add --pretrained"),
        (["--backbone", "resnet81", "--pretrained"], "expected a backbone that timm knows, but found 'resnet81'"),
        (["--batch", "1"], "--batch: expected 2 or more, but got 1"),
        (["--device", "tpu"], "--device tpu"),
    ],
)
def test_wrong_flags_are_one_line(
    trained: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], problem: str
) -> None:
    answer = train([str(trained.export), "--out", str(tmp_path / "m.safetensors"), *flags], capsys)
    assert answer.code == 1
    assert problem in answer.err
    assert answer.err.count("\n") == 0


def test_a_folder_that_is_no_export_says_how_to_make_one(tmp_path: Path) -> None:
    from segmenter.data import open_export

    with pytest.raises(ConfigError, match=r"annotate export RUN --format mask-png --preset mmseg --split 0.9/0.1"):
        open_export(tmp_path)
