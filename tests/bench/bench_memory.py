"""Peak resident memory of whole runs: a large photo, many photos, many classes.

python tests/bench/bench_memory.py photo   [--size 320x240 10000x10000] [--format jpg png] [--classes 21]
python tests/bench/bench_memory.py photos  [--counts 500 10000] [--size 640x480]
python tests/bench/bench_memory.py classes [--counts 20 20000] [--size 640x480]

Each takes --labeler (maskclip) and --pack (embedded). A run is `annotate run` in a process of its own, and its figure
the sum of that process's and its decoders' peaks. Photos are drawn from the samples. Made-up class names have seeded
random vectors for embeddings, laid into the cache of a folder of this program's own; --embed has the text tower make
them, in a run before the one that is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from timing import class_names, parser, size_of, write_samples

from annotator.models.packs import open_networks
from labelers.base import find

ROOT = Path(__file__).parents[2]
TOOL = [sys.executable, "-c", "from annotator.cli import main; main()"]
LOOK_SECONDS = 0.02
SMALL = (320, 240)


def peak_of(command: Sequence[str], cache: Path) -> float:
    """MB: what a process and those that it starts had at most, each at its own worst moment."""
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    environment = {**os.environ, "ANNOTATE_CACHE": str(cache), "PYTHONPATH": path}
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, env=environment, stderr=said) as process:
        peaks: dict[int, int] = {}
        while process.poll() is None:
            for number in family(process.pid):
                peaks[number] = peak_kilobytes(number) or peaks.get(number, 0)
            time.sleep(LOOK_SECONDS)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode())
    return sum(peaks.values()) * 1024 / 1e6


def family(process: int) -> list[int]:
    """A process and all that descend from it, each from when it runs a program of its own: until then its memory is
    its parent's."""
    found = [process]
    for parent in found:
        for file in Path(f"/proc/{parent}/task").glob("*/children"):
            children = map(int, read(file).split())
            found += (child for child in children if read(of(child, "cmdline")) != read(of(parent, "cmdline")))
    return found


def of(process: int, name: str) -> Path:
    return Path(f"/proc/{process}/{name}")


def read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # that process or thread has ended
        return ""


def peak_kilobytes(process: int) -> int | None:
    found = re.search(r"VmHWM:\s+(\d+) kB", read(of(process, "status")))
    return int(found[1]) if found else None


def run(folder: Path, photos: Path, vocabulary: Path, given: argparse.Namespace) -> float:
    """Peak of a run from its first line to its last, in MB."""
    options = ["--labeler", given.labeler, "--pack", given.pack, "--images", str(photos), "--vocab", str(vocabulary)]
    return peak_of([*TOOL, "run", "-q", "--overwrite", "--out", str(folder / "run"), *options], folder / "cache")


def measure_photo(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Each alone, after a run that embeds the names."""
    vocabulary = write_names(folder, class_names(given.classes, background=True))
    run(folder, write_photo(folder / "first", SMALL, "jpg"), vocabulary, given)
    found = {}
    for size, kind in product(given.size, given.format):
        name = "{}x{} {}".format(*size, kind)
        found[name] = run(folder, write_photo(folder / name, size, kind), vocabulary, given)
    return found


def write_photo(folder: Path, size: tuple[int, int], kind: str) -> Path:
    """A folder with one photo of that width and height."""
    folder.mkdir()
    (jpeg,) = write_samples(folder, size, 1)
    if kind != "jpg":
        with Image.open(jpeg) as image:
            image.save(jpeg.with_suffix(f".{kind}"), **({"compress_level": 1} if kind == "png" else {}))
        jpeg.unlink()
    return jpeg.parent


def measure_photos(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    samples = write_samples(folder, given.size, 7)
    vocabulary = write_names(folder, class_names(given.classes, background=True))
    found = {}
    for count in given.counts:
        photos = folder / f"{count} photos"
        photos.mkdir()
        for number in range(count):
            (photos / f"{number:06d}.jpg").symlink_to(samples[number % len(samples)])
        found[f"{count:,} photos"] = run(folder, photos, vocabulary, given)
    return found


def measure_classes(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    write_samples(folder, given.size, given.photos)
    found = {}
    for count in given.counts:
        names = ["background", *(f"thing {number:05d}" for number in range(1, count))]
        vocabulary = write_names(folder, names, templates=["{}"])
        if given.embed:
            run(folder, folder / "photos", vocabulary, given)
        else:
            lay_random_embeddings(folder / "cache", names, ["{}"], given)
        found[f"{count:,} classes"] = run(folder, folder / "photos", vocabulary, given)
    return found


def write_names(folder: Path, names: Sequence[str], templates: Sequence[str] = ()) -> Path:
    """A vocabulary; templates: its own in place of the labeler's."""
    file = folder / f"{len(names)}.yaml"
    content = {"templates": list(templates), "classes": list(names)} if templates else list(names)
    file.write_text(yaml.safe_dump(content))
    return file


def lay_random_embeddings(
    cache: Path, names: Sequence[str], templates: Sequence[str], given: argparse.Namespace
) -> None:
    """As if the text tower had made them."""
    os.environ["ANNOTATE_CACHE"] = str(cache)
    clip = open_networks(given.pack, find(given.labeler).spec, "cpu", "fp32").clip
    vectors = np.random.default_rng(0).normal(size=(len(names), clip.visual.proj.shape[1])).astype(np.float32)
    rows = dict(zip(names, torch.nn.functional.normalize(torch.from_numpy(vectors)), strict=True))
    clip._text_cache.get(names, templates, lambda missing, _: torch.stack([rows[name] for name in missing]))


def main() -> None:
    options = parser(__doc__)
    kinds = options.add_subparsers(dest="what", required=True)
    measures = {"photo": measure_photo, "photos": measure_photos, "classes": measure_classes}
    photo, photos, classes = (kinds.add_parser(name) for name in measures)
    photo.add_argument("--size", nargs="+", type=size_of, default=[SMALL, (10_000, 10_000)], metavar="WxH")
    for each in (photos, classes):
        each.add_argument("--size", type=size_of, default=(640, 480), metavar="WxH")
    for each in (photo, photos, classes):
        each.add_argument("--labeler", default="maskclip")
        each.add_argument("--pack", default="embedded")
        each.add_argument("--json", action="store_true", help="only the figures, in MB")
    photo.add_argument("--format", nargs="+", default=["jpg", "png"])
    for each in (photo, photos):
        each.add_argument("--classes", type=int, default=21)
    photos.add_argument("--counts", nargs="+", type=int, default=[500, 10_000])
    classes.add_argument("--counts", nargs="+", type=int, default=[20, 20_000])
    classes.add_argument("--photos", type=int, default=4)
    classes.add_argument("--embed", action="store_true")
    given = options.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as folder:
        found = measures[given.what](Path(folder), given)
    if given.json:
        print(json.dumps(found))
        return
    first = next(iter(found.values()))
    for name, peak in found.items():
        print(f"{given.labeler}, {name}: {peak:,.0f} MB, {peak / first:.3f} times the first ({peak - first:+,.0f} MB)")


if __name__ == "__main__":
    main()
