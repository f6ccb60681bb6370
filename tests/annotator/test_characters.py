"""Names hold only what can be seen, and a terminal is never told what to do."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from helpers_processes import PATIENCE
from helpers_runs import Answer, annotate_here
from hypothesis import given
from hypothesis import strategies as st

from annotator import console
from annotator.characters import INVISIBLE, JOINERS, refuse_control, refuse_invisible, visible
from annotator.config import RunConfig
from annotator.errors import ConfigError, VocabularyError
from annotator.prediction import Prediction
from annotator.run import ImageRecord, Manifest, RunWriter, open_run
from annotator.vocabulary import Vocabulary, as_vocabulary
from exporters.base import export

UNSEEN = {
    "NUL": "\x00",
    "BEL": "\x07",
    "TAB": "\t",
    "ESC": "\x1b",
    "DEL": "\x7f",
    "next line": "\x85",
    "C1 ESC": "\x9b",
    "soft hyphen": "\xad",
    "zero width space": "\u200b",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "right to left": "\u202e",
    "byte order mark": "\ufeff",
    "half a character": "\ud800",
}
SEEN = ["cat", "猫 🐈", "Straße", "a\u00a0b", "かき\u3000氷", "می\u200cروم", "क्\u200dष", "👩\u200d👧", "c#", "½ é"]


@pytest.mark.parametrize("character", UNSEEN.values(), ids=UNSEEN)
def test_names_that_hold_what_cannot_be_seen(tmp_path: Path, character: str) -> None:
    escape = character.encode("unicode_escape").decode()
    with pytest.raises(VocabularyError, match=r"^vocabulary, name 2: expected text that can be seen") as caught:
        Vocabulary.of(["dog", f"c{character}t"])
    assert escape in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.raises(VocabularyError, match=r"^vocabulary, name 1"):
        Vocabulary.of([f"cat, kit{character}ty"])
    if character == "\ud800":  # which no file holds
        return
    (tmp_path / "classes.txt").write_text(f"dog\nc{character}t\n", encoding="utf-8", newline="")
    with pytest.raises(VocabularyError, match=r"classes\.txt:2: expected text that can be seen"):
        Vocabulary.load(tmp_path / "classes.txt")
    quoted = f'"c\\u{ord(character):04x}t"'
    for text in (f"dog: {{}}\n{quoted}: {{}}\n", f"dog: {{}}\ncat: [{quoted}]\n"):
        (tmp_path / "classes.yaml").write_text(text)
        with pytest.raises(VocabularyError, match=r"classes\.yaml:2: expected text that can be seen"):
            Vocabulary.load(tmp_path / "classes.yaml")


@pytest.mark.parametrize("name", SEEN)
def test_names_of_all_scripts(tmp_path: Path, name: str) -> None:
    (tmp_path / "classes.txt").write_text(f"{name}\ndog\n", encoding="utf-8")
    assert Vocabulary.load(tmp_path / "classes.txt").names == (name, "dog")
    assert Vocabulary.of([name]).names == (name,)


@pytest.mark.parametrize("name", ["\u200dcat", "cat\u200c", "ca\u200dt", "👩\u200d\u200d👧", "\u200d"])
def test_joiners_must_join(name: str) -> None:
    with pytest.raises(ConfigError):
        refuse_invisible(name, "x")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_a_line_is_one_class(tmp_path: Path, separator: str) -> None:
    (tmp_path / "classes.txt").write_text(f"cat{separator}dog\n", encoding="utf-8", newline="")
    with pytest.raises(VocabularyError, match=r"classes\.txt:1: "):
        Vocabulary.load(tmp_path / "classes.txt")


@pytest.mark.parametrize("text", ["a\nb\r\nc\rd", "a\n\nb\r\rc\nd\n", "a\r\nb\r\nc\r\nd\r\n"])
def test_lines_end_as_ever(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text, newline="")
    assert Vocabulary.load(tmp_path / "classes.txt").names == ("a", "b", "c", "d")


@pytest.mark.parametrize("template", ["{} {x}", "{} {}", "{", "a", "{}}", "{0}", "}{", "a\\x1b {}", "a\\u200b {}"])
def test_templates(tmp_path: Path, template: str) -> None:
    (tmp_path / "v.yaml").write_text(f'classes: [cat]\ntemplates: ["a photo of {{}}", "{template}"]\n')
    with pytest.raises(VocabularyError, match=r"v\.yaml:2: expected "):
        Vocabulary.load(tmp_path / "v.yaml")


@pytest.mark.parametrize("name", ["images", "out", "pack", "vocab", "labeler", "device", "ray_address"])
@pytest.mark.parametrize("character", ["\x00", "\x1b", "\u2028", "\ud800"])
def test_values_of_options(name: str, character: str) -> None:
    with pytest.raises(ConfigError, match=f"^annotate run: {name}: expected text that can be seen"):
        RunConfig.load(None, {name: f"a{character}b", "engine": "ray"})


def test_names_of_folders_are_left_alone() -> None:
    """What people have on their disks."""
    for name in (*SEEN, "a\u200eb", "a\u200bb"):
        refuse_control(name, "x")


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_a_vocabulary_that_can_be_no_file(path: str) -> None:
    for source in (path, Path(path)):
        with pytest.raises(VocabularyError, match="expected a file's name"):
            as_vocabulary(source)


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_visible_tells_no_terminal_anything(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if c not in JOINERS and unicodedata.category(c) in INVISIBLE]
    shown.encode()


HOSTILE = "c\x1b[31mred\x07\x9b2J"


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    """What an older version, which took any name, may have left."""
    entry = {**Vocabulary.of(["x"]).to_dict()["entries"][0], "name": HOSTILE}
    words = {"source": "v", "templates": [], "entries": [entry]}
    prediction = Prediction(np.zeros((4, 4), np.int32), (HOSTILE,), (0,), (0.9,))
    manifest = Manifest({}, "x", f"photos{HOSTILE}", "1", f"test{HOSTILE}", vocabulary=words)
    with RunWriter.open(tmp_path / "run", manifest) as writer:
        writer.write(ImageRecord("a.jpg", "ok", width=4, height=4, segments=tuple(prediction.segments())))
        writer.write(ImageRecord(f"{HOSTILE}.jpg", "failed", error=f"broken {HOSTILE}"))
    return tmp_path / "run"


@pytest.fixture
def annotate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    return lambda *arguments: annotate_here(arguments, monkeypatch, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "{run}", "--failures"),
        ("show", "{run}", "a.jpg"),
        ("export", "{run}", "--out", f"{{run}}/x{HOSTILE}.json"),
        ("export", f"no{HOSTILE}"),
        ("run", "--labeler", f"no{HOSTILE}"),
        ("run", "--images", f"no{HOSTILE}", "--vocab", "a,b"),
        ("run", f"--no{HOSTILE}"),
        (f"no{HOSTILE}",),
        ("run", "--weights", f"clip=no{HOSTILE}", "--vocab", "a,b", "--images", ".", "--pack", "embedded"),
        ("models", "show", f"no{HOSTILE}"),
    ],
)
def test_nothing_that_is_printed_reaches_the_terminal(
    annotate: Callable[..., Answer], hostile_run: Path, arguments: tuple[str, ...]
) -> None:
    answer = annotate(*(argument.replace("{run}", str(hostile_run)) for argument in arguments))
    printed = answer.out + answer.err
    assert "\\x1b[31mred" in printed
    assert not {"\x1b", "\x07", "\x9b"} & set(printed)


@pytest.mark.slow
def test_warnings_neither() -> None:
    """Without a handler of pytest's own, in a process."""
    code = (
        "import logging, sys; from annotator import cli; sys.argv = ['annotate', 'labelers']\n"
        "try: cli.main()\nexcept SystemExit: logging.getLogger('annotator.x').warning('a\\x1b[31mb %s', '\\x07')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stderr == "a\\x1b[31mb \\x07\n"


def test_colours_of_the_tool_itself_do(monkeypatch: pytest.MonkeyPatch) -> None:
    file = StringIO()
    terminal = console.Terminal(file=file, force_terminal=True, color_system="standard", highlight=False)
    terminal.print("[red]a\x1b[0mb\n[/]c")
    assert file.getvalue() == "\x1b[31ma\\x1b[0mb\x1b[0m\nc\n"


def test_runs_of_older_versions_still_export(hostile_run: Path) -> None:
    assert export("coco", open_run(hostile_run), hostile_run / "labels.json").annotations == 1
