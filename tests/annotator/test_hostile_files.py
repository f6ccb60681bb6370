"""Vocabularies, run.yaml, packs and `--set` that are wrong on purpose: one line says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers_fuzz import VALUES
from helpers_runs import ROOT
from hypothesis import given

from annotator.config import RunConfig, parse_setting, read_yaml
from annotator.errors import AnnotatorError, ConfigError, VocabularyError
from annotator.models.packs import describe, open_networks, read_pack
from annotator.vocabulary import Vocabulary
from annotator.wording import shown
from labelers import base as labelers

DEEP = ["[" * 3000, "{a: " * 3000, "- " * 3000, "a: " + "[" * 3000]
NO_VALUES = [
    "!!int x",
    "!!int ''",
    "!!float x",
    "!!bool x",
    "!!timestamp x",
    "2020-13-45",
    "!!set x",
    "!!omap x",
    "!!binary x",
    "!!python/object:os.system x",
    "9" * 5000,
    "&x [*x]",
    "*y",
]


def one_line(error: Exception) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 1000
    return text


@pytest.mark.parametrize(
    "text", [*DEEP, *(f"cat: {{threshold: {value}}}" for value in NO_VALUES), "!!set x", "a: {<<: 5}"]
)
def test_vocabularies(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.yaml").write_text(text)
    with pytest.raises(VocabularyError, match=r"v\.yaml:1: ") as caught:
        Vocabulary.load(tmp_path / "v.yaml")
    one_line(caught.value)


def test_a_number_too_long_to_be_printed(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text(f"cat: {{threshold: 0x{'f' * 6000}}}")
    with pytest.raises(VocabularyError, match="between 0 and 1, but found a number of 24000 bits"):
        Vocabulary.load(tmp_path / "v.yaml")


def test_a_message_is_short_whatever_it_repeats(tmp_path: Path) -> None:
    """A list of lists of lists ..., ten of each: ten lines of YAML, ten thousand million items."""
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    (tmp_path / "run.yaml").write_text(f"{laughs}out: *a9\n")
    with pytest.raises(ConfigError, match="has no setting 'a0'"):
        RunConfig.load(tmp_path / "run.yaml", {})
    content = read_yaml(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match=r"out: expected str, but got \[") as caught:
        RunConfig.load(None, {"out": content["a9"]})
    one_line(caught.value)
    (tmp_path / "v.yaml").write_text(f"{laughs.replace('a0: &a0', 'a0: {prompts: &a0').replace('x]', 'x]}', 1)}")
    with pytest.raises(VocabularyError) as caught:
        Vocabulary.load(tmp_path / "v.yaml")
    one_line(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *DEEP,
        *(f"out: {value}" for value in NO_VALUES),
        *(f'{key}: "a\\0b"' for key in ("out", "pack", "vocab", "images", "labeler")),
        'out: "\\ud800"',
        'weights: {clip: "\\0"}',
        "? [a, b]\n: c",
        f"0x{'f' * 6000}: 5",
        f"weights: {{0x{'f' * 6000}: [x]}}",
        "settings: 5",
        "{}: 5",
    ],
)
def test_run_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml") as caught:
        RunConfig.load(tmp_path / "run.yaml", {})
    one_line(caught.value)


EMPTY = "roles: {clip: {weights: {path: empty.pt, format: plain}}}"
PACKS = [
    *DEEP,
    *(f"description: {value}" for value in NO_VALUES),
    "roles: {clip: {architecture: x}}",
    "roles: {clip: {architecture: mini-clip}}",
    "roles: {clip: {mean: 5, weights: {path: a}}}",
    "roles: {clip: {mean: [a, b, c], weights: {path: a}}}",
    "roles: {clip: {mean: [.nan, 0, 0], weights: {path: a}}}",
    "roles: {clip: {mean: [0.5], weights: {path: a}}}",
    "roles: {clip: {std: [0, 0, 0], weights: {path: a}}}",
    "roles: {clip: {architecture: [1], weights: {path: a}}}",
    "roles: {clip: {licence: [1], weights: {path: a}}}",
    "roles: {clip: {architecture: x, parts: {stem: {path: a}}}}",
    "roles: {clip: {weights: {path: a}, companions: [{a: b}]}}",
    "roles: {clip: {weights: {path: a}, companions: {a: 5}}}",
    "roles: {clip: {weights: {path: a}, companions: 5}}",
    'roles: {clip: {weights: {url: "http://x/a"}, companions: ["http://["]}}',
    'roles: {clip: {weights: {url: "http://[x"}}}',
    *(f'roles: {{clip: {{weights: {{package: "{name}", file: x}}}}}}' for name in ("a..b", "../x", ".a", "a.b", "1")),
    *(f'roles: {{clip: {{weights: {{hub: "{name}", file: x}}}}}}' for name in ("a/b/c", "a b", "-", "a--b")),
    "roles: {clip: {weights: {hub: a/b, file: ../../x}}}",
    *(f'roles: {{clip: {{weights: {{{key}: "\\0", file: x}}}}}}' for key in ("hub", "package")),
    *(f'roles: {{clip: {{weights: {{path: "{name}"}}}}}}' for name in ("\\0", "\\ud800", "x" * 300, "/")),
    'roles: {clip: {weights: {hub: a/b, file: x, revision: "\\0"}}}',
    "labelers: {5: {clip: {}}}",
    "alternatives: {clip: {x: 5}}",
    EMPTY,
    EMPTY.replace("{weights", "{architecture: ViT-B-16, weights"),
    EMPTY.replace("{weights", "{architecture: no-such-thing, weights"),
    EMPTY.replace("{weights", "{architecture: {embed_dim: 5}, mean: [0, 0, 0], std: [1, 1, 1], weights"),
    EMPTY.replace("{weights", "{architecture: {}, mean: [0, 0, 0], std: [1, 1, 1], weights"),
]


def use(pack: Path) -> None:
    """As `annotate models show` and the labelers do."""
    describe(read_pack(str(pack)), alternatives=True)
    networks = open_networks(str(pack), labelers.find("maskclip").spec, "cpu")
    try:
        networks.clip  # noqa: B018
    except RuntimeError as error:  # which `crew.assemble` makes an error of ours
        raise ConfigError(" ".join(str(error).split())[:200]) from None


@pytest.mark.slow
@pytest.mark.parametrize("text", PACKS)
def test_packs(tmp_path: Path, text: str) -> None:
    import torch

    torch.save({}, tmp_path / "empty.pt")
    (tmp_path / "pack.yaml").write_text(text)
    with pytest.raises(AnnotatorError) as caught:
        use(tmp_path / "pack.yaml")
    one_line(caught.value)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000, "../embedded", "a\0b.yaml", "x" * 5000 + ".yaml", ""])
def test_names_of_packs(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^no pack "):
        read_pack(name)


@pytest.mark.slow
@pytest.mark.parametrize("value", [*NO_VALUES, *DEEP, "0x" + "f" * 6000, ".nan", "1e999"])
def test_values_of_set(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^labeler dinoiser: delta: expected ") as caught:
        labelers.resolve_parameters("dinoiser", dict([parse_setting(f"delta={value}")]))
    one_line(caught.value)


@given(VALUES)
def test_any_value_is_shown_in_short(value: Any) -> None:
    assert len(shown(value)) <= 200
    assert "\n" not in shown(value)


def test_the_shipped_packs_are_read() -> None:
    for name in ("paper", "embedded"):
        assert read_pack(name) == read_pack(str(ROOT / "configs" / "packs" / f"{name}.yaml"))
