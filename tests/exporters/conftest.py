"""Runs to export, made from label maps in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunReader, RunWriter
from annotator.vocabulary import Vocabulary

MakeRun = Callable[..., RunReader]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """make_run({"a.jpg": label_map, "bad.jpg": None}, ["cat", "dog"]): None is a photo that failed.

    vocabulary: names or a Vocabulary, whose classes the values of the label maps index; None for open labels,
                which `labels` then names.
    part_rows:  how many photos go into a part.
    turned:     paths of photos with an EXIF rotation.
    """
    made = 0

    def make(
        maps: dict[str, NDArray[np.int32] | None],
        vocabulary: Vocabulary | Sequence[str] | None,
        *,
        labels: Sequence[str] = (),
        scores: Sequence[float] | None = None,
        part_rows: int = 256,
        root: Path = Path("photos"),
        turned: Sequence[str] = (),
    ) -> RunReader:
        nonlocal made
        made += 1
        if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.of(vocabulary)
        names = vocabulary.names if vocabulary else tuple(labels)
        ids = range(len(names)) if vocabulary else [-1] * len(names)
        manifest = Manifest(
            config={},
            config_hash="x",
            image_root=str(root),
            tool_version="1.2",
            labeler="test",
            vocabulary=vocabulary.to_dict() if vocabulary else None,
        )
        directory = tmp_path / f"run{made}"
        with RunWriter.open(directory, manifest) as writer:
            for number, (path, label_map) in enumerate(maps.items()):
                if number % part_rows == 0:
                    writer.flush()
                if label_map is None:
                    writer.write(ImageRecord(path, "failed", error="empty file"))
                    continue
                prediction = Prediction(label_map, names, tuple(ids), tuple(scores or [0.5] * len(names)))
                height, width = prediction.size
                record = ImageRecord(
                    path,
                    "ok",
                    width=width,
                    height=height,
                    orientation=6 if path in turned else 1,
                    segments=tuple(prediction.segments()),
                )
                writer.write(record)
        return RunReader(directory)

    return make


@pytest.fixture
def noise() -> Callable[..., NDArray[np.int32]]:
    """noise(seed, height, width, labels): a label map of coarse noise with specks, holes and unlabelled pixels."""

    def make(seed: int, height: int, width: int, labels: int) -> NDArray[np.int32]:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(-1, labels, (height // 4 + 1, width // 4 + 1))
        fine = np.kron(coarse, np.ones((4, 4), dtype=np.int64))[:height, :width]
        specks = rng.random((height, width)) < 0.05
        fine[specks] = rng.integers(-1, labels, int(specks.sum()))
        return fine.astype(np.int32)

    return make
