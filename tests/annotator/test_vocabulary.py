"""Class lists: both file forms, every mistake with its line, and what a run keeps of them."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from annotator.errors import VocabularyError
from annotator.vocabulary import ClassEntry, Vocabulary, as_vocabulary

RICH = """\
# streets
background: {background: true, prompts: [sky, wall]}
dog: {prompts: [dog, puppy, dog], color: "#ff8800", threshold: 0.4}
cat: {color: [1, 2, 3], threshold: 1}
watermark: {ignore: true}
poodle: {merge_into: dog}
bus: [bus, coach]
tree:
"""


def write(folder: Path, content: str | bytes, name: str = "classes.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("dog\ncat\n", [("dog",), ("cat",)]),
        ("dog", [("dog",)]),  # no newline at the end
        ("\ufeffdog\ncat", [("dog",), ("cat",)]),  # byte order mark
        ("dog\r\ncat, kitten\r\n", [("dog",), ("cat", "kitten")]),
        ("# all\n\n  dog ,puppy,  hound  # pets\n#cat\n", [("dog", "puppy", "hound")]),
        ("dog, dog, puppy\n", [("dog", "puppy")]),  # a synonym twice counts once
        ("c#, sharp\nf# # key\n#1\n", [("c#", "sharp"), ("f#",)]),
        ("dog\t# tab\n  # indented\na,#b\n", [("dog",), ("a", "#b")]),
        ("traffic light\nКошка, 猫\n", [("traffic light",), ("Кошка", "猫")]),
    ],
)
def test_reads_lines(tmp_path: Path, content: str, expected: list[tuple[str, ...]]) -> None:
    found = Vocabulary.load(write(tmp_path, content))
    assert [(entry.name, entry.prompts) for entry in found.entries] == [(names[0], names) for names in expected]


def test_reads_yaml(tmp_path: Path) -> None:
    found = Vocabulary.load(write(tmp_path, RICH, "classes.yaml"))
    assert found.entries == (
        ClassEntry("background", ("sky", "wall"), background=True),
        ClassEntry("dog", ("dog", "puppy"), color=(255, 136, 0), threshold=0.4),
        ClassEntry("cat", ("cat",), color=(1, 2, 3), threshold=1.0),
        ClassEntry("watermark", ("watermark",), ignore=True),
        ClassEntry("poodle", ("poodle",), merge_into="dog"),
        ClassEntry("bus", ("bus", "coach")),
        ClassEntry("tree", ("tree",)),
    )
    assert found.templates == ()


def test_what_is_written_leaves_out_ignored_and_merged_entries(tmp_path: Path) -> None:
    found = Vocabulary.load(write(tmp_path, RICH, "classes.yml"))
    assert found.names == ("background", "dog", "cat", "bus", "tree")
    assert found.class_of_entry.tolist() == [0, 1, 2, -1, 1, 3, 4]
    assert found.class_of_entry.dtype == "int32"
    assert len(found) == 7
    assert (found.background_entry, found.background_class) == (0, 0)


@pytest.mark.parametrize(
    ("content", "names", "templates"),
    [
        ("[dog, no, 1]", ["dog", "no", "1"], ()),  # YAML's own readings of a name do not matter
        ("- dog\n- cat\n", ["dog", "cat"], ()),
        ("\ufeffdog:\r\ncat:\r\n", ["dog", "cat"], ()),
        ("classes: [dog]\ntemplates: ['a {} here', '{}']", ["dog"], ("a {} here", "{}")),
        ("classes: {dog: {}}\ntemplates: 'a {} here'", ["dog"], ("a {} here",)),  # one alone
        ("classes:\ndogs:\n", ["classes", "dogs"], ()),  # a class may be called so
    ],
)
def test_other_forms_of_yaml(tmp_path: Path, content: str, names: list[str], templates: tuple[str, ...]) -> None:
    found = Vocabulary.load(write(tmp_path, content, "classes.yaml"))
    assert (list(found.names), found.templates) == (names, templates)


@pytest.mark.parametrize(
    ("content", "background"),
    [
        ("dog\nBackground, sky\n", 1),
        ("dog\ncat\n", None),
        ("background: {}\nsky: {background: true}\n", 1),  # the word of the file goes before the name
    ],
)
def test_background_by_name(tmp_path: Path, content: str, background: int | None) -> None:
    name = "classes.yaml" if ":" in content else "classes.txt"
    found = Vocabulary.load(write(tmp_path, content, name))
    assert (found.background_entry, found.background_class) == (background, background)


@pytest.mark.parametrize(
    ("content", "entry", "index"),
    [
        ("a: {ignore: true}\nb: {merge_into: c}\nbackground:\nc:\n", 2, 0),  # entries before it are not written
        ("a:\nsky: {background: true, ignore: true}\n", 1, None),
        ("a:\nsky: {background: true, merge_into: a}\n", 1, None),  # class 0 is more than the background
        ("a:\nb:\n", None, None),
    ],
)
def test_the_background_has_a_place_among_the_entries_and_one_among_the_classes(
    tmp_path: Path, content: str, entry: int | None, index: int | None
) -> None:
    found = Vocabulary.load(write(tmp_path, content, "classes.yaml"))
    assert (found.background_entry, found.background_class) == (entry, index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "1: no class found; write a class name per line"),
        ("# only\n# comments\n", "2: no class found; write a class name per line"),
        ("cat\n\ndog\ncat\n", "4: class 'cat' repeats line 1; remove one"),
        ("dog\r\ncat\r\ndog # again\r\n", "3: class 'dog' repeats line 1; remove one"),
        ("dog\ncat\n  Dog \n", "3: class 'Dog' repeats line 1 ('dog') but for its case; remove one"),
        (
            "background\n\nBackground, sky\n",
            "3: class 'Background' repeats line 1 ('background') but for its case; remove one",
        ),
        ("STRASSE\nstraße\n", "2: class 'straße' repeats line 1 ('STRASSE') but for its case; remove one"),
        ("dog\ncat,, kitten\n", "2: an empty name between commas in 'cat,, kitten'; remove the comma"),
        ("dog,\n", "1: an empty name between commas in 'dog,'; remove the comma"),
        (b"dog\ncat\nb\xe4r\n", "3: not UTF-8; save the file as UTF-8"),
        ("dog\n".encode("utf-16"), "1: not UTF-8; save the file as UTF-8"),
    ],
)
def test_mistakes_in_lines(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(VocabularyError) as error:
        Vocabulary.load(path)
    assert str(error.value) == f"{path}:{message}"


FIELDS = "prompts, color, threshold, background, ignore, merge_into"
TEMPLATE = 'expected templates such as "a photo of a {}"'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "1: no class found; write a class name per line"),
        ("{}", "1: no class found; write a class name per line"),
        ("dog:\ncat:\n\ndog:\n", "4: class 'dog' repeats line 1; remove one"),
        ("dog:\n'Dog ':\n", "2: class 'Dog' repeats line 1 ('dog') but for its case; remove one"),
        ("- no\n- cat\n- No\n", "3: class 'No' repeats line 1 ('no') but for its case; remove one"),
        (
            "a:\nb: {ignore: true, merge_into: a}",
            "2: expected 'b' to be ignored or merged into 'a', but found both; keep one of the two",
        ),
        ("a:\nb: {merge_into: [a]}", "2: expected merge_into of 'b' to be a class name, but found ['a']"),
        ("a:\nb: {merge_into: ''}", "2: expected merge_into of 'b' to be a class name, but found ''"),
        ("a:\nb: {threshold: 2020-02-31}", "2: not valid YAML: no value can be read from '2020-02-31'"),
        ("a:\nb: {background: true}\nc: {background: true}\n", "3: 'c' is a second background; 'b' is one already"),
        ("dog:\ncat: {merge_into: lion}\n", "2: 'cat' merges into 'lion', which is no class here"),
        ("a:\nb: {merge_into: c}\nc: {ignore: true}", "2: 'b' merges into 'c', which is no class here"),
        ("a:\nb: {merge_into: b}", "2: 'b' merges into 'b', which is no class here"),
        ("a: {ignore: true}\nb: {ignore: true}\n", "2: every class is ignored; leave at least one to write"),
        ("dog:\ncat: {colour: red}\n", f"2: unknown key 'colour' for 'cat'; known are {FIELDS}"),
        ("dog: 3\n", f"1: expected {{{FIELDS}}} for 'dog', but found 3"),
        ("dog: {prompts: puppy}", "1: expected prompts of 'dog' to be a list of words, but found 'puppy'"),
        ("dog: [puppy, '']", "1: expected prompts of 'dog' to be a list of words, but found ['puppy', '']"),
        ("a:\ndog: {threshold: 1.5}", "2: expected threshold of 'dog' between 0 and 1, but found 1.5"),
        ("dog: {threshold: .nan}", "1: expected threshold of 'dog' between 0 and 1, but found nan"),
        ("dog: {threshold: true}", "1: expected threshold of 'dog' between 0 and 1, but found True"),
        ("dog: {ignore: 1}", "1: expected ignore of 'dog' to be true or false, but found 1"),
        ("a:\n\ndog: {color: red}", "3: color of 'dog': expected \"#rrggbb\" or [r, g, b], but found 'red'"),
        ("dog: {color: '123'}", "1: color of 'dog': expected \"#rrggbb\" or [r, g, b], but found '123'"),
        ("dog: {color: '#12 345'}", "1: color of 'dog': expected \"#rrggbb\" or [r, g, b], but found '#12 345'"),
        ("dog: {color: [1, 2, 256]}", "1: color of 'dog': expected \"#rrggbb\" or [r, g, b], but found [1, 2, 256]"),
        ("dog: {color: [1, 2]}", "1: color of 'dog': expected \"#rrggbb\" or [r, g, b], but found [1, 2]"),
        ("dog:\n- [cat]\n", "1: expected prompts of 'dog' to be a list of words, but found [['cat']]"),
        ("- dog\n- [cat]\n", "2: expected a class name, but found a nested list or mapping"),
        ("dog:\n? [a, b]\n: {}\n", "2: expected a class name, but found a nested list or mapping"),
        ("dog:\n'':\n", "2: a class without a name"),
        ("just words", "1: expected `name: {...}` per class, but found 'just words'"),
        ("dog: {\ncat: ]", "2: not valid YAML: expected the node content, but found ']'"),
        ("dog:\ncat: !!python/name:os.system\n", "2: not valid YAML: could not determine a constructor for the tag"),
        ("dog:\ncat: {[1]: 2}\n", f"2: unknown key '[1]' for 'cat'; known are {FIELDS}"),
        ("dog:\ncat\x00:\n", "2: not valid YAML: special characters are not allowed"),
        ("classes: [dog]\ntemplates: [a photo]\n", f"2: {TEMPLATE}, but found 'a photo'"),
        ("classes: [dog]\ntemplates: ['{} or {}']", f"2: {TEMPLATE}, but found '{{}} or {{}}'"),
    ],
)
def test_mistakes_in_yaml(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content, "classes.yaml")
    with pytest.raises(VocabularyError) as error:
        Vocabulary.load(path)
    assert str(error.value).startswith(f"{path}:{message}")
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"none\.txt: no such file; a vocabulary is a file"):
        Vocabulary.load(tmp_path / "none.txt")
    with pytest.raises(VocabularyError, match="expected a file with a class per line, but found a folder"):
        Vocabulary.load(tmp_path)
    with pytest.raises(VocabularyError, match=r"cannot be read \(File name too long\)"):
        Vocabulary.load("x" * 300)


def test_a_labeler_that_needs_a_background_points_at_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "dog\ncat\n\n")
    with pytest.raises(VocabularyError) as error:
        Vocabulary.load(path).require_background("diy")
    problem = 'no background among 2 classes, and diy needs one; add a class named "background"'
    assert str(error.value) == f"{path}:3: {problem}"
    with pytest.raises(VocabularyError) as error:
        Vocabulary.of(["dog", "cat"]).require_background("diy")
    assert str(error.value) == f"vocabulary: {problem}"  # there is no line
    assert Vocabulary.of(["dog", "background"]).require_background("diy") == 1


def test_from_names_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert as_vocabulary("cat, dog,background").names == ("cat", "dog", "background")
    assert as_vocabulary(["cat, kitten", "dog"]).entries[0].prompts == ("cat", "kitten")
    many = [f"class number {index}" for index in range(900)]  # longer than any path may be
    assert as_vocabulary(", ".join(many)).names == tuple(many)
    write(tmp_path, "bus\n", "cats, dogs.txt")  # a file's name may hold a comma
    assert as_vocabulary("cats, dogs.txt").names == ("bus",)
    assert as_vocabulary(tmp_path / "cats, dogs.txt").names == ("bus",)
    given = Vocabulary.of(["dog"])
    assert as_vocabulary(given) is given
    assert as_vocabulary("c#, cat").names == ("c#", "cat")
    assert Vocabulary.of(["a #1", "#2"]).names == ("a #1", "#2")  # only files have comments


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dog", "dog"], ", name 2: class 'dog' repeats name 1; remove one"),
        (
            ["background", "Background"],
            ", name 2: class 'Background' repeats name 1 ('background') but for its case; remove one",
        ),
        ("dog, cat,Dog ", ", name 3: class 'Dog' repeats name 1 ('dog') but for its case; remove one"),
        (["cat,, kitten"], ", name 1: an empty name between commas in 'cat,, kitten'; remove the comma"),
        (["dog", 1.10], ", name 2: expected text, but found 1.1; put it in quotes"),
        ([True], ", name 1: expected text, but found True; put it in quotes"),
        ([], ": no class found; give at least one name"),
    ],
)
def test_mistakes_in_names_in_memory(names: Any, message: str) -> None:
    with pytest.raises(VocabularyError) as error:
        as_vocabulary(names)
    assert str(error.value) == f"vocabulary{message}"


@pytest.mark.parametrize(
    "scalar",
    ["1", "1.10", "0x1F", "017", "1_000", "1e3", ".inf", "no", "True", "on", "2020-01-01", "2020-02-31", "1:30", "<<"],
)
def test_a_name_in_yaml_is_what_stands_there(tmp_path: Path, scalar: str) -> None:
    """As a key, a list item, a prompt, a merge target, and in a list of classes with templates."""
    content = f"{scalar}: [{scalar}, x]\ny: {{prompts: [{scalar}, 2.50]}}\nz: {{merge_into: {scalar}}}\n"
    found = Vocabulary.load(write(tmp_path, content, "classes.yaml"))
    assert [entry.name for entry in found.entries] == [scalar, "y", "z"]
    assert [entry.prompts for entry in found.entries] == [(scalar, "x"), (scalar, "2.50"), ("z",)]
    assert (found.entries[2].merge_into, found.class_of_entry.tolist()) == (scalar, [0, 1, 0])
    for listed in (f"- {scalar}\n- y\n", f"classes: [{scalar}, y]\ntemplates: ['a {{}}']\n"):
        assert Vocabulary.load(write(tmp_path, listed, "classes.yaml")).names == (scalar, "y")


def test_nothing_after_merge_into_is_no_target(tmp_path: Path) -> None:
    content = "'null':\na: {merge_into: null}\nb:\n  merge_into:\nc: {merge_into: 'null'}\n"
    found = Vocabulary.load(write(tmp_path, content, "classes.yaml"))
    assert [entry.merge_into for entry in found.entries] == [None, None, None, "null"]


def test_fields_may_be_shared_by_an_anchor(tmp_path: Path) -> None:
    content = "dog: &rare {threshold: 0.5, prompts: [1.10]}\ncat: {<<: *rare, prompts: [no]}\n"
    found = Vocabulary.load(write(tmp_path, content, "classes.yaml"))
    assert [(entry.threshold, entry.prompts) for entry in found.entries] == [(0.5, ("1.10",)), (0.5, ("no",))]


def test_a_run_of_an_earlier_version_stays_readable() -> None:
    """Its vocabulary may hold what is refused today."""
    entry = {"prompts": ["x"], "color": None, "threshold": None, "background": False, "ignore": False}
    old = [
        {"name": "background", **entry, "merge_into": None, "background": True},
        {"name": "Background", **entry, "merge_into": None},
        {"name": "dog", **entry, "merge_into": "Background", "ignore": True},
    ]
    found = Vocabulary.from_dict({"source": "classes.txt", "templates": [], "entries": old})
    assert found.names == ("background", "Background")
    assert found.background_class == 0


def test_survives_a_manifest(tmp_path: Path) -> None:
    content = "templates: ['a {}']\nclasses:\n" + textwrap.indent(RICH, "  ")
    before = Vocabulary.load(write(tmp_path, content, "classes.yaml"))
    after = Vocabulary.from_dict(json.loads(json.dumps(before.to_dict())))
    assert (after.entries, after.templates, after.source) == (before.entries, before.templates, before.source)
    assert after.fingerprint() == before.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "hound"},
        {"prompts": ("dog", "puppy")},
        {"threshold": 0.5},
        {"background": True},
        {"ignore": True},
        {"merge_into": "cat"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_sees_every_change_that_may_change_a_label(change: dict[str, Any]) -> None:
    dog, cat = ClassEntry("dog", ("dog",)), ClassEntry("cat", ("cat",))
    changed = Vocabulary((dataclasses.replace(dog, **change), cat))
    assert changed.fingerprint() != Vocabulary((dog, cat)).fingerprint()
    coloured = Vocabulary((dataclasses.replace(dog, color=(1, 2, 3)), cat))
    assert coloured.fingerprint() == Vocabulary((dog, cat)).fingerprint()


def test_the_fingerprint_sees_order_and_templates_but_not_the_file(tmp_path: Path) -> None:
    first = Vocabulary.of(["dog", "cat"])
    assert Vocabulary.of(["cat", "dog"]).fingerprint() != first.fingerprint()
    assert dataclasses.replace(first, templates=("a {}",)).fingerprint() != first.fingerprint()
    assert Vocabulary.load(write(tmp_path, "# pets\ndog\ncat\n")).fingerprint() == first.fingerprint()
