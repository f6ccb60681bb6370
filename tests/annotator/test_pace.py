"""The rate of a run and the time that is left, from when its records come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from annotator.pace import Pace, duration, pace_text


def rates(times: Sequence[float], at_once: int) -> list[float | None]:
    """What is said after each record."""
    pace = Pace(at_once)
    said = []
    for time in times:
        pace.add(time)
        said.append(pace.rate)
    return said


def test_the_first_batch_and_what_comes_before_it_say_nothing() -> None:
    """Four photos together every 12 s, the first after 14 s: a third of a photo a second."""
    times = [start + 0.01 * number for start in (14, 26, 38) for number in range(4)]
    assert rates(times, 4) == [None] * 4 + [pytest.approx(1 / 3)] * 8


def test_a_batch_whose_records_come_one_after_the_other_misleads_nobody() -> None:
    """Masks of large photos are encoded one by one: 2 s for a batch that takes 12 s."""
    times = [start + 0.5 * number for start in (14, 26, 38, 50) for number in range(4)]
    assert rates(times, 4) == [None] * 4 + [pytest.approx(1 / 3)] * 12


def test_the_last_batch_comes_with_the_one_before_it() -> None:
    """Every batch but the last waits until the next one is labelled."""
    times = [start + 0.01 * number for start in (14, 26, 38, 38.04) for number in range(4)]
    assert rates(times, 4) == [None] * 4 + [pytest.approx(1 / 3)] * 12


def test_a_steady_run() -> None:
    times = [9 + number / 100 for number in range(50)]
    assert rates(times, 1) == [None] + [pytest.approx(100)] * 49
    assert rates(times, 60) == [None] * 50


def test_records_of_one_moment_have_no_rate() -> None:
    assert rates([1.0, 1.0, 1.0], 1) == [None] * 3


@pytest.mark.parametrize(
    ("rate", "left", "text"),
    [
        (None, None, "estimating"),
        (None, 8, "estimating"),
        (None, 0, ""),
        (1 / 3, None, "0.33/s"),
        (1 / 3, 8, "0.33/s, 24 s left"),
        (0.5, 30, "0.50/s, 1 min left"),
        (100, 1_000_000, "100.00/s, 2 h 47 min left"),
        (0.5, 0, "0.50/s"),
    ],
)
def test_rate_and_time_left_agree(rate: float | None, left: int | None, text: str) -> None:
    assert pace_text(rate, left) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.4, "9.4 s"), (59.4, "59 s"), (59.6, "1 min"), (3725, "1 h 2 min"), (260_000, "3.0 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
