"""Runs with free-text labels, and networks whose every answer is written down beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunReader, RunWriter
from annotator.vocabulary import Vocabulary


class Table(nn.Module):
    """A sentence encoder and a CLIP text side in one: text -> the direction that the table gives it."""

    def __init__(self, table: Mapping[str, Sequence[float]]) -> None:
        super().__init__()
        self.table = dict(table)
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        rows = [self.table[text] for text in texts]
        return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)

    def text_embeddings(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        return self.embed([template.replace("{}", name) for name in names for template in templates])


def image_of(table: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The table as prompts."""
    return {f"Image of a {name}.": direction for name, direction in table.items()}


class Labelled(NamedTuple):
    """What a labeler says of one photo: H x W index of the segment, and of each segment its text, direction, score."""

    segments: ArrayLike
    labels: Sequence[str]
    embeddings: Sequence[Sequence[float]] | None = None
    scores: Sequence[float] | None = None


def write_run(
    directory: Path,
    photos: Mapping[str, Labelled | None],
    vocabulary: Vocabulary | None = None,
    *,
    image_root: Path = Path("photos"),
    state: str = "complete",
    labeler: str = "test",
    pack: Mapping[str, object] | None = None,
) -> RunReader:
    """None is a photo that failed. With a vocabulary the labels are names of its classes."""
    manifest = Manifest(
        config={"seed": 1},
        config_hash="origin",
        image_root=str(image_root),
        tool_version="1.2",
        labeler=labeler,
        vocabulary=vocabulary.to_dict() if vocabulary else None,
        pack=dict(pack or {}),
    )
    with RunWriter.open(directory, manifest, overwrite=True) as writer:
        for path, labelled in photos.items():
            if labelled is None:
                writer.write(ImageRecord(path, "failed", error="empty file"))
                continue
            label_map = np.array(labelled.segments, dtype=np.int32)
            count = len(labelled.labels)
            prediction = Prediction(
                label_map,
                labelled.labels,
                [vocabulary.names.index(label) if vocabulary else -1 for label in labelled.labels],
                labelled.scores or [0.5] * count,
                None if labelled.embeddings is None else _unit_rows(labelled.embeddings),
            )
            height, width = label_map.shape
            segments = tuple(prediction.segments())
            writer.write(ImageRecord(path, "ok", width=width, height=height, segments=segments))
        manifest.state = state  # type: ignore[assignment]
    return RunReader(directory)


def _unit_rows(rows: Sequence[Sequence[float]]) -> np.ndarray:
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(rows[0]) if rows else 1)
    return (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)).astype(np.float16)
