"""The list of labelers: found by name, their settings checked, their defaults in one YAML each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from annotator.errors import ConfigError
from annotator.models.packs import Networks
from labelers import base
from labelers.base import LabelerSpec, register


@dataclasses.dataclass(frozen=True)
class NoSettings:
    pass


SPEC = LabelerSpec("test-another", needs_vocabulary=False, paper="", roles=())


@register(SPEC, NoSettings)
class Another:
    """A third party's labeler."""

    spec: LabelerSpec

    def __init__(self, networks: Networks, parameters: NoSettings) -> None: ...


def test_an_unknown_name_lists_those_known() -> None:
    with pytest.raises(ConfigError) as error:
        base.find("maskclap")
    assert str(error.value).startswith("no labeler 'maskclap'; known are maskclip, dinoiser, diy")


def test_two_labelers_of_one_name_are_an_error() -> None:
    with pytest.raises(ConfigError, match="one labeler named 'test-another', but two packages register it; remove one"):

        @register(SPEC, NoSettings)
        class Second: ...

    register(SPEC, NoSettings)(Another)  # the same again, as a reload does, is none
    assert base.find("test-another").build is Another


def test_a_third_partys_labeler_needs_no_yaml() -> None:
    assert base.parameters_text("test-another") == ""
    assert base.build("test-another", Networks.of()).spec == SPEC
    with pytest.raises(ConfigError, match=r"labeler test-another has no setting 'gamma' \(it has none\)"):
        base.build("test-another", Networks.of(), {"gamma": 1})


@pytest.mark.parametrize("name", base.BUILT_IN)
def test_every_built_in_has_a_yaml_of_exactly_its_settings(name: str) -> None:
    text = base.parameters_text(name)
    values = yaml.safe_load(text)
    assert set(values) == {field.name for field in dataclasses.fields(base.find(name).parameters)}
    settings = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line.split(":")[0] for line in settings] == list(values)
    assert all(" # " in line for line in settings), "every setting is explained"
    resolved = dataclasses.asdict(base.resolve_parameters(name))
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in resolved.items()} == values


@pytest.mark.parametrize("name", base.BUILT_IN)
def test_every_built_in_says_what_it_is(name: str) -> None:
    registration = base.find(name)
    assert registration.spec.name == name
    assert registration.spec.needs_vocabulary == (name != "zeroguide")
    assert registration.spec.needs_background == (name == "diy")
    assert set(registration.spec.roles) <= {"clip", "dino", "found", "heads", "lm", "phrases", "sentence"}
    assert registration.build.spec is registration.spec
    assert name in base.available()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("dinoiser", {"detla": 0.9}, "labeler dinoiser has no setting 'detla' .*; did you mean 'delta'?"),
        ("dinoiser", {"affinity": "sam"}, "affinity: expected one of clip, dino, clip-keys, but got 'sam'"),
        ("dinoiser", {"delta": "high"}, "labeler dinoiser: delta: expected float, but got 'high'"),
        ("dinoiser", {"delta": 1.01}, "labeler dinoiser: delta: expected 0 to 1, but got 1.01"),
        ("dinoiser", {"threshold": 2}, "labeler dinoiser: threshold: expected 0 to 1, but got 2"),
        ("maskclip", {"threshold": -0.5}, "labeler maskclip: threshold: expected 0 to 1, but got -0.5"),
        ("diy", {"threshold": 7}, "labeler diy: threshold: expected 0 to 1, but got 7"),
        ("maskclip", {"window": 64.0}, "labeler maskclip: window: expected int, but got 64.0"),
        ("maskclip", {"delta": 1}, "labeler maskclip has no setting 'delta'"),
        ("diy", {"scales": 64}, "labeler diy: scales: expected a list, but got 64"),
        ("diy", {"scales": []}, r"labeler diy: scales: expected patch sizes from 2 to image_side 256, but got \(\)"),
        ("diy", {"scales": [512]}, r"expected patch sizes from 2 to image_side 256, but got \(512,\)"),
    ],
)
def test_settings_are_checked(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        base.resolve_parameters(name, given)
