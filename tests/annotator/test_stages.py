"""The stage clock: what it books to whom, that nothing is booked twice, and what it costs when nobody measures."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from annotator.stages import Clock, measuring, stage, staged, staged_items

pytestmark = pytest.mark.stress

NAP = 0.02
"""Seconds; a sleep takes this or longer, so that sums are compared with the wall clock only from one side."""


def of_main(clock: Clock) -> dict[str, float]:
    here = threading.current_thread().name
    return {name: seconds for (thread, name), seconds in clock.seconds().items() if thread == here}


def test_a_stage_inside_another_is_taken_out_of_it() -> None:
    begun = time.perf_counter()
    with measuring(Clock()) as clock, stage("outer"):
        time.sleep(NAP)
        with stage("inner"):
            time.sleep(3 * NAP)
        time.sleep(NAP)
    wall, spent = time.perf_counter() - begun, of_main(clock)
    assert set(spent) == {"outer", "inner"}
    assert spent["outer"] >= 2 * NAP
    assert spent["inner"] >= 3 * NAP
    assert spent["outer"] + spent["inner"] <= wall


def test_stages_never_add_up_to_more_than_the_wall_clock() -> None:
    """Nested at random, also in themselves, in several threads at once."""
    walls: dict[str, float] = {}
    slept: Counter[str] = Counter()

    def work(seed: int) -> None:
        rng, name = np.random.default_rng(seed), threading.current_thread().name

        def nested(depth: int) -> None:
            with stage(f"stage {rng.integers(4)}"):
                nap = rng.random() * 1e-3
                time.sleep(nap)
                slept[name] += nap
                for _ in range(rng.integers(3) if depth else 0):
                    nested(depth - 1)

        begun = time.perf_counter()
        for _ in range(20):
            nested(4)
        walls[name] = time.perf_counter() - begun

    with measuring(Clock()) as clock:
        threads = [threading.Thread(target=work, args=(seed,), name=f"worker {seed}") for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    spent = clock.seconds()
    assert {thread for thread, _ in spent} == set(walls)
    for name, wall in walls.items():
        total = sum(seconds for (thread, _), seconds in spent.items() if thread == name)
        assert slept[name] <= total <= wall


def test_only_what_is_inside_of_measuring_is_booked() -> None:
    clock = Clock()
    with stage("before"), measuring(clock), stage("during"):
        pass
    with stage("after"):
        pass
    assert set(of_main(clock)) == {"during"}


def test_an_error_ends_its_stage() -> None:
    begun = time.perf_counter()
    with measuring(Clock()) as clock:
        with pytest.raises(ValueError, match="no"), stage("failing"):
            raise ValueError("no")
        time.sleep(3 * NAP)
        with stage("next"):
            time.sleep(NAP)
    wall, spent = time.perf_counter() - begun, of_main(clock)
    assert spent["next"] >= NAP
    assert spent["failing"] + spent["next"] <= wall - 3 * NAP


def test_a_decorated_function_is_a_stage_of_every_call() -> None:
    @staged("twice")
    def twice(number: int, *, plus: int = 0) -> int:
        """Doubles."""
        time.sleep(NAP)
        return 2 * number + plus

    assert twice(3) == 6
    with measuring(Clock()) as clock:
        assert [twice(4), twice(5, plus=1)] == [8, 11]
    assert of_main(clock)["twice"] >= 2 * NAP
    assert (twice.__name__, twice.__doc__) == ("twice", "Doubles.")


def test_items_are_booked_while_they_are_fetched_not_while_they_are_used() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(NAP)
            yield number

    begun = time.perf_counter()
    with measuring(Clock()) as clock:
        seen = []
        for number in staged_items("fetch", slow()):
            seen.append(number)
            time.sleep(2 * NAP)
    wall = time.perf_counter() - begun
    assert seen == [0, 1, 2]
    assert 3 * NAP <= of_main(clock)["fetch"] <= wall - 6 * NAP


def test_a_gpu_is_waited_for_at_both_ends_by_the_thread_that_measures_alone() -> None:
    waited: list[str] = []

    def other() -> None:
        with stage("there"):
            pass

    with measuring(Clock(lambda: waited.append(threading.current_thread().name))) as clock:
        with stage("here"):
            assert len(waited) == 1
        thread = threading.Thread(target=other, name="other")
        thread.start()
        thread.join()
    assert waited == [threading.current_thread().name] * 2
    assert ("other", "there") in clock.seconds()


def test_a_stage_that_nobody_measures_costs_next_to_nothing() -> None:
    """About 0.1 µs; here the best of several, with room for a busy machine."""

    def microseconds() -> float:
        begun = time.process_time()
        for _ in range(10_000):
            with stage("unseen"):
                pass
        return (time.process_time() - begun) / 10_000 * 1e6

    assert min(microseconds() for _ in range(5)) < 3
