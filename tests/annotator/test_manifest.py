"""run.json, whatever became of it: read as it was written, or one line that says what is wrong and what to do."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from helpers_runs import finished_manifest

from annotator.errors import RunError
from annotator.manifest import DIGEST, Manifest
from annotator.vocabulary import ClassEntry, Vocabulary

ENTRIES = (
    ClassEntry("background", ("background",), background=True),
    ClassEntry("cat", ("cat", "kitten"), color=(1, 2, 3), threshold=0.25),
    ClassEntry("dog", ("dog",), ignore=True),
    ClassEntry("puppy", ("puppy",), merge_into="cat"),
)
VOCABULARY = Vocabulary(ENTRIES, ("a {}",))
MANIFEST = finished_manifest(VOCABULARY)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    MANIFEST.save(tmp_path)
    return tmp_path / "run.json"


CONTENT = json.loads(json.dumps({**asdict(MANIFEST)}))


def test_it_comes_back(file: Path) -> None:
    assert Manifest.load(file.parent) == MANIFEST
    assert Vocabulary.from_dict(MANIFEST.vocabulary or {}).entries == ENTRIES


@pytest.mark.parametrize("name", [name for name in CONTENT if name not in ("schema", "state")])
def test_a_value_of_another_type_is_named(file: Path, name: str) -> None:
    file.write_text(json.dumps(CONTENT | {name: [1]}))
    with pytest.raises(RunError, match=rf"run\.json: damaged \(.*{name}.*\); .*--limit 0") as caught:
        Manifest.load(file.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [{"extra": 1}, {"schema": 2}, {"schema": None}, {"schema": "1"}, {"state": "done"}])
def test_what_is_none_of_its_values(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(CONTENT | value))
    with pytest.raises(RunError, match=r"run\.json: (damaged|expected schema 1)"):
        Manifest.load(file.parent)


def test_no_flipped_bit_goes_unnoticed(file: Path) -> None:
    """400 of them; one in the word `digest` itself leaves a value too many."""
    content = file.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(content)), 400):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            found = Manifest.load(file.parent)
        except RunError:
            continue
        assert found == MANIFEST, bit  # white space, say


def test_a_change_by_hand_is_accepted_without_the_digest(file: Path) -> None:
    content = json.loads(file.read_text())
    content["image_root"] = "elsewhere"
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"if you changed it, take its line 'digest' out"):
        Manifest.load(file.parent)
    del content[DIGEST]
    file.write_text(json.dumps(content))
    assert Manifest.load(file.parent).image_root == "elsewhere"


def test_nesting_without_end_is_one_line(file: Path) -> None:
    file.write_text("[" * 100_000)
    with pytest.raises(RunError, match=r"run\.json: damaged \("):
        Manifest.load(file.parent)
