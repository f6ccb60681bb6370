"""Numbers that make no sense are refused, wherever they are set."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from helpers_runs import PLUGINS, VOCAB, Answer, annotate_here, write_photos
from hypothesis import given
from hypothesis import strategies as st

from annotator.config import RunConfig, parameters_from
from annotator.errors import ConfigError
from annotator.limits import COUNT, SHARE, Limits, Share, check_fields
from annotator.training.making import Plan
from exporters import base as exporters
from labelers import base as labelers

HUGE = 99_999_999_999
NOT_FINITE = ("nan", "inf", "-inf")


@pytest.mark.parametrize(
    ("limits", "value", "expected"),
    [
        (COUNT, 0, "at least 1, but got 0"),
        (COUNT, 10**400, "at most 1000000000, but got a number of 1329 bits"),
        (SHARE, 1.5, "0 to 1, but got 1.5"),
        (SHARE, math.nan, "a finite number, but got nan"),
        (Limits(0, 10**400), -math.inf, "a finite number, but got -inf"),
        (Limits(0, 5, above=True), 0.0, "more than 0, but got 0"),
        (Limits(-2, 5), -2.5, "at least -2, but got -2.5"),
    ],
)
def test_what_was_expected(limits: Limits, value: float, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        limits.check(value, "x")
    assert str(caught.value) == f"x: expected {expected}"


@pytest.mark.parametrize(
    ("limits", "value"), [(COUNT, 1), (COUNT, 10**9), (SHARE, 0), (SHARE, 1), (Limits(0, 5, above=True), 5e-324)]
)
def test_the_ends_are_allowed(limits: Limits, value: float) -> None:
    limits.check(value, "x")


@dataclasses.dataclass(frozen=True)
class Nested:
    shares: tuple[Share, ...] = (0.0,)
    most: Annotated[int | None, Limits(1, 3)] = None
    loud: Annotated[bool, Limits(5, 6)] = True
    by_name: dict[str, Share] = dataclasses.field(default_factory=dict)
    mode: Literal["a", "b"] = "a"
    plain: float = 0.0
    whole: int = 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"shares": (0.5, 2.0)}, "shares: expected 0 to 1, but got 2"),
        ({"most": 4}, "most: expected at most 3, but got 4"),
        ({"by_name": {"x": -1.0}}, "by_name.x: expected 0 to 1, but got -1"),
        ({"plain": math.inf}, "plain: expected a finite number, but got inf"),
        ({"whole": 2**63}, f"whole: expected at most {2**63 - 1}, but got {2**63}"),
    ],
)
def test_limits_hold_wherever_the_number_is(values: dict[str, Any], expected: str) -> None:
    for check in (lambda: check_fields(Nested(**values)), lambda: parameters_from(Nested, values, "x")):
        with pytest.raises(ConfigError) as caught:
            check()
        assert str(caught.value).removeprefix("x: ") == expected


def test_limits_are_no_obstacle() -> None:
    check_fields(Nested((1.0, 0.0), 3, True, {"x": 1.0}, "b", -1e300, -(2**63)))


def settings_of_everything() -> list[tuple[str, type]]:
    of_labelers = [(f"labeler {name}", labelers.find(name).parameters) for name in labelers.BUILT_IN]
    of_formats = [(f"format {name}", exporters.find(name).options) for name in exporters.BUILT_IN]
    return [("run", RunConfig), ("training", Plan), *of_labelers, *of_formats]


def numbers_in(kind: Any) -> bool:
    """Whether a type has a number without limits."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return not any(isinstance(each, Limits) for each in kind.__metadata__) and numbers_in(arguments[0])
    if origin in (types.UnionType, typing.Union, tuple, dict):
        return any(map(numbers_in, arguments))
    return kind in (int, float)


@pytest.mark.parametrize(("owner", "kind"), settings_of_everything())
def test_every_setting_that_is_a_number_declares_its_limits(owner: str, kind: type) -> None:
    hints = typing.get_type_hints(kind, include_extras=True)
    assert [name for name in hints if numbers_in(hints[name])] == []


NONSENSE = [
    *(("maskclip", {name: HUGE}) for name in ("short_side", "long_side", "window")),
    *(("dinoiser", {name: HUGE}) for name in ("short_side", "long_side", "window")),
    *(("dinoiser", {name: value}) for name in ("gamma", "delta") for value in (*NOT_FINITE, -1, 1e30)),
    *(("diy", {name: HUGE}) for name in ("image_side", "objectness_side")),
    ("diy", {"scales": [HUGE]}),
    *(("zeroguide", {"same": value}) for value in (*NOT_FINITE, -1, 1e30)),
    *(("zeroguide", {"sigma": value}) for value in (*NOT_FINITE, 0, 1e30)),
    *(("zeroguide", {"caption_steps": value}) for value in (-1, HUGE)),
    *(("zeroguide", {name: value}) for name in ("beam", "max_tokens") for value in (-1, 0, HUGE)),
    *(("zeroguide", {name: HUGE}) for name in ("patches", "segments", "overlap", "first_masked")),
    *(("zeroguide", {"end_factor": value}) for value in (*NOT_FINITE, 0, 1e30)),
]


@pytest.mark.parametrize(("labeler", "settings"), NONSENSE)
def test_settings_of_labelers(labeler: str, settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"^labeler {labeler}: {name}: expected "):
        labelers.resolve_parameters(labeler, settings)


@pytest.mark.parametrize("labeler", labelers.BUILT_IN)
def test_the_shipped_settings_are_sensible(labeler: str) -> None:
    labelers.resolve_parameters(labeler)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        *(("coco", {"simplify": value}) for value in (*NOT_FINITE, 1e300)),
        *(("coco", {"min_score": value}) for value in (*NOT_FINITE, 1.1)),
        *(("overlay", {"max_side": value}) for value in (0, -5, HUGE)),
        *(("overlay", {"opacity": value}) for value in (*NOT_FINITE, -0.1)),
        ("coco", {"min_area": 10**30}),
        ("coco", {"seed": 10**30}),
        *(("coco", {name: 10**30}) for name in ("min_count", "top")),
    ],
)
def test_options_of_formats(format: str, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"^format {format}: {name}: expected "):
        parameters_from(exporters.find(format).options, options, f"format {format}")


@pytest.mark.parametrize(
    "text",
    [
        *(f"max_failure_rate: {value}" for value in (".nan", ".inf", "-.inf", "1.5", "-1", "9" * 400)),
        *(f"batch_size: {value}" for value in (999_999_999_999, "9" * 23, "0x" + "f" * 6000)),
        f"engine: ray\nactors: {10**12}",
        "engine: ray\ngpus_per_actor: .nan",
        f"workers: {10**6}",
        f"limit: {'9' * 30}",
        f"max_pixels: {'9' * 30}",
    ],
)
def test_keys_of_run_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    name = text.splitlines()[-1].split(":")[0]
    with pytest.raises(ConfigError, match=rf"run\.yaml: {name}: expected ") as caught:
        RunConfig.load(tmp_path / "run.yaml", {})
    assert len(str(caught.value)) < 300


@pytest.fixture
def annotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", ["a.png"])
    return lambda *arguments: annotate_here(arguments, monkeypatch, capsys)


BANDS = ("run", "--labeler", "bands", "--pack", "embedded", "--images", "photos", "--vocab", VOCAB)


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        *(((*BANDS, "--max-failure-rate", value), "--max-failure-rate") for value in NOT_FINITE),
        *(((*BANDS, "--batch-size", value), "--batch-size") for value in ("999999999999", "9" * 23)),
        *(((*BANDS, "--limit", value), "--limit") for value in ("9" * 30,)),
        *(((*BANDS, "--set", f"seconds={value}"), "seconds") for value in (*NOT_FINITE, "1e999", "9" * 5000)),
        (("report", "run", "--limit", "0"), "--limit"),
        (("review", "run", "--port", "99999"), "--port"),
        (("review", "run", "--undo", "9" * 30), "--undo"),
        (("relabel", "run", "--vocab", "a,b", "--threshold", "nan"), "--threshold"),
        (("eval", "--benchmark", "voc20", "--data", ".", "--subset", "-1"), "--subset"),
        (("bench", "--rounds", "0"), "--rounds"),
        (("bench", "--photos", "9" * 30), "--photos"),
        (("train", "heads", "--images", ".", "--out", "h.safetensors", "--minutes", "inf"), "--minutes"),
        (("train", "found", "--images", ".", "--out", "f.safetensors", "--minutes", "nan"), "--minutes"),
        (("train", "heads", "--images", ".", "--out", "h.safetensors", "--seed", "9" * 30), "--seed"),
        (("train", "heads", "--images", ".", "--out", "h.safetensors", "--keep-crops", "9" * 5000), "--keep-crops"),
        (("train", "phrases", "--captions", "c", "--out", "p.safetensors", "--size", "-1"), "--size"),
        (("train", "embedded", "--data", ".", "--out", "e", "--minutes", "nan"), "--minutes"),
    ],
)
def test_flags(annotate: Callable[..., Answer], arguments: tuple[str, ...], flag: str) -> None:
    answer = annotate(*arguments)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert f"{flag}: expected " in answer.err
    assert len(answer.err) < 300


@given(st.floats() | st.integers() | st.integers(min_value=10**300))
def test_whatever_is_let_through_is_within_the_limits(value: float) -> None:
    limits = Limits(-3, 8, above=True)
    try:
        limits.check(value, "x")
    except ConfigError:
        assert not -3 < value <= 8
    else:
        assert -3 < value <= 8
