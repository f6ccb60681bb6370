"""How far the masks of photos that are decoded at a reduced size agree with those of the same files read in full.

python tests/bench/bench_shrunk.py [--size 4000x3000] [--photos 4] [--labeler maskclip] [--noise 6]

The samples are enlarged and get noise of so many gray levels, as a camera's photo has detail in every pixel; each is
read as a JPEG, which its decoder shrinks, and as a PNG, of which pixels are averaged.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from timing import class_names, parser, size_of, write_samples

from annotator import load_labeler
from annotator.decode import decode
from annotator.prediction import LabelMap
from annotator.vocabulary import Vocabulary
from labelers.base import Labeler


def class_map(labeler: Labeler, file: Path, working_side: int | None) -> LabelMap:
    photo = decode(file, working_side=working_side)
    (prediction,) = labeler.label([photo.pixels], [(photo.height, photo.width)])
    return prediction.class_map()


def with_noise(file: Path, levels: float, seed: int) -> Image.Image:
    with Image.open(file) as image:
        pixels = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(seed).normal(0, levels, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=size_of, default=(4000, 3000), metavar="WxH")
    options.add_argument("--photos", type=int, default=4)
    options.add_argument("--labeler", default="maskclip")
    options.add_argument("--pack", default="embedded")
    options.add_argument("--noise", type=float, default=6.0)
    given = options.parse_args()
    labeler = load_labeler(given.labeler, given.pack)
    labeler.prepare(Vocabulary.of(class_names(21, background=True)))
    shares: dict[str, list[float]] = {"jpg": [], "png": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, sample in enumerate(write_samples(Path(folder), given.size, given.photos)):
            image = with_noise(sample, given.noise, number)
            for kind, found in shares.items():
                file = sample.with_suffix(f".{kind}")
                image.save(file, **({"quality": 92} if kind == "jpg" else {"compress_level": 1}))
                shrunk, full = (class_map(labeler, file, side) for side in (labeler.working_side, None))
                found.append(float((shrunk == full).mean()))
    for kind, found in shares.items():
        least, mean = min(found), float(np.mean(found))
        print(f"{given.labeler}, {kind}: {mean:.2%} of pixels agree (least {least:.2%}, {len(found)} photos)")


if __name__ == "__main__":
    main()
