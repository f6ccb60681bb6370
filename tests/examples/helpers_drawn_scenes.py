"""Photos of a ball and a box on textured ground, their true masks, and labels of them as bad as a labeler's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunWriter
from annotator.vocabulary import Vocabulary

CLASSES = ("ground", "ball", "box")
COLOURS = ((105, 110, 90), (190, 90, 70), (80, 100, 180))
HEIGHT, WIDTH = 96, 128
SHIFT = 4  # pixels by which labels are off, down and to the right
SWAPPED = 0.2  # share of the photos whose ball is labelled as the box, and the box as the ball
Labels = NDArray[np.int32]


def draw_scenes(folder: Path, count: int, seed: int) -> dict[str, Labels]:
    """-> file name: true mask of the photo."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    truth = {}
    for name in (f"{index:03d}.png" for index in range(count)):
        mask = Image.new("L", (WIDTH, HEIGHT))
        pen = ImageDraw.Draw(mask)
        for value, left in ((1, 4), (2, 68)) if rng.random() < 0.5 else ((2, 4), (1, 68)):
            side = int(rng.integers(30, 50))
            x, y = left + int(rng.integers(0, 56 - side)), int(rng.integers(4, 92 - side))
            (pen.ellipse if value == 1 else pen.rectangle)((x, y, x + side, y + side), fill=value)
        truth[name] = np.asarray(mask).astype(np.int32)
        colours = np.array(COLOURS) + rng.normal(0, 12, (3, 3))
        coarse = rng.normal(0, 16, (HEIGHT // 4, WIDTH // 4, 1)).repeat(4, axis=0).repeat(4, axis=1)
        pixels = colours[truth[name]] + coarse + rng.normal(0, 12, (HEIGHT, WIDTH, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
    return truth


def spoil(truth: dict[str, Labels], seed: int) -> dict[str, Labels]:
    """The masks shifted by some pixels, two of three classes swapped in some photos, and a corner without a label."""
    rng = np.random.default_rng(seed)
    spoiled = {}
    for name, mask in truth.items():
        labels = np.roll(mask, (SHIFT, SHIFT), axis=(0, 1))
        if rng.random() < SWAPPED:
            labels = np.array([0, 2, 1], np.int32)[labels]
        labels[:8, :8] = -1
        spoiled[name] = labels
    return spoiled


def write_run(directory: Path, photos: Path, labels: dict[str, Labels]) -> None:
    """As a labeler over CLASSES leaves it."""
    vocabulary = Vocabulary.of(CLASSES)
    manifest = Manifest({}, "x", str(photos), "1", "drawn", vocabulary=vocabulary.to_dict(), state="complete")
    with RunWriter.open(directory, manifest) as writer:
        for name, label_map in labels.items():
            segments = Prediction(label_map, CLASSES, range(3), [0.5] * 3).segments()
            writer.write(ImageRecord(name, "ok", width=WIDTH, height=HEIGHT, segments=tuple(segments)))
