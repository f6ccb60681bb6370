"""Runs and truth folders made from plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import Image

from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunReader, RunWriter
from annotator.vocabulary import Vocabulary

MakeRun = Callable[..., RunReader]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A finished run: photo path -> map of class indices (-1 = nothing), or None for a photo that failed."""

    def make(
        photos: Mapping[str, ArrayLike | None],
        classes: Sequence[str] | Vocabulary | None = ("background", "cat", "dog"),
        state: str = "complete",
    ) -> RunReader:
        vocabulary = classes if classes is None or isinstance(classes, Vocabulary) else Vocabulary.of(classes)
        names = vocabulary.names if vocabulary else ("thing",)
        manifest = Manifest(
            config={},
            config_hash="x",
            image_root=str(tmp_path / "images"),
            tool_version="0",
            labeler="test",
            vocabulary=vocabulary.to_dict() if vocabulary else None,
        )
        directory = tmp_path / "run"
        with RunWriter.open(directory, manifest, overwrite=True) as writer:
            for path, class_map in photos.items():
                writer.write(_record(path, class_map, names))
            manifest.state = state  # type: ignore[assignment]
        return RunReader(directory)

    return make


def _record(path: str, class_map: ArrayLike | None, names: Sequence[str]) -> ImageRecord:
    if class_map is None:
        return ImageRecord(path, "failed", error="truncated")
    labels = np.asarray(class_map, dtype=np.int32)
    prediction = Prediction(labels, names, range(len(names)), [1.0] * len(names))
    height, width = labels.shape
    return ImageRecord(path, "ok", width=width, height=height, segments=tuple(prediction.segments()))


@pytest.fixture
def save_mask(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows of values as a PNG below `truth/`; the mode is Pillow's."""

    def save(name: str, values: ArrayLike, mode: str = "L") -> Path:
        array = np.asarray(values, dtype=np.uint16 if mode == "I;16" else np.uint8)
        image = Image.fromarray(array)
        if mode == "P":
            image.putpalette([value for index in range(256) for value in (255 - index, index, 0)])
        elif mode == "1":
            image = Image.fromarray(array.astype(bool))
        file = tmp_path / "truth" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, "PNG")
        return file

    return save
