"""What a labeler says about one photo, and its compact form on disk.

Ground floor: numpy and pycocotools only. A `Prediction` holds a dense label map; a `Segment` is one
label of it as COCO run-length encoding. `encode` turns the first into the second in a single pass over
the pixels, whatever the number of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

NOTHING = -1
"""Value of a label map where no label holds."""

LabelMap = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Segment:
    """All pixels of one label in one photo.

    `bbox` is (x, y, width, height) in pixels; `rle` is the ASCII `counts` string of COCO's compressed
    run-length encoding (column-major), byte for byte what `pycocotools.mask.encode` writes. `embedding` is d
    float16, normalised, or None; two segments may be equal in spite of it.
    """

    label: str
    class_id: int
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    rle: bytes
    embedding: NDArray[np.float16] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Prediction:
    """Pixel labels of one photo, at the photo's own size.

    label_map: H x W int32, index into `labels`, `NOTHING` (-1) where none holds; so segments are disjoint.
    labels:    names; free text where the labeler has no vocabulary.
    class_ids: index in the vocabulary's classes per label, or -1.
    scores:    confidence in [0, 1] per label; a score that is not finite is refused.

    Labelers that name their own classes may add:
    embeddings: labels x d float16, normalised: the image embedding of each label's segment.
    history:    how the segments came about, of what JSON has.
    """

    label_map: LabelMap
    labels: Sequence[str] = field(default_factory=tuple)
    class_ids: Sequence[int] = field(default_factory=tuple)
    scores: Sequence[float] = field(default_factory=tuple)
    embeddings: NDArray[np.float16] | None = None
    history: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.label_map.ndim != 2 or self.label_map.dtype != np.int32:
            found = f"{self.label_map.dtype} of shape {self.label_map.shape}"
            raise ValueError(f"Expected label_map to be int32 of shape (H, W), but got {found}")
        if not len(self.labels) == len(self.class_ids) == len(self.scores):
            lengths = f"{len(self.labels)}, {len(self.class_ids)}, {len(self.scores)}"
            raise ValueError(f"Expected labels, class_ids and scores of one length, but got {lengths}")
        if broken := [label for label, score in zip(self.labels, self.scores, strict=True) if not isfinite(score)]:
            raise ValueError(f"Expected finite scores, but got NaN or infinity for {broken[0]!r}")
        if self.embeddings is not None:
            _check_embeddings(self.embeddings, len(self.labels))
        if self.label_map.size:
            low, high = int(self.label_map.min()), int(self.label_map.max())
            if low < NOTHING or high >= len(self.labels):
                raise ValueError(
                    f"Expected label_map values from -1 to {len(self.labels) - 1}, but got {low} to {high}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.label_map.shape
        return height, width

    def class_map(self) -> LabelMap:
        """H x W int32: index in the vocabulary's classes, -1 where nothing holds."""
        lookup = np.array([*self.class_ids, NOTHING], dtype=np.int32)
        classes: LabelMap = lookup[self.label_map]
        return classes

    def segments(self) -> list[Segment]:
        """One segment per label that has pixels, in the order of `labels`."""
        return [
            Segment(
                label=self.labels[run.value],
                class_id=int(self.class_ids[run.value]),
                score=round(float(self.scores[run.value]), 4),
                area=run.area,
                bbox=run.bbox,
                rle=run.rle,
                embedding=None if self.embeddings is None else self.embeddings[run.value],
            )
            for run in encode(self.label_map)
        ]

    @classmethod
    def from_segments(cls, segments: Sequence[Segment], size: tuple[int, int]) -> Prediction:
        """The inverse of `segments`; size is (height, width)."""
        label_map = np.full(size, NOTHING, dtype=np.int32)
        for index, segment in enumerate(segments):
            label_map[decode(segment.rle, size)] = index
        embeddings = [segment.embedding for segment in segments if segment.embedding is not None]
        return cls(
            label_map,
            tuple(segment.label for segment in segments),
            tuple(segment.class_id for segment in segments),
            tuple(segment.score for segment in segments),
            np.stack(embeddings) if segments and len(embeddings) == len(segments) else None,
        )


def _check_embeddings(embeddings: NDArray[np.float16], labels: int) -> None:
    if embeddings.ndim != 2 or len(embeddings) != labels or embeddings.dtype != np.float16:
        found = f"{embeddings.dtype} of shape {embeddings.shape}"
        raise ValueError(f"Expected embeddings to be float16 of shape ({labels}, d), but got {found}")
    if not np.isfinite(embeddings).all():
        raise ValueError("Expected finite embeddings, but got NaN or infinity")


def nearest(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """H x W values at another (height, width): row i is row floor(i * H / height), columns alike."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, values.shape, strict=True))
    return values[rows][:, columns]


@dataclass(frozen=True)
class EncodedValue:
    """One value of a label map: its mask as COCO RLE, with area and (x, y, width, height)."""

    value: int
    area: int
    bbox: tuple[int, int, int, int]
    rle: bytes


def decode(rle: bytes, size: tuple[int, int]) -> Mask:
    """COCO's compressed counts -> H x W bool mask; size is (height, width)."""
    mask: Mask = coco_mask.decode({"size": list(size), "counts": rle}).view(np.bool_)
    return mask


def encode(label_map: NDArray[np.integer]) -> list[EncodedValue]:
    """Every value of an H x W map except -1 as COCO RLE, in increasing order of value, in one pass.

    Runs of equal value are found once in column-major order; runs are then grouped by value, and all
    groups are written to COCO's string form together.
    """
    if label_map.size == 0:
        return []
    narrow = _narrowest(label_map)
    starts = _run_starts(narrow)
    ends = np.append(starts[1:], starts.dtype.type(narrow.size))
    values = narrow[starts % narrow.shape[0], starts // narrow.shape[0]]
    keep = values >= 0
    order = np.argsort(values[keep], kind="stable")
    values, starts, ends = values[keep][order], starts[keep][order], ends[keep][order]
    if values.size == 0:
        return []

    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))  # first run of each value
    areas = np.add.reduceat(ends - starts, first)
    boxes = _boxes(starts, ends, first, label_map.shape[0])
    strings = _leb128(*_counts(starts, ends, first, narrow.size))
    return [
        EncodedValue(int(value), int(area), (int(x), int(y), int(w), int(h)), string)
        for value, area, (x, y, w, h), string in zip(values[first], areas, boxes, strings, strict=True)
    ]


def _narrowest(label_map: NDArray[np.integer]) -> NDArray[np.integer]:
    """The same map in the smallest type that holds it: less to copy, and numpy sorts it by radix."""
    top = label_map.max()
    return label_map.astype(np.int8 if top < 2**7 else np.int16 if top < 2**15 else np.int32, copy=False)


def _run_starts(label_map: NDArray[np.integer]) -> NDArray[np.integer]:
    """Where runs of equal value begin in column-major order.

    Neighbours in a column are compared row against row, as memory lies; the few changes are then sorted.
    """
    height, width = label_map.shape
    kind = np.int32 if label_map.size < 2**31 else np.int64
    changes = np.flatnonzero(label_map[1:] != label_map[:-1]).astype(kind)
    row = changes // width
    inside = (changes - row * width) * height + row + 1
    across = (np.flatnonzero(label_map[0, 1:] != label_map[-1, :-1]).astype(kind) + 1) * height
    return np.sort(np.concatenate([np.zeros(1, kind), inside, across]))


def _boxes(starts: NDArray[np.integer], ends: NDArray[np.integer], first: NDArray[np.int64], height: int) -> NDArray:
    """Bounding box per group of column-major runs: groups x (x, y, width, height)."""
    left, right = starts // height, (ends - 1) // height
    top, bottom = starts - left * height, ends - 1 - right * height
    wraps = right > left  # a run over a column's end touches the lowest and the highest row
    top, bottom = np.where(wraps, 0, top), np.where(wraps, height - 1, bottom)
    x, y = np.minimum.reduceat(left, first), np.minimum.reduceat(top, first)
    return np.stack(
        [x, y, np.maximum.reduceat(right, first) - x + 1, np.maximum.reduceat(bottom, first) - y + 1], axis=1
    )


def _counts(
    starts: NDArray[np.integer], ends: NDArray[np.integer], first: NDArray[np.int64], pixels: int
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Runs grouped by value -> all groups' alternating gap/run lengths in a row, and where each group begins.

    A group is gap, run, gap, run, ... and ends with the pixels left over where there are any, as
    pycocotools writes it.
    """
    previous_end = np.roll(ends, 1)
    previous_end[first] = 0
    last = np.append(first[1:], starts.size) - 1
    remainder = pixels - ends[last]
    slots = np.arange(starts.size) * 2
    extra_before = np.append(0, np.cumsum(remainder > 0))  # trailing gaps written by earlier groups
    slots += np.repeat(extra_before[:-1], np.diff(np.append(first, starts.size)))
    counts = np.empty(starts.size * 2 + extra_before[-1], dtype=starts.dtype)
    counts[slots] = starts - previous_end
    counts[slots + 1] = ends - starts
    has_remainder = remainder > 0
    counts[slots[last][has_remainder] + 2] = remainder[has_remainder]
    return counts, slots[first]


def _leb128(counts: NDArray[np.integer], group_starts: NDArray[np.int64]) -> list[bytes]:
    """COCO's string form of several count lists: from the fourth on, the difference to the count two before,
    in 5-bit groups, lowest first, bit 5 says "more follow", offset 48."""
    values = counts.copy()
    values[2:] -= counts[:-2]
    whole = (group_starts[:, None] + np.arange(3)).ravel()  # a shorter group's third is the next one's first
    whole = whole[whole < counts.size]
    values[whole] = counts[whole]

    magnitude = np.where(values < 0, ~values, values)
    width = np.ones(values.size, dtype=np.int8)  # characters per value: 4 bits and a sign, then 5 bits each
    limit = 1 << 4
    while (wider := magnitude >= limit).any():
        width += wider
        limit <<= 5
    offset = np.cumsum(width, dtype=values.dtype) - width
    text = np.empty(offset[-1] + width[-1], dtype=np.uint8)
    for index in range(int(width.max())):
        chosen = np.flatnonzero(width > index)
        follows = width[chosen] > index + 1
        text[offset[chosen] + index] = ((values[chosen] >> (5 * index)) & 0x1F | (follows << 5)) + 48
    begins = np.append(offset[group_starts], text.size)
    return [text[begin:end].tobytes() for begin, end in pairwise(begins)]
