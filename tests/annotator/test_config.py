"""What a user may set: names, types, choices, and which of two sources wins."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest

from annotator.config import RunConfig, parameters_from, parse_setting, read_yaml
from annotator.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Knobs:
    gamma: float
    mode: Literal["fast", "exact"] = "fast"
    scales: tuple[int, ...] = (2, 1)
    limit: int | None = None
    loud: bool = False
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"gamma: expected 0 or more, but got {self.gamma}")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"gamma": 0.5}, Knobs(0.5)),
        ({"gamma": 1}, Knobs(1.0)),
        ({"gamma": "1e-3"}, Knobs(0.001)),  # what YAML makes of 1e-3
        ({"gamma": 0.0, "scales": [4, 2]}, Knobs(0.0, scales=(4, 2))),
        ({"gamma": 0.0, "limit": None}, Knobs(0.0)),
        ({"gamma": 0.0, "limit": 3, "mode": "exact", "loud": True}, Knobs(0.0, "exact", limit=3, loud=True)),
        ({"gamma": 0.0, "files": {"clip": "a.pt"}}, Knobs(0.0, files={"clip": "a.pt"})),
    ],
)
def test_builds_parameters(given: dict[str, Any], expected: Knobs) -> None:
    found = parameters_from(Knobs, given, "labeler x")
    assert found == expected
    assert [type(value) for value in dataclasses.astuple(found)] == [type(v) for v in dataclasses.astuple(expected)]


NAMES = "gamma, mode, scales, limit, loud, files"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gama": 1}, f"labeler x has no setting 'gama' (it has {NAMES}); did you mean 'gamma'?"),
        ({"qqq": 1}, f"labeler x has no setting 'qqq' (it has {NAMES})"),
        ({1: 2}, f"labeler x has no setting 1 (it has {NAMES})"),
        ({}, "labeler x: gamma must be set"),
        ({"gamma": "much"}, "labeler x: gamma: expected float, but got 'much'"),
        ({"gamma": True}, "labeler x: gamma: expected float, but got True"),
        ({"gamma": None}, "labeler x: gamma: expected float, but got None"),
        ({"gamma": -1}, "labeler x: gamma: expected 0 or more, but got -1.0"),
        ({"gamma": 1, "mode": "slow"}, "labeler x: mode: expected one of fast, exact, but got 'slow'"),
        ({"gamma": 1, "scales": 3}, "labeler x: scales: expected a list, but got 3"),
        ({"gamma": 1, "scales": "21"}, "labeler x: scales: expected a list, but got '21'"),
        ({"gamma": 1, "scales": [1, 2.5]}, "labeler x: scales: expected int, but got 2.5"),
        ({"gamma": 1, "limit": 2.0}, "labeler x: limit: expected int, but got 2.0"),
        ({"gamma": 1, "limit": True}, "labeler x: limit: expected int, but got True"),
        ({"gamma": 1, "loud": 1}, "labeler x: loud: expected bool, but got 1"),
        ({"gamma": 1, "files": ["a"]}, "labeler x: files: expected dict, but got ['a']"),
        ({"gamma": 1, "files": {"clip": 3}}, "labeler x: files.clip: expected str, but got 3"),
    ],
)
def test_mistakes_are_one_line(given: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parameters_from(Knobs, given, "labeler x")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("delta=0.9", ("delta", 0.9)),
        ("objectness=none", ("objectness", "none")),
        ("scales=[64, 32]", ("scales", [64, 32])),
        ("name=a=b", ("name", "a=b")),
        ("strict=true", ("strict", True)),
        ("name={", ("name", "{")),  # no YAML
        ("name=", ("name", None)),
    ],
)
def test_parse_setting(text: str, expected: tuple[str, Any]) -> None:
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["delta", "=3", ""])
def test_parse_setting_needs_a_name_and_a_value(text: str) -> None:
    with pytest.raises(ConfigError, match=f"expected NAME=VALUE, but got '{text}'"):
        parse_setting(text)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "labeler: diy\nbatch_size: 2\nmax_failure_rate: 1\noverwrite: true\nsettings: {delta: 0.9, gamma: 0.3}\n"
    )
    flags = {"batch_size": 3, "labeler": None, "overwrite": None, "settings": {"gamma": 0.1}, "weights": {}, "limit": 0}
    found = RunConfig.load(file, flags)
    expected = RunConfig(
        labeler="diy",
        batch_size=3,
        max_failure_rate=1.0,
        overwrite=True,
        settings={"delta": 0.9, "gamma": 0.1},  # joined, not replaced
        limit=0,  # none is not nothing
    )
    assert found == expected
    assert RunConfig.load(None, {"labeler": None}) == RunConfig()
    assert RunConfig.load(file, {"overwrite": False}).overwrite is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("labler: diy\n", "has no setting 'labler'"),
        ("batch_size: 0\n", "batch_size: expected at least 1, but got 0"),
        ("workers: -1\n", "workers: expected at least 0, but got -1"),
        ("limit: -3\n", "limit: expected at least 0, but got -3"),
        ("precision: fp64\n", "precision: expected one of auto, fp32, bf16, but got 'fp64'"),
        ("labeler: [\n", "not valid YAML"),
        ("just words\n", "expected `name: value` lines, but found str"),
        ("- a\n", "expected `name: value` lines, but found list"),
        (b"labeler: \xff\n", "not valid YAML"),
    ],
)
def test_mistakes_in_the_file_name_it(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as error:
        RunConfig.load(file, {})
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "none.yaml")


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("# nothing yet\n")
    assert RunConfig.load(tmp_path / "run.yaml", {}) == RunConfig()
