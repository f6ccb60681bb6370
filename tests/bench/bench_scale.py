"""A run of ten million rows: what resuming, `annotate status` and a COCO export take, in seconds and memory.

python tests/bench/bench_scale.py [--rows 10000000] [--export 100000 1000000]

The run is made by the writer's own code from a few hundred predictions under ever new names (about 30 minutes and
4 GB in the temporary folder for ten million rows) and removed at the end. Each figure is of a process of its own.
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
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.ndimage import zoom

from annotator import ledger
from annotator.parts import list_parts, part_path, parts_folder, write_table
from annotator.prediction import Prediction
from annotator.record import ImageRecord, to_table
from annotator.run import PART_ROWS, Manifest, RunReader, RunWriter
from annotator.vocabulary import Vocabulary

NAMES = tuple(f"class {number:02d}" for number in range(20))
SIZE = (48, 64)
SEGMENTS = 5
TEMPLATES = 8
FAILED_EVERY = 1000
ASKED = 100_000


def path_of(number: int) -> str:
    return f"{number // 10_000:05d}/photo-{number:09d}.jpg"


def prediction(chance: np.random.Generator) -> Prediction:
    """Blobs of five of the classes."""
    fields = [zoom(chance.normal(size=(4, 5)), (SIZE[0] / 4, SIZE[1] / 5), order=1) for _ in range(SEGMENTS)]
    classes = np.sort(chance.choice(len(NAMES), SEGMENTS, replace=False))
    label_map = np.argmax(fields, axis=0).astype(np.int32)
    return Prediction(label_map, tuple(NAMES[each] for each in classes), tuple(classes.tolist()), (0.5,) * SEGMENTS)


def record(number: int, chance: np.random.Generator) -> ImageRecord:
    segments = tuple(prediction(chance).segments())
    size = {"width": SIZE[1], "height": SIZE[0]}
    return ImageRecord(path_of(number), "ok", 100_000, 1.7e9, **size, seconds=0.01, segments=segments)


def generate(directory: Path, rows: int) -> None:
    chance = np.random.default_rng(0)
    templates = [to_table(record(number, chance) for number in range(PART_ROWS)) for _ in range(TEMPLATES)]
    broken = to_table([ImageRecord("", "failed", error="truncated: the end of the file is missing")])
    words = Vocabulary.of(list(NAMES))
    manifest = Manifest({}, "scale", "photos", "1", "bench", vocabulary=words.to_dict(), state="complete")
    with RunWriter.open(directory, manifest) as writer:
        os.fsync = lambda _: None  # a power cut costs no more than this folder
        for first in range(0, rows, PART_ROWS):
            number = first // PART_ROWS
            table = templates[number % TEMPLATES].slice(0, min(PART_ROWS, rows - first))
            if number % (FAILED_EVERY // PART_ROWS) == 0:
                table = pa.concat_tables([table.slice(0, table.num_rows - 1), broken])
            paths = pa.array([path_of(first + row) for row in range(table.num_rows)])
            write_table(part_path(directory, number), table.set_column(0, "path", paths))
            writer.adopt(part_path(directory, number))


def prefix(directory: Path, rows: int, out: Path) -> None:
    """The run of the first so many rows: the same files under other names."""
    parts_folder(out).mkdir(parents=True)
    (out / "ledger").mkdir()
    names = [part.name for part in list_parts(directory)][: rows // PART_ROWS]
    for name in names:
        os.link(parts_folder(directory) / name, parts_folder(out) / name)
    for each in ledger.survey(directory).ledgers:
        if each.parts[-1].name <= names[-1]:
            os.link(each.file, out / "ledger" / each.file.name)
    Manifest.load(directory).save(out)


def peak_megabytes() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def measure_resume(directory: Path) -> dict[str, float]:
    manifest = Manifest.load(directory)
    begun, worked = time.perf_counter(), time.process_time()
    writer = RunWriter.open(directory, manifest)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - worked
    rows = len(writer.finished)
    asked = range(0, 2 * rows, max(2 * rows // ASKED, 1))
    paths = [path_of(number) for number in asked]
    worked = time.process_time()
    found = np.concatenate([writer.finished.among(paths[at : at + 1024]) for at in range(0, len(paths), 1024)])
    each = (time.process_time() - worked) / len(paths) * 1e6
    assert found.tolist() == [number < rows for number in asked]
    writer.close()
    return {"seconds": seconds, "cpu": cpu, "rows": rows, "us_per_path": each}


def measure_status(directory: Path) -> dict[str, float]:
    from annotator import cli

    sys.argv[1:] = ["status", str(directory)]
    begun, worked = time.perf_counter(), time.process_time()
    cli.app(standalone_mode=False)
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - worked}


def measure_export(directory: Path) -> dict[str, float]:
    from exporters.base import export

    begun, worked = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        summary = export("coco", RunReader(directory), Path(folder) / "labels.json", {"segmentation": "rle"})
    seconds, cpu = time.perf_counter() - begun, time.process_time() - worked
    return {"seconds": seconds, "cpu": cpu, "rows": summary.images, "rows_per_cpu_s": summary.images / cpu}


MEASURES = {"resume": measure_resume, "status": measure_status, "export": measure_export}


def in_a_process(what: str, directory: Path) -> None:
    begun = time.perf_counter()
    command = [sys.executable, __file__, "--measure", what, str(directory)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    figures = ", ".join(f"{name} {value:,.2f}" for name, value in found.items())
    print(f"{what}: {figures}; whole process {time.perf_counter() - begun:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--export", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        what, directory = given.measure[0], Path(given.measure[1])
        if what == "make":
            generate(directory, given.rows)
        else:
            print("\n" + json.dumps({**MEASURES[what](directory), "peak_mb": peak_megabytes()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        begun = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--rows", str(given.rows), "--measure", "make", str(run)], check=True)
        seconds = time.perf_counter() - begun
        ledgers = [file.stat().st_size for file in (run / "ledger").glob("*")]
        parts = [part.size for part in list_parts(run)]
        print(
            f"{given.rows:,} rows in {seconds:.0f} s: {len(parts):,} parts, {sum(parts) / 1e6:,.0f} MB; "
            f"{len(ledgers)} ledgers, {sum(ledgers) / 1e6:.0f} MB",
            flush=True,
        )
        in_a_process("resume", run)
        in_a_process("status", run)
        for rows in given.export:
            if rows <= given.rows:
                prefix(run, rows, Path(folder) / f"run-{rows}")
                in_a_process("export", Path(folder) / f"run-{rows}")


if __name__ == "__main__":
    main()
