"""What the benchmarks share: photos of a size, two ways timed in turns, and the line that says their ratio."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass
class Ways:
    """plain, ours: seconds of each round."""

    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float]:
        return statistics.median(self.plain), statistics.median(self.ours)


def interleaved(plain: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> Ways:
    """Both in turns, so that whatever else the machine does slows both."""
    ways = Ways()
    for _ in range(rounds):
        for way, seconds in ((plain, ways.plain), (ours, ways.ours)):
            begun = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - begun)
    return ways


def say_ratio(plain: float, ours: float, target: float | None, what: str) -> None:
    """One line; plain, ours: of whatever is less the better, in one unit. target: None where none was set."""
    holds = "" if target is None else f", target {target:g} {'holds' if plain >= target * ours else 'does not hold'}"
    print(f"ratio {plain / ours:.2f}{holds}: {what}", flush=True)


def parser(doc: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def size_of(text: str) -> tuple[int, int]:
    """640x480 -> (width, height)."""
    width, height = text.split("x")
    return int(width), int(height)


def write_samples(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """So many JPEG files of that width and height: the demo's photos in turn, cut to the ratio and enlarged."""
    from annotator.demo import write_photos

    write_photos(folder / "samples")
    samples = sorted((folder / "samples").iterdir())
    width, height = size
    files = []
    (folder / "photos").mkdir()
    for number in range(count):
        with Image.open(samples[number % len(samples)]) as image:
            scale = max(width / image.width, height / image.height)
            beside, above = (image.width - width / scale) / 2, (image.height - height / scale) / 2
            left, top = max(beside, 0), max(above, 0)  # rounding must not lead out of the photo
            box = (left, top, image.width - left, image.height - top)
            files.append(folder / "photos" / f"{number:03d}.jpg")
            image.resize(size, Image.Resampling.BICUBIC, box=box).save(files[-1], quality=92)
    return files


def class_names(count: int, background: bool) -> list[str]:
    """So many of COCO-Stuff's objects and stuff, evenly spread over its list; a background first, in place of one."""
    from evaluation.benchmarks import load_benchmark

    names = list(load_benchmark("coco-stuff").classes)
    wanted = min(count, len(names)) - background
    return (["background"] if background else []) + [names[len(names) * place // wanted] for place in range(wanted)]
