"""One-pass encoding of a label map against one pycocotools.encode (with area and box) per class.

python tests/bench/bench_rle.py
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from pycocotools import mask as coco
from scipy.ndimage import zoom

from annotator.prediction import encode

GRID = 12  # random values along the short side; what lies between them is interpolated


def smooth_map(height: int, width: int, labels: int, seed: int = 0) -> np.ndarray:
    """H x W int32 of blobs with wiggly borders: per pixel the largest of `labels` smooth random fields."""
    rng = np.random.default_rng(seed)
    grain = min(height, width) // GRID
    best, top = np.zeros((height, width), np.int32), np.full((height, width), -np.inf, np.float32)
    for label in range(labels):
        coarse = rng.normal(size=(height // grain + 1, width // grain + 1)).astype(np.float32)
        field = zoom(coarse, (height / coarse.shape[0], width / coarse.shape[1]), order=1)
        wins = field > top
        best[wins], top[wins] = label, field[wins]
    return best


def class_by_class(label_map: np.ndarray) -> None:
    for value in np.unique(label_map):
        encoded = coco.encode(np.asfortranarray(label_map == value))
        coco.area(encoded)
        coco.toBbox(encoded)


def medians(label_map: np.ndarray, rounds: int) -> tuple[float, float]:
    """Seconds of `encode` and of `class_by_class`, measured in turns."""
    ours, theirs = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        encode(label_map)
        between = time.perf_counter()
        class_by_class(label_map)
        ours.append(between - begun)
        theirs.append(time.perf_counter() - between)
    return statistics.median(ours), statistics.median(theirs)


if __name__ == "__main__":
    for height, width, rounds in ((480, 640, 50), (3000, 4000, 7)):
        ours, theirs = medians(smooth_map(height, width, labels=20), rounds)
        print(
            f"{width} x {height}, 20 labels: {ours * 1e3:.2f} ms, class by class {theirs * 1e3:.2f} ms, "
            f"{theirs / ours:.1f} x faster"
        )
