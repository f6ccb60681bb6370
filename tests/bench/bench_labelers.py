"""A run of the tool against the plain way (plain.py): photos per second, from files to masks on disk.

python tests/bench/bench_labelers.py --labeler dinoiser --size 640x480 4000x3000 --classes 20

The photos are the demo's, enlarged. Class names are embedded beforehand for both (see bench_text.py). What the
networks alone reach in the tool's batches, nothing can exceed (annotator.bench.calls). How far both agree is said, too;
the tool decodes large JPEGs at a reduced size, and in brackets is how far they agree without that. At 12 megapixels the
plain way holds a gigabyte per 20 classes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import plain
import torch
from numpy.typing import NDArray
from timing import class_names, interleaved, parser, say_ratio, size_of, write_samples

from annotator import pipeline
from annotator.bench.calls import Bound, recording
from annotator.config import RunConfig
from annotator.models.classifier import imagenet_templates
from annotator.models.devices import keep_freed_memory
from annotator.models.mini_clip import Stem
from annotator.models.packs import Networks, open_networks
from annotator.run import open_run
from annotator.vocabulary import Vocabulary
from labelers.base import find
from labelers.diy import photo_of

TARGETS = {"maskclip": 3.0, "dinoiser": 3.0, "diy": 4.0}
PHOTOS = {"maskclip": 6, "dinoiser": 6, "diy": 3}
WITH_BACKGROUND = ("dinoiser", "diy")


def ordinary_networks(labeler: str, pack: str) -> Networks:
    """The same weights in networks as their libraries build them: the tool's own folding of batch norms left out."""
    networks = open_networks(pack, find(labeler).spec)
    with patch.object(Stem, "fold", lambda stem: stem):
        for role in ("clip", *(["heads"] if labeler == "dinoiser" else ["found"] if labeler == "diy" else [])):
            getattr(networks, role)
    return networks


def plain_method(labeler: str, networks: Any, names: Sequence[str]) -> plain.Method:
    """The vectors of the names are the tool's own, from its cache."""
    clip = networks.clip
    templates = [photo_of(name) if labeler == "diy" else imagenet_templates() for name in names]
    rows = [clip.text_embeddings([name], each) for name, each in zip(names, templates, strict=True)]
    vectors = torch.cat(rows)
    if labeler == "maskclip":
        return plain.maskclip(clip, vectors)
    if labeler == "dinoiser":
        return plain.dinoiser(clip, networks.heads, vectors, background=0)
    return plain.diy(clip, networks.found, vectors)


def run_plainly(files: Sequence[Path], method: plain.Method, out: Path) -> list[NDArray[np.int64]]:
    """Writes the annotations of all photos; returns the class per pixel of each."""
    content, maps = {}, []
    with torch.inference_mode():
        for file in files:
            classes, annotations = plain.label(file, method)
            for each in annotations:
                each["rle"] = {"size": each["rle"]["size"], "counts": each["rle"]["counts"].decode()}
            content[file.name] = annotations
            maps.append(classes)
    out.write_text(json.dumps(content))
    return maps


def agreement(expected: Sequence[NDArray[np.int64]], directory: Path) -> float:
    """Share of pixels that the run in that folder gives the class that the plain way gives."""
    records = open_run(directory).records()  # in path order, as the photos are
    same = [
        int((record.prediction().class_map() == each).sum()) for record, each in zip(records, expected, strict=True)
    ]
    return sum(same) / sum(each.size for each in expected)


def compare(labeler: str, size: tuple[int, int], classes: int, photos: int, rounds: int, pack: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = write_samples(folder, size, photos)
        names = class_names(classes, labeler in WITH_BACKGROUND)
        config = RunConfig(str(folder / "photos"), labeler, pack=pack, out=str(folder / "run"), overwrite=True)
        vocabulary = Vocabulary.of(names)
        job = pipeline.prepare(config, vocabulary)
        method = plain_method(labeler, ordinary_networks(labeler, pack), names)

        pipeline.run(replace(job, config=replace(config, limit=1)))  # both warm
        run_plainly(files[:1], method, folder / "plain.json")
        expected: list[NDArray[np.int64]] = []

        def plainly() -> None:
            expected[:] = run_plainly(files, method, folder / "plain.json")

        ways = interleaved(plainly, lambda: pipeline.run(job), rounds)
        agree = agreement(expected, job.directory)
        if size[0] * size[1] > 2_000_000:
            pipeline.run(pipeline.prepare(replace(config, full_decode=True), vocabulary))
            fully = f" ({agreement(expected, job.directory):.2%} decoded in full)"
        else:
            fully = ""
        with recording() as calls:
            pipeline.run(job)
        bound = statistics.median(Bound(calls.made).run() for _ in range(rounds))
        theirs, ours = ways.medians
        threads = torch.get_num_threads()
        what = f"{labeler}, {photos} photos of {size[0]} x {size[1]}, {classes} classes, threads {threads}"
        speeds = f"{photos / ours:.2f} photos/s, plain {photos / theirs:.2f}, networks alone {photos / bound:.2f}"
        say_ratio(theirs, ours, TARGETS[labeler], f"{what}: {speeds}; both agree on {agree:.2%}{fully} of pixels")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--labeler", nargs="+", choices=TARGETS, default=["dinoiser"])
    options.add_argument("--size", nargs="+", type=size_of, default=[(640, 480), (4000, 3000)], metavar="WxH")
    options.add_argument("--classes", nargs="+", type=int, default=[20])
    options.add_argument("--photos", type=int)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--pack", default="embedded")
    arguments = options.parse_args()
    keep_freed_memory()
    for labeler in arguments.labeler:
        for size in arguments.size:
            for classes in arguments.classes:
                compare(labeler, size, classes, arguments.photos or PHOTOS[labeler], arguments.rounds, arguments.pack)


if __name__ == "__main__":
    main()
