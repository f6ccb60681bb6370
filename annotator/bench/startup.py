"""How long it takes from the command to the first mask: a process of its own, from its very start."""

from __future__ import annotations

import builtins
import importlib
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import RunError
from annotator.stages import Clock, measuring, stage

if TYPE_CHECKING:
    from annotator.config import RunConfig

COMMAND = ("annotator.cli", "annotator.console")
"""What the command line itself imports."""
PARTS = ("interpreter", "import", "weights", "class names", "first photo")


@dataclass(frozen=True)
class StartUp:
    """Seconds, and the same per part. Class names come from the cache where they have been embedded before."""

    seconds: float
    parts: dict[str, float]


def start_up(config: RunConfig) -> StartUp:
    """Of `annotate run` with these settings and `limit` 1, which a new process makes."""
    settings = asdict(config)
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-c", _START, json.dumps([str(Path(entry).resolve()) for entry in sys.path])],
        input=json.dumps({"begun": begun, "config": settings}),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"expected a process of its own to label a photo, but it failed ({done.returncode}); see above")
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return StartUp(sum(parts.values()), parts)


_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from annotator.bench.startup import main; main()"


def main() -> None:
    """Does what `annotate run` does, and prints the seconds of each part."""
    entered = time.time()
    order: dict[str, Any] = json.loads(sys.stdin.read())
    clock = Clock()
    builtins.__import__ = _timed(builtins.__import__)

    def imported() -> float:
        return clock.seconds().get(("MainThread", "import"), 0.0)

    with measuring(clock):
        with stage("import"):
            for name in COMMAND:
                importlib.import_module(name)
            from annotator import pipeline
            from annotator.config import RunConfig
            from annotator.models.devices import keep_freed_memory
        keep_freed_memory()
        job = pipeline.prepare(RunConfig(**order["config"]))
        prepared, imports = time.time(), imported()
        first: list[float] = []
        pipeline.run(job, lambda record: first.append(time.time() - (imported() - imports)))
    names = clock.seconds().get(("MainThread", "class names"), 0.0)
    values = (entered - order["begun"], imported(), prepared - entered - imports - names, names, first[0] - prepared)
    print(json.dumps(dict(zip(PARTS, values, strict=True))))


def _timed(original: Any) -> Any:
    """`import`, whose time is booked where it reads a module that is not there yet."""

    def call(name: str, *arguments: Any, **named: Any) -> Any:
        if name in sys.modules:
            return original(name, *arguments, **named)
        with stage("import"):
            return original(name, *arguments, **named)

    return call
