"""What a run costs on this machine: its stages, and the bound that its networks set, measured in turns."""

from __future__ import annotations

import re
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from annotator.bench.calls import Bound, Calls, recording
from annotator.bench.startup import StartUp, start_up
from annotator.config import RunConfig
from annotator.errors import ConfigError, RunError
from annotator.limits import COUNT
from annotator.run import RunReader
from annotator.spelling import option
from annotator.stages import Clock, measuring

if TYPE_CHECKING:
    from annotator.pipeline import Job

SCHEMA_VERSION = 1
SECONDS = 10.0
"""Of a round, where the number of photos is left open."""
BATCHES_MIN, BATCHES_MAX = 2, 256
REST = "rest"

Say = Callable[[str], None]


@dataclass(frozen=True)
class StageTime:
    """name: of the stage. thread: `main`, or the one in which it goes on meanwhile. seconds: of a run of all photos."""

    name: str
    thread: str
    seconds: float


@dataclass(frozen=True)
class Made:
    """A call to a network: its name, the shapes of its tensors, how often one run makes it."""

    call: str
    shapes: str
    times: int


@dataclass(frozen=True)
class Measured:
    """seconds: of a run of all photos, median over the rounds. bound_seconds: of its calls to networks alone, None
    where it makes none. stages: of a run of `stages_seconds`, to which those of the main thread add up: the median run,
    or on a GPU one apart, for there every stage waits for the GPU, which slows a run."""

    labeler: str
    pack: str
    device: str
    precision: str
    compiled: bool
    batch_size: int
    workers: int
    threads: int
    torch: str
    classes: int | None
    photos: int
    megapixels: float
    rounds: int
    seconds: float
    bound_seconds: float | None
    stages: tuple[StageTime, ...]
    stages_seconds: float
    calls: tuple[Made, ...]
    resident_mb: float
    gpu_mb: float | None
    start_up: StartUp

    @property
    def photos_per_second(self) -> float:
        return self.photos / self.seconds

    @property
    def bound_share(self) -> float | None:
        """Of the bound's speed that the run reaches."""
        return None if self.bound_seconds is None else self.bound_seconds / self.seconds

    def to_json(self) -> dict[str, Any]:
        bound = None if self.bound_seconds is None else self.photos / self.bound_seconds
        speeds = {
            "photos_per_second": self.photos_per_second,
            "bound_photos_per_second": bound,
            "bound_share": self.bound_share,
        }
        return {"schema": SCHEMA_VERSION, **speeds, **asdict(self)}


def measure(
    config: RunConfig, files: list[Path], photos: int | None = None, rounds: int = 3, say: Say = lambda text: None
) -> Measured:
    """config: as for a run; its images and output are not used. files: photos, repeated where there are too few.

    photos: per round; as many as take about 10 s where None.
    """
    from annotator import pipeline

    COUNT.check(rounds, option("rounds"))
    if photos is not None:
        COUNT.check(photos, option("photos"))
    with TemporaryDirectory(prefix="annotate-bench-") as place:
        folder = Path(place)
        several = folder / "photos"
        link_photos(files, several, 1)
        given = replace(config, images=str(several), out=str(folder / "run"), overwrite=True, limit=None)
        job = pipeline.prepare(given)
        if len(job.devices) > 1:
            raise ConfigError(f"--device {config.device}: expected one device to measure, but got {len(job.devices)}")
        say("measuring the start, in a process of its own")
        start = start_up(replace(given, out=str(folder / "first"), limit=1))

        bench = _Bench(job, several, files)
        say("warming up")
        batch = bench.batch_size
        bench.run(batch, watched=False)  # networks are compiled here, where no watcher is compiled with them
        if photos is None:
            seconds = bench.run(batch).seconds
            photos = batch * min(max(round(SECONDS / seconds), BATCHES_MIN), BATCHES_MAX)
        return bench.rounds(photos, rounds, start, say)


@dataclass
class _Run:
    """calls, clock: empty where it was not watched."""

    seconds: float
    calls: Calls = field(default_factory=Calls)
    clock: Clock = field(default_factory=Clock)


class _Bench:
    """A prepared job, run again and again."""

    def __init__(self, job: Job, folder: Path, files: list[Path]) -> None:
        self._job = job
        self._folder = folder
        self._files = files
        self.batch_size = job.crew.batch_size
        self._gpus = [device for device in job.devices if device.startswith("cuda")]

    def run(self, photos: int, watched: bool = True) -> _Run:
        """watched: with its calls to networks and its stages."""
        from annotator import pipeline

        link_photos(self._files, self._folder, photos)
        with ExitStack() as watching:
            run = _Run(0.0)
            if watched:
                run.calls = watching.enter_context(recording())
                run.clock = watching.enter_context(measuring(Clock(self._synchronise)))
            begun = time.perf_counter()
            outcome = pipeline.run(self._job)
            run.seconds = time.perf_counter() - begun
        if outcome.state == "interrupted":
            raise KeyboardInterrupt
        if outcome.summary.failed:
            reason = next(iter(outcome.summary.failures))
            raise RunError(f"expected photos that can be labelled, but {outcome.summary.failed} failed: {reason}")
        return run

    def rounds(self, photos: int, rounds: int, start: StartUp, say: Say) -> Measured:
        import torch

        runs: list[_Run] = []
        bounds: list[float] = []
        resident, gpu = 0.0, None
        apart = self.run(photos) if self._gpus else None
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}: {photos} photos, then their calls to networks alone")
            self._forget_peaks()
            runs.append(self.run(photos, watched=apart is None))
            if not number:
                resident = peak_resident_mb()  # before the bound adds its own
            if self._gpus:
                gpu = max(gpu or 0.0, self._peak_gpu_mb())
            if made := (apart or runs[-1]).calls.made:
                bounds.append(Bound(made).run(self._synchronise))
        middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
        shown, job = apart or middle, self._job
        records = RunReader(job.directory).records(segments=False)
        return Measured(
            labeler=job.config.labeler,
            pack=job.networks.pack,
            device=job.devices[0],
            precision=job.networks.precision,
            compiled=job.networks.compiled,
            batch_size=self.batch_size,
            workers=job.networks.decode_workers if job.config.workers is None else job.config.workers,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            classes=len(job.vocabulary.classes) if job.vocabulary else None,
            photos=photos,
            megapixels=round(statistics.mean(record.width * record.height for record in records) / 1e6, 2),
            rounds=rounds,
            seconds=statistics.median(run.seconds for run in runs),
            bound_seconds=statistics.median(bounds) if bounds else None,
            stages=stage_times(shown.clock.seconds(), shown.seconds),
            stages_seconds=shown.seconds,
            calls=tuple(Made(name, shapes, times) for (name, shapes), times in shown.calls.counted().items()),
            resident_mb=resident,
            gpu_mb=gpu,
            start_up=start,
        )

    def _synchronise(self) -> None:
        import torch

        for device in self._gpus:
            torch.cuda.synchronize(device)

    def _forget_peaks(self) -> None:
        import torch

        for device in self._gpus:
            torch.cuda.reset_peak_memory_stats(device)

    def _peak_gpu_mb(self) -> float:
        import torch

        return sum(torch.cuda.max_memory_allocated(device) for device in self._gpus) / 1e6


def stage_times(spent: Mapping[tuple[str, str], float], whole: float) -> tuple[StageTime, ...]:
    """(thread, stage) -> seconds, with what the main thread did besides as `rest`; threads of one kind count as one."""
    here = threading.current_thread().name
    totals: dict[tuple[str, str], float] = {}
    for (thread, name), seconds in spent.items():
        kind = "main" if thread == here else re.sub(r"[_-]?\d+$", "", thread)
        totals[kind, name] = totals.get((kind, name), 0.0) + seconds
    totals["main", REST] = whole - sum(seconds for (kind, _), seconds in totals.items() if kind == "main")
    ordered = sorted(totals.items(), key=lambda entry: (entry[0][0] != "main", entry[0][1] == REST))
    return tuple(StageTime(name, kind, seconds) for (kind, name), seconds in ordered)


def link_photos(files: list[Path], folder: Path, photos: int) -> None:
    """So many links to the files in turn, in place of what the folder held."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, file in enumerate(islice(cycle(files), photos)):
        (folder / f"{number:06d}{file.suffix}").symlink_to(file.resolve())


def sample_photos(folder: Path) -> list[Path]:
    """Those of `annotate demo`."""
    from annotator.demo import write_photos

    write_photos(folder)
    return sorted(folder.iterdir())


def sample_classes(file: Path, background: bool) -> str:
    """Those of `annotate demo`, in a file; background: whether it is one of them."""
    from annotator.demo import CLASSES

    file.write_text(("background\n" if background else "") + CLASSES, encoding="utf-8")
    return str(file)


def peak_resident_mb() -> float:
    """Of this process so far. (Linux' `ru_maxrss` begins with what the process had that started this one.)"""
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
