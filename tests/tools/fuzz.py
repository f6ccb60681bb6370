"""Tries contents of any kind on everything that the tool reads, for as long as one likes.

    python tests/tools/fuzz.py --minutes 60 --seed 1
    python tests/tools/fuzz.py --minutes 5 --seed 1 coco part_bytes  # these readers only

The readers are those of helpers_fuzz_runs and helpers_fuzz_inputs in tests/annotator. They take turns of some hundred
contents; the first that is neither taken nor refused in a line ends it, and is shown with the turn that found it. The
same seed tries the same contents.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "annotator")]

import helpers_fuzz_inputs  # noqa: E402
import helpers_fuzz_runs  # noqa: E402
from helpers_fuzz import Reader, try_once  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

READERS = helpers_fuzz_runs.READERS | helpers_fuzz_inputs.READERS
TURN = 500


def take_turn(reader: Reader, number: int) -> Counter[bool]:
    """How many contents were taken, and how many refused."""
    outcomes: Counter[bool] = Counter()

    @seed(number)
    @settings(
        max_examples=TURN,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(reader.contents)
    def attack(content: Any) -> None:
        outcomes[try_once(reader, content)] += 1

    attack()
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("readers", nargs="*", default=list(READERS), metavar="READER")
    given_options = parser.parse_args()
    faulthandler.enable()
    os.environ["HF_HUB_OFFLINE"] = "1"
    until = time.monotonic() + 60 * given_options.minutes
    total: dict[str, Counter[bool]] = {name: Counter() for name in given_options.readers}
    seconds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        readers = {}
        for name in given_options.readers:
            (Path(folder) / name).mkdir()
            readers[name] = READERS[name][0](Path(folder) / name)
        for turn in itertools.count():
            for name, reader in readers.items():
                if time.monotonic() > until and turn:
                    break
                begun = time.process_time()
                try:
                    total[name] += take_turn(reader, given_options.seed + 1_000_003 * turn)
                except BaseException:
                    traceback.print_exc()
                    print(f"{name}: seed {given_options.seed}, turn {turn}")
                    return 1
                seconds[name] += time.process_time() - begun
            if time.monotonic() > until:
                break
    for name, outcomes in total.items():
        each = 1000 * seconds[name] / max(outcomes.total(), 1)
        print(f"{name:20} {outcomes[True]:9,} taken {outcomes[False]:9,} refused {each:6.1f} ms of CPU each")
    print(f"{sum(each.total() for each in total.values()):,} contents, {turn + 1} turns, nothing else happened")
    return 0


if __name__ == "__main__":
    sys.exit(main())
