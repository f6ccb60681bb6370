"""Repeats the tests marked `stress` while other processes keep the cores busy; stops at the first round that fails.

    python tests/tools/stress.py --rounds 30 --burners 2
    python tests/tools/stress.py --rounds 1 --one-core tests/annotator/test_interrupts.py

Whatever follows the options goes to pytest, which else gets the files that have such tests; `--every-test` gives it
the whole suite.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
BURN = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
"""Ends with the process that started it, however that ends."""


@contextmanager
def burning(count: int) -> Iterator[None]:
    burners = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def stressed(arguments: list[str]) -> list[str]:
    """What pytest runs the marked tests with. Only files that have some are collected, once by each worker."""
    if any((ROOT / each).exists() for each in arguments):
        return arguments
    files = (ROOT / "tests").rglob("test_*.py")
    return ["-m", "stress", *arguments, *sorted(str(file) for file in files if "mark.stress" in file.read_text())]


def passes(arguments: list[str]) -> bool:
    """Runs the tests once; shows what pytest says only when one of them fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--burners", type=int, default=os.cpu_count(), help="Busy processes; one per core by default.")
    parser.add_argument("--one-core", action="store_true", help="The tests and the busy processes share one core.")
    parser.add_argument("--every-test", action="store_true", help="The whole suite, not only the tests marked so.")
    given, arguments = parser.parse_known_args()
    arguments = arguments if given.every_test else stressed(arguments)
    if given.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with burning(given.burners):
        for number in range(1, given.rounds + 1):
            begun = time.monotonic()
            if not passes(arguments):
                print(f"round {number} of {given.rounds} failed, after {number - 1} that passed")
                return 1
            print(f"round {number} of {given.rounds} passed in {time.monotonic() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
