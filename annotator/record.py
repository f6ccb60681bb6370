"""One photo of a run, and the Parquet row that holds it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from annotator.errors import RunError
from annotator.prediction import Prediction, Segment
from annotator.wording import one_line, shown

_SEGMENT = pa.struct(
    [
        ("label", pa.string()),
        ("class_id", pa.int32()),
        ("score", pa.float64()),
        ("area", pa.int64()),
        ("bbox", pa.list_(pa.int32(), 4)),
        ("rle", pa.binary()),
        ("embedding", pa.binary()),  # float16, little-endian
    ]
)
ROW = pa.schema(
    [
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("mtime", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("orientation", pa.int8()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("seconds", pa.float32()),
        ("segments", pa.list_(_SEGMENT)),
        ("history", pa.string()),  # JSON
        ("checksum", pa.uint32()),
    ]
)
LABELS = ("segments", "history")
"""The columns that take the space."""


@dataclass(frozen=True)
class ImageRecord:
    """One photo of a run. `path` is relative to the image root, POSIX; sizes are with EXIF applied;
    `orientation` is the EXIF value found (1 = upright); `seconds` is its share of its batch's labelling;
    `history` is the prediction's. `bytes`, `mtime` and `checksum` are of the file that it was made from, 0 and None
    where nobody looked (`annotator.photo_changes`)."""

    path: str
    status: Literal["ok", "failed"]
    bytes: int = 0
    mtime: float = 0.0
    width: int = 0
    height: int = 0
    orientation: int = 1
    error: str = ""
    seconds: float = 0.0
    segments: tuple[Segment, ...] = ()
    history: Mapping[str, Any] | None = field(default=None, hash=False)
    checksum: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def not_finite(self) -> str:
        """Which segment has a score that is not finite, as runs of older versions may hold; "" where none has."""
        found = next((each for each in self.segments if not isfinite(each.score)), None)
        return f"the score of the segment {found.label!r} is {found.score}" if found else ""

    def prediction(self) -> Prediction:
        """The dense label map again."""
        if self.not_finite:
            raise RunError(f"{self.path}: {self.not_finite}, which nothing can be made of; label it again")
        return replace(Prediction.from_segments(self.segments, self.size), history=self.history)


def to_table(records: Iterable[ImageRecord]) -> pa.Table:
    """A row per record, sorted by path."""
    ordered = sorted(records, key=lambda record: record.path)
    return pa.Table.from_pylist([_to_row(record) for record in ordered], schema=ROW)


def from_row(row: dict[str, Any]) -> ImageRecord:
    """The inverse; columns may be missing: those not read, and those younger than the row."""
    segments = tuple(_from_struct(struct) for struct in row.pop("segments", None) or ())
    return ImageRecord(**row | {"history": _history(row)}, segments=segments)


def _history(row: dict[str, Any]) -> Any:
    text = row.get("history")
    if not text:
        return None
    try:
        history = json.loads(text)
        if not isinstance(history, dict):
            raise ValueError(f"it is {shown(history)}")
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{row['path']}: expected the history of its labels as a JSON object, but it cannot be read "
            f"({one_line(error)}); label it again"
        ) from None
    return history


def _to_row(record: ImageRecord) -> dict[str, Any]:
    row = vars(record) | {"segments": [_to_struct(segment) for segment in record.segments]}
    if record.history is not None:
        row["history"] = json.dumps(record.history, ensure_ascii=False)
    return row


def _to_struct(segment: Segment) -> dict[str, Any]:
    if segment.embedding is None:
        return vars(segment)
    return vars(segment) | {"embedding": segment.embedding.astype("<f2").tobytes()}


def _from_struct(struct: dict[str, Any]) -> Segment:
    embedding = struct.pop("embedding", None)
    vector = None if embedding is None else np.frombuffer(embedding, dtype="<f2").astype(np.float16)
    return Segment(**struct | {"bbox": tuple(struct["bbox"])}, embedding=vector)
