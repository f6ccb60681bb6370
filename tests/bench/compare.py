"""Two checkouts of the tool against each other: what a run and a COCO export take, in turns on the same photos.

python tests/bench/compare.py --before OTHER_CHECKOUT --after . --photos 1500 --rounds 5

The labeler is `bands` of tests/plugins, which takes next to nothing, so that the pipeline is what is timed: decoding in
worker processes, which are started within it, encoding, parts, ledgers. The photos are blurred, so that its masks have
outlines about as long as those of objects; from sharp photos they are speckled, and run lengths outweigh all else. The
export is of a run of twice as many photos. Each figure is of a process of its own, without its imports; the first round
warms up and does not count. Both checkouts must give the same COCO file. Nothing else should run meanwhile: a
difference below the spread of the rounds says nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageFilter

PLUGINS = Path(__file__).parents[1] / "plugins"
VOCAB = "dark, middle, bright"
COPIES = 2
BLUR = 12

RUN = """
import json, os, sys, time
from pathlib import Path
import annotator
from annotator import pipeline
from annotator.config import RunConfig
photos, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
options = {"images": str(photos), "labeler": "bands", "vocab": sys.argv[4], "pack": "embedded", "out": str(out)}
job = pipeline.prepare(RunConfig(**options, workers=workers, batch_size=8, device="cpu"))
begun, before = time.perf_counter(), os.times()
pipeline.run(job)
seconds, after = time.perf_counter() - begun, os.times()
cpu = sum(after[:4]) - sum(before[:4])
print(json.dumps({"code": annotator.__file__, "seconds": seconds, "cpu": cpu}))
"""
EXPORT = """
import json, os, sys, time
from pathlib import Path
import annotator
from annotator.run import open_run
from exporters.base import export, find
run, out = open_run(sys.argv[1]), Path(sys.argv[2])
find("coco")
begun, worked = time.perf_counter(), time.process_time()
export("coco", run, out, {"segmentation": "rle"})
seconds, cpu = time.perf_counter() - begun, time.process_time() - worked
print(json.dumps({"code": annotator.__file__, "seconds": seconds, "cpu": cpu}))
"""


def timed(checkout: Path, script: str, *arguments: str | Path) -> dict[str, float]:
    paths = os.pathsep.join((str(checkout.resolve()), str(PLUGINS)))
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *map(str, arguments)],  # -P: else the folder that this is called in wins
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    if not Path(figures.pop("code")).is_relative_to(checkout.resolve()):
        raise SystemExit(f"{checkout}: other code was imported")
    return figures


def make_photos(folder: Path, count: int, copies: int) -> None:
    """The demo's photos in turn at 640 x 480, blurred, and links to them for the export's run."""
    from timing import write_samples

    files = write_samples(folder, (640, 480), min(count, 60))
    for file in files:
        with Image.open(file) as image:
            image.filter(ImageFilter.GaussianBlur(BLUR)).save(file, quality=92)
    for name, number in (("run", count), ("export", count * copies)):
        (folder / name).mkdir()
        for place in range(number):
            (folder / name / f"{place:06d}.jpg").hardlink_to(files[place % len(files)])


def say(what: str, before: list[float], after: list[float], unit: str, target: float) -> bool:
    """Whether the target holds for these."""
    old, new = statistics.median(before), statistics.median(after)
    change = 100 * (new / old - 1)
    spread = 100 * max((max(each) - min(each)) / statistics.median(each) for each in (before, after))
    holds = change <= target
    print(
        f"{what:22} before {old:7.3f} {unit}  after {new:7.3f} {unit}  {change:+5.1f} %  (spread {spread:.0f} %)  "
        f"within {target:g} %: {'yes' if holds else 'NO'}",
        flush=True,
    )
    return holds


def main(given: argparse.Namespace) -> int:
    checkouts = {"before": given.before, "after": given.after}
    figures: dict[tuple[str, str], list[dict[str, float]]] = {}
    digests = set()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_photos(folder, given.photos, COPIES)
        for name, checkout in checkouts.items():
            timed(checkout, RUN, folder / "export", folder / f"{name}-large", given.workers, VOCAB)
        for number in range(given.rounds + 1):
            order = list(checkouts) if number % 2 else list(checkouts)[::-1]
            for name in order:
                out, file = folder / f"{name}-run", folder / f"{name}.json"
                shutil.rmtree(out, ignore_errors=True)
                labelled = timed(checkouts[name], RUN, folder / "run", out, given.workers, VOCAB)
                exported = timed(checkouts[name], EXPORT, folder / f"{name}-large", file)
                digests.add(hashlib.sha256(file.read_bytes()).hexdigest())
                if number:
                    figures.setdefault(("run", name), []).append(labelled)
                    figures.setdefault(("export", name), []).append(exported)
    held = []
    for what, photos in (("run", given.photos), ("export", given.photos * COPIES)):
        for figure, unit in (("seconds", "s"), ("cpu", "s of CPU")):
            each = [[round_[figure] for round_ in figures[what, name]] for name in checkouts]
            held.append(say(f"{what} of {photos:,} photos", *each, unit, given.target))
    same = len(digests) == 1
    print("both export the same COCO file" if same else "THE COCO FILES DIFFER")
    return 0 if same and all(held) else 1


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--before", type=Path, required=True, help="A checkout of the tool.")
    options.add_argument("--after", type=Path, default=Path(), help="Another one.")
    options.add_argument("--photos", type=int, default=1500)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--workers", type=int, default=1, help="Decoding processes; 0 decodes in the run's own.")
    options.add_argument("--target", type=float, default=3.0, help="Per cent that `after` may take more.")
    sys.exit(main(options.parse_args()))
