"""Photos per second of two Ray actors against one, on this machine, a thread each.

python tests/bench/bench_ray.py [--photos 32] [--size 640x480] [--rounds 3] [--labeler maskclip] [--actors 2]

The clock runs from the part after which every actor has closed one to the last part, so that starting Ray and opening
networks do not count. Parts are of the same size both ways, and the two ways take turns. With tests/plugins in
PYTHONPATH, `--labeler bands --set seconds=0.5` labels by waiting: what is then short of the number of actors is the
engine's own doing, however busy the machine.

python tests/bench/bench_ray.py --missing 60000 [--labeler maskclip] [--actors 2]

What a part costs besides its labels, and the driver's memory: a run over photos that are not there.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from timing import parser, say_ratio, size_of, write_samples

from annotator import pipeline
from annotator.config import RunConfig, parse_setting
from annotator.engines import ray as engine
from annotator.run import ImageRecord

PARTS = 16


def config_of(folder: Path, images: Path, labeler: str, actors: int, settings: dict[str, Any]) -> RunConfig:
    return RunConfig(
        images=str(images),
        labeler=labeler,
        settings=settings,
        vocab="sky, wall, floor, person, cat, coffee, table, rocket, flower, background",
        pack="embedded",
        out=str(folder / "run"),
        overwrite=True,
        workers=0,
        max_failure_rate=1.0,
        engine="ray",
        actors=actors,
    )


def seconds_per_photo(folder: Path, labeler: str, settings: dict[str, Any], actors: int, most: int) -> float:
    """most: actors that the machine's CPUs are divided for, so that each has as many threads as these."""
    engine.PARTS_EACH = PARTS // actors
    config = config_of(folder, folder / "photos", labeler, actors, settings)
    job = pipeline.prepare(config)
    assert job.cluster is not None
    placement = job.cluster.placement
    job.cluster = replace(job.cluster, placement=replace(placement, cpus=max(1, placement.cpus * actors // most)))
    closed: list[float] = []

    def report(record: ImageRecord) -> None:
        assert record.status == "ok", record.error
        closed.append(time.monotonic())

    pipeline.run(job, report)
    first = actors * len(closed) // PARTS  # photos of the actors' first parts
    return (closed[-1] - closed[first - 1]) / (len(closed) - first)


def hand_out(folder: Path, labeler: str, settings: dict[str, Any], actors: int, count: int) -> None:
    names = folder / "names.txt"
    names.write_text("\n".join(f"{number // 1000:06d}/photo-{number:09d}.jpg" for number in range(count)))
    moments: list[tuple[float, int]] = []

    def report(record: ImageRecord) -> None:
        if len(moments) % 32 == 0 or len(moments) == count - 1:
            moments.append((time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
        else:
            moments.append(moments[-1])

    pipeline.run(pipeline.prepare(config_of(folder, names, labeler, actors, settings)), report)
    parts = count / engine.PART_PHOTOS["cpu"]
    (begun, before), (ended, after) = moments[0], moments[-1]
    print(
        f"{1000 * (ended - begun) / parts:.0f} ms a part, {parts:.0f} parts of {engine.PART_PHOTOS['cpu']} photos; the "
        f"driver's peak memory {before} MB after the first part, {after} MB after the last"
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--photos", type=int, default=32, help=f"rounded to a multiple of {PARTS}")
    options.add_argument("--size", default="640x480")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--labeler", default="maskclip")
    options.add_argument("--actors", type=int, default=2)
    options.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    options.add_argument("--missing", type=int, default=0)
    given = options.parse_args()
    count = max(PARTS, given.photos // PARTS * PARTS)
    settings = dict(parse_setting(pair) for pair in given.set)
    one: list[float] = []
    several: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        if given.missing:
            hand_out(Path(folder), given.labeler, settings, given.actors, given.missing)
            return
        write_samples(Path(folder), size_of(given.size), count)
        for _ in range(given.rounds):
            one.append(seconds_per_photo(Path(folder), given.labeler, settings, 1, given.actors))
            several.append(seconds_per_photo(Path(folder), given.labeler, settings, given.actors, given.actors))
            print(f"one actor {1 / one[-1]:.3f} photos/s, {given.actors} actors {1 / several[-1]:.3f}", flush=True)
    what = f"{given.actors} Ray actors against one, {given.labeler}, {count} photos of {given.size}"
    say_ratio(statistics.median(one), statistics.median(several), 1.8 if given.actors == 2 else None, what)


if __name__ == "__main__":
    main()
