"""COCO export: peak memory of the tool, which streams, and of one `json.dump` of everything.

python tests/bench/bench_export.py --photos 4000

Each in a process of its own, over the same run of 640 x 480 photos with 20 labels; what Python, numpy and pyarrow take
before they begin is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_rle import smooth_map
from timing import parser, say_ratio

from annotator.bench.measure import peak_resident_mb
from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunWriter, open_run
from annotator.vocabulary import Vocabulary
from exporters import base as exporters

LABELS, DIFFERENT = 20, 16
HEIGHT, WIDTH = 480, 640


def make_run(directory: Path, photos: int) -> None:
    """So many photos of a few different label maps."""
    words = Vocabulary.of([f"class {index}" for index in range(LABELS)])
    maps = [smooth_map(HEIGHT, WIDTH, LABELS, seed) for seed in range(DIFFERENT)]
    predictions = [Prediction(each, words.names, range(LABELS), [0.5] * LABELS) for each in maps]
    records = [
        ImageRecord("", "ok", width=WIDTH, height=HEIGHT, segments=tuple(each.segments())) for each in predictions
    ]
    with RunWriter.open(directory, Manifest({}, "x", "photos", "1", "test", vocabulary=words.to_dict())) as writer:
        for number in range(photos):
            writer.write(replace(records[number % DIFFERENT], path=f"{number:07d}.jpg"))


def ours(directory: Path, out: Path) -> None:
    exporters.export("coco", open_run(directory), out, {"segmentation": "rle"})


def plainly(directory: Path, out: Path) -> None:
    run = open_run(directory)
    assert run.vocabulary is not None
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": index + 1, "name": name} for index, name in enumerate(run.vocabulary.names)]
    for number, record in enumerate(list(run.records()), start=1):
        image = {"id": number, "file_name": record.path, "width": record.width, "height": record.height}
        content["images"].append(image)
        for segment in record.segments:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": segment.class_id + 1,
                    "segmentation": {"size": [record.height, record.width], "counts": segment.rle.decode()},
                    "area": segment.area,
                    "bbox": list(segment.bbox),
                    "iscrowd": 0,
                    "score": segment.score,
                }
            )
    with open(out, "w", encoding="utf-8") as file:
        json.dump(content, file)


WAYS = {"ours": ours, "plain": plainly}


def peak_of(way: str, directory: Path, out: Path) -> float:
    """Megabytes above what the process had before."""
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, str(directory), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def annotations_of(file: Path) -> list[tuple[Any, ...]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    names = {each["id"]: each["file_name"] for each in content["images"]}
    return [
        (names[each["image_id"]], each["category_id"], each["area"], each["segmentation"]["counts"])
        for each in content["annotations"]
    ]


def main(arguments: argparse.Namespace) -> None:
    if arguments.way:
        before = peak_resident_mb()
        WAYS[arguments.way](*map(Path, arguments.paths))
        print(peak_resident_mb() - before)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_run(folder / "run", arguments.photos)
        peaks = {way: peak_of(way, folder / "run", folder / f"{way}.json") for way in WAYS}
        assert annotations_of(folder / "ours.json") == annotations_of(folder / "plain.json")
        megabytes = (folder / "ours.json").stat().st_size / 1e6
    what = f"COCO of {arguments.photos:,} photos with {LABELS} labels each ({megabytes:,.0f} MB)"
    figures = f"{peaks['plain']:,.0f} MB of memory plain, {peaks['ours']:,.0f} MB by the tool; the same annotations"
    say_ratio(peaks["plain"], peaks["ours"], 5, f"{what}: {figures}")


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--photos", type=int, default=4000)
    options.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    main(options.parse_args())
