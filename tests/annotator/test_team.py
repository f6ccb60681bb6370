"""Several devices in one machine: the same rows as one, all at work at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_processes import PATIENCE
from helpers_runs import PLUGINS, VOCAB, rows, write_photos

from annotator import pipeline
from annotator.config import RunConfig
from annotator.engines.team import Team
from annotator.errors import ConfigError
from annotator.models.devices import resolve_devices
from annotator.prediction import Prediction
from labelers.base import Image, LabelerSpec, Size

NAMES = [f"{number:02d}.png" for number in range(11)]


def run(folder: Path, out: str, **given: object) -> pipeline.Outcome:
    options = {"images": str(folder / "photos"), "vocab": VOCAB, "pack": "embedded", "workers": 0, **given}
    return pipeline.run(pipeline.prepare(RunConfig.load(None, {**options, "out": str(folder / out)})))


def test_a_batch_is_divided_and_the_order_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    write_photos(tmp_path / "photos", NAMES)
    (tmp_path / "photos" / NAMES[4]).write_bytes(b"")
    run(tmp_path, "one", labeler="bands")
    several = run(tmp_path, "several", labeler="bands", device="cpu,cpu,cpu", batch_size=6)
    assert rows(tmp_path / "several") == rows(tmp_path / "one")
    assert (several.summary.ok, several.summary.failed) == (10, 1)


class Waiting:
    """Answers when as many members as the barrier wants are labelling."""

    spec = LabelerSpec("waiting", needs_vocabulary=False, paper="none", roles=())
    working_side = None

    def __init__(self, name: str, barrier: threading.Barrier) -> None:
        self._name, self._barrier = name, barrier

    def prepare(self, vocabulary: object) -> None: ...

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        self._barrier.wait(PATIENCE)
        return [Prediction(np.zeros(image.shape[:2], np.int32), [self._name], [-1], [1.0]) for image in images]


@pytest.mark.stress
def test_members_label_at_the_same_time() -> None:
    """One after the other, none of them would ever answer."""
    barrier = threading.Barrier(3)
    team = Team([Waiting(name, barrier) for name in ("first", "second", "third")])
    found = team.label([np.zeros((4, 5, 3), np.uint8)] * 6)
    assert [prediction.labels[0] for prediction in found] == ["first"] * 2 + ["second"] * 2 + ["third"] * 2


@pytest.mark.slow
def test_networks_on_several_devices_give_the_masks_of_one(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", NAMES[:3], (96, 128))
    for out, device in (("one", "cpu"), ("two", "cpu,cpu")):
        run(tmp_path, out, labeler="maskclip", device=device)
    assert rows(tmp_path / "two") == rows(tmp_path / "one")


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_devices("cpu, cpu") == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_devices("cuda:*") == resolve_devices("cuda:0,cuda:1") == ["cuda:0", "cuda:1"]
    with pytest.raises(ConfigError, match="cpu,cuda:1: expected devices of one kind"):
        resolve_devices("cpu,cuda:1")
    with pytest.raises(ConfigError, match="--device cuda:2: expected auto or one that this machine has"):
        resolve_devices("cuda:0,cuda:2")
