"""Kills the installed `annotate run` with SIGKILL again and again, resumes it each time, and looks for any trace.

    python tests/tools/kill_command.py --kills 200 --seed 0

Kill moments are spread evenly over what is left of the command's life: imports, reading the folder, parts, ledgers,
closing. They are in seconds of CPU, which a busy machine does not stretch. A run that comes to its end is compared with
one that nobody disturbed: every row there once, and the COCO, mask-png and CVAT exports the same byte for byte. Then
the next run begins. After each kill, the rows that were there before must still be there. The labeler is `hasty` of
tests/plugins, whose runs close a part every 12 photos.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "annotator")]

from helpers_runs import PLUGINS, VOCAB, environment, rows, write_photos  # noqa: E402

from annotator.run import Manifest, open_run  # noqa: E402
from exporters import base as exporters  # noqa: E402

COMMAND = Path(sys.executable).with_name("annotate")
FORMATS = ("coco", "mask-png", "cvat")
SOME_FAILED = 3
BAD_EVERY = 50
TICKS = os.sysconf("SC_CLK_TCK")
MOST_KILLS = 12
"""Of one run; then it is left to end."""
BEYOND = 1.1
"""Moments reach this far beyond the life that is expected, so that some runs come to their end."""


@dataclass
class Score:
    """stages: what each kill met; finished: runs that came to their end; faults: a sentence each."""

    stages: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.stages.total()


@dataclass(frozen=True)
class Scene:
    """The photos, of which every fiftieth is bad, and an undisturbed run of them with its exports.

    starting: CPU seconds of a command that finds nothing to do; working: what labelling all photos takes beyond that.
    """

    folder: Path
    photos: int
    starting: float
    working: float
    exports: dict[str, bytes]

    @classmethod
    def make(cls, folder: Path, photos: int) -> Scene:
        names = [f"{number % 7}/{number:04d}.jpg" for number in range(photos)]
        write_photos(folder / "photos", names)
        for name in names[::BAD_EVERY]:
            (folder / "photos" / name).write_bytes(b"")
        whole = undisturbed(folder, folder / "undisturbed")
        starting = undisturbed(folder, folder / "undisturbed")
        exports = exported(folder / "undisturbed", folder / "exports")
        return cls(folder, photos, starting, max(whole - starting, 0.0), exports)

    def life(self, done: int) -> float:
        """CPU seconds that a command is expected to take where so many photos have a row."""
        return self.starting + self.working * (1 - done / self.photos)


def undisturbed(folder: Path, out: Path) -> float:
    """CPU seconds of a command that is left alone."""
    with start(folder, out) as process:
        used = run_until(process, float("inf"))
    if process.returncode not in (0, SOME_FAILED):
        raise SystemExit(f"the undisturbed run ended with {process.returncode}: {(folder / 'stderr').read_text()}")
    return used


def run_until(process: subprocess.Popen[bytes], moment: float) -> float:
    """Waits until the process has ended, or has used so many CPU seconds -> how many it has used."""
    used = 0.0
    while process.poll() is None and used < moment:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] != "Z":
            used = (int(fields[11]) + int(fields[12])) / TICKS
        time.sleep(0.001)
    return used


def start(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    command: list[str | Path] = [COMMAND, "run", "--quiet", "--images", folder / "photos", "--labeler", "hasty"]
    command += ["--vocab", VOCAB, "--pack", "embedded", "--out", out, "--workers", "1", "--batch-size", "4"]
    paths = os.pathsep.join((environment()["PYTHONPATH"], str(PLUGINS / "hasty")))
    with (folder / "stderr").open("ab") as messages:
        return subprocess.Popen(command, env={**environment(), "PYTHONPATH": paths}, stderr=messages)


def exported(run: Path, to: Path) -> dict[str, bytes]:
    """Every file of the exports."""
    for name in FORMATS:
        exporters.export(name, open_run(run), to / exporters.default_out(Path(), name))
    return {str(file.relative_to(to)): file.read_bytes() for file in sorted(to.rglob("*")) if file.is_file()}


def labelled(out: Path) -> list[str]:
    """Paths with a row, as often as they have one."""
    if not (out / "run.json").exists():
        return []
    return [record.path for record in open_run(out).records()]


def stage_of(out: Path, new_rows: int) -> str:
    """What was going on when the process was killed, by what it left."""
    if not (out / "run.json").exists():
        return "before run.json"
    if any(out.rglob(".*.tmp")):
        return "in the middle of a file"
    if Manifest.load(out).state == "complete":
        return "when all was done"
    return "after new parts" if new_rows else "before new parts"


def kill_once(scene: Scene, out: Path, moment: float) -> int | None:
    """moment: CPU seconds from the start. None for a kill, else the exit status of a command that had ended before."""
    with start(scene.folder, out) as process:
        run_until(process, moment)
        process.send_signal(signal.SIGKILL)
    return None if process.returncode == -signal.SIGKILL else process.returncode


def faults_of(scene: Scene, out: Path, to: Path) -> list[str]:
    """Of a run that has ended."""
    found = labelled(out)
    faults = [f"{scene.photos - len(set(found))} rows lost"] if len(set(found)) < scene.photos else []
    faults += [f"{len(found) - len(set(found))} rows doubled"] if len(found) > len(set(found)) else []
    faults += ["other rows"] if rows(out) != rows(scene.folder / "undisturbed") else []
    faults += ["left temporary files"] if any(out.rglob(".*.tmp")) else []
    exports = exported(out, to)
    names = sorted(set(exports) ^ set(scene.exports))
    names += [name for name in exports if name in scene.exports and exports[name] != scene.exports[name]]
    return faults + ([f"{len(names)} exported files differ, such as {names[0]}"] if names else [])


def attack(scene: Scene, kills: int, seed: int) -> Score:
    chance, score = random.Random(seed), Score()
    while score.kills < kills:
        out = scene.folder / f"run-{score.finished}"
        before, status, times = set[str](), None, 0
        while status is None:
            if score.kills < kills and times < MOST_KILLS:
                times += 1
                status = kill_once(scene, out, chance.random() * BEYOND * scene.life(len(before)))
            else:
                with start(scene.folder, out) as process:
                    status = process.wait()
            found = set(labelled(out))
            if not before <= found:
                score.faults.append(f"{out.name}, kill {score.kills}: {len(before - found)} rows gone")
            if status is None:
                score.stages[stage_of(out, len(found - before))] += 1
            before = found
        if status != SOME_FAILED:
            score.faults.append(f"{out.name}: exit status {status}")
        score.faults += [f"{out.name}: {fault}" for fault in faults_of(scene, out, scene.folder / f"to-{out.name}")]
        score.finished += 1
        print(f"{score.kills} kills, {score.finished} runs, {len(score.faults)} faults", flush=True)
    return score


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene.make(Path(folder), given.photos)
        seconds = f"{scene.starting:.1f} s of CPU to start and {scene.working:.1f} s to label"
        print(f"undisturbed: {given.photos} photos, {seconds}; {len(scene.exports)} exported files", flush=True)
        score = attack(scene, given.kills, given.seed)
        if score.faults:
            print((Path(folder) / "stderr").read_text(errors="replace"))
    for stage, times in score.stages.most_common():
        print(f"{times:4} kills {stage}")
    print(*score.faults, sep="\n")
    print(f"{score.kills} kills of {COMMAND.name}, {score.finished} runs to their end, {len(score.faults)} faults")
    return 1 if score.faults else 0


if __name__ == "__main__":
    sys.exit(main())
