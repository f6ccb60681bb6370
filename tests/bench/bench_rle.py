"""One-pass encoding of a label map against one pycocotools.encode (with area and box) per class.

python tests/bench/bench_rle.py
"""

from __future__ import annotations

from functools import partial

import numpy as np
from pycocotools import mask as coco
from scipy.ndimage import zoom
from timing import interleaved, parser, say_ratio, size_of

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


def medians(label_map: np.ndarray, seconds: float) -> tuple[float, float]:
    """Seconds of `class_by_class` and of `encode`, measured in turns for about so long."""
    ways = partial(interleaved, partial(class_by_class, label_map), partial(encode, label_map))
    plain, ours = ways(1).medians
    return ways(max(int(seconds / (plain + ours)), 3)).medians


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", nargs="+", type=size_of, default=[(640, 480), (4000, 3000)], metavar="WxH")
    options.add_argument("--labels", type=int, default=20)
    options.add_argument("--seconds", type=float, default=5.0, help="about so long per size")
    arguments = options.parse_args()
    for width, height in arguments.size:
        plain, ours = medians(smooth_map(height, width, arguments.labels), arguments.seconds)
        what = f"{width} x {height}, {arguments.labels} labels"
        say_ratio(plain, ours, 10, f"{what}: {ours * 1e3:.2f} ms, class by class {plain * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
