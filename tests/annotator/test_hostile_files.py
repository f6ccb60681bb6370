"""Vocabularies, run.yaml, packs and `--set` of any content: they work, or one line says what is wrong."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_runs import ROOT
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from annotator.config import RunConfig, parse_setting, read_yaml
from annotator.errors import AnnotatorError, ConfigError, VocabularyError
from annotator.models.packs import describe, open_networks, read_pack
from annotator.vocabulary import FIELDS, Vocabulary, as_vocabulary
from annotator.wording import shown
from exporters import base as exporters
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


# -- whatever else there may be -----------------------------------------------------------------------------------

ODD = st.sampled_from(["\0", "\x1b", "\u2028", "\u200b", "{}", "#", ",", "[", "'", "../", "x" * 300])
TEXTS = st.text(max_size=8) | ODD
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, 2**63, 1e30])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.dates() | st.binary(max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)


def keyed(names: list[str], values: st.SearchStrategy[Any] = VALUES) -> st.SearchStrategy[Any]:
    """Mappings whose keys are often right."""
    return st.dictionaries(st.sampled_from(names) | TEXTS, values, max_size=4)


def written(file: Path, content: Any) -> Path:
    """As YAML, or as it is."""
    text = content if isinstance(content, str) else dumped(content)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return file


def dumped(content: Any) -> str:
    try:
        return yaml.safe_dump(content, allow_unicode=True)
    except ValueError:  # of a number of 10,000 digits
        assume(False)
        raise


def survives(call: Any, *arguments: Any) -> None:
    with suppress(AnnotatorError):
        call(*arguments)


RAW = st.text(alphabet="abc{}[]:,-&*!?|>%@`'\"# \n\t0123456789.<_/\0\x85\u2028", max_size=30)
SOURCES = keyed(["hub", "url", "path", "package", "file", "revision", "format", "sha256", "size"])
ROLE = keyed(["architecture", "mean", "std", "licence", "weights", "parts", "companions"], VALUES | SOURCES)
MANY_ROLES = keyed(["clip", "dino", "lm"], ROLE | VALUES)
RUN_YAML = keyed(list(RunConfig.__dataclass_fields__))
VOCABULARY = keyed(["cat", "dog", "background", "classes", "templates", "<<"], keyed(list(FIELDS)) | VALUES)
PACK = keyed(
    ["description", "roles", "labelers", "alternatives"], MANY_ROLES | st.dictionaries(TEXTS, MANY_ROLES) | VALUES
)
MANY = settings(max_examples=400)


@pytest.mark.slow
@MANY
@given(VOCABULARY | RAW | VALUES)
def test_any_vocabulary(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    survives(Vocabulary.load, written(file, content))
    if isinstance(content, str):
        survives(Vocabulary.load, written(file.with_suffix(".txt"), content))
        survives(as_vocabulary, content)


@MANY
@given(RUN_YAML | RAW | VALUES)
def test_any_run_yaml(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    survives(RunConfig.load, written(tmp_path_factory.getbasetemp() / "any.yaml", content), {})


@pytest.mark.slow
@MANY
@given(PACK | RAW | VALUES)
def test_any_pack(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    survives(use, written(tmp_path_factory.getbasetemp() / "any.yaml", content))


@pytest.mark.slow
@MANY
@given(st.sampled_from(labelers.BUILT_IN), st.data())
def test_any_setting(labeler: str, data: st.DataObject) -> None:
    names = list(labelers.default_parameters(labeler))
    text = data.draw(
        st.builds(lambda name, value: f"{name}={value}", st.sampled_from(names) | TEXTS, RAW | VALUES.map(dumped))
    )
    survives(lambda: labelers.resolve_parameters(labeler, dict([parse_setting(text)])))


@pytest.mark.slow
@MANY
@given(st.sampled_from(sorted(exporters.BUILT_IN)), st.data())
def test_any_option(format: str, data: st.DataObject) -> None:
    registration = exporters.find(format)
    given_options = data.draw(keyed(list(registration.options.__dataclass_fields__)))
    survives(exporters._options_from, registration, given_options)


@given(VALUES)
def test_any_value_is_shown_in_short(value: Any) -> None:
    assert len(shown(value)) <= 200
    assert "\n" not in shown(value)


def test_the_shipped_packs_are_read() -> None:
    for name in ("paper", "embedded"):
        assert read_pack(name) == read_pack(str(ROOT / "configs" / "packs" / f"{name}.yaml"))
