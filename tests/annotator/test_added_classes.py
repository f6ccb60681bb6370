"""Names that a person adds to a run's classes: which ones, in which order, and for how long."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reference.open_runs import Labelled, write_run

from annotator.added_classes import KEY, extended, why_no_class
from annotator.corrections import Correction, append, class_names, corrected, undo
from annotator.errors import ConfigError, RunError
from annotator.prediction import Prediction
from annotator.run import RunReader
from annotator.vocabulary import ClassEntry, Vocabulary
from exporters.classes import classes_of

WORDS = Vocabulary(
    (
        ClassEntry("background", ("background",), background=True),
        ClassEntry("cat", ("cat",), color=(1, 2, 3)),
        ClassEntry("puppy", ("puppy",), merge_into="dog"),
        ClassEntry("dog", ("dog",)),
        ClassEntry("watermark", ("watermark",), ignore=True),
    )
)
NAMES = ("background", "cat", "dog")


@pytest.fixture
def run(tmp_path: Path) -> RunReader:
    return write_run(tmp_path / "run", {"a.jpg": Labelled([[1, 1]], NAMES)}, WORDS)


def pull_with(run: RunReader, *added: str, label: str = "cat") -> None:
    (record,) = run.records()
    (segment,) = Prediction(record.prediction().label_map, (label,), (0,), (1.0,)).segments()
    append(run.directory, [Correction("a.jpg", 2, 1, "approve", True, "", (segment,))], added)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zebra", ""),
        ("c#, or so", ""),
        ("斑马", ""),
        ("Cat", "'Cat' is the class 'cat' but for its case"),
        ("PUPPY", "'PUPPY' counts as 'dog'"),
        ("watermark", "'watermark' is ignored by the run"),
        ("Background", "'Background' is the background, which only the run's vocabulary can name"),
        ("", "the name is empty"),
        (" zebra", "' zebra' begins or ends with a space"),
        (
            "ze\x1bbra",
            "a name: expected text that can be seen, but found the character \\x1b",
        ),
        ("ze\u2028bra", "a name: expected text that can be seen, but found the character \\u2028"),
    ],
)
def test_what_can_be_a_class(name: str, reason: str) -> None:
    found = why_no_class(name, WORDS, NAMES)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)
    if reason:
        with pytest.raises(ConfigError, match="expected the name of a new class"):
            extended(WORDS, [name])


def test_the_order_is_that_of_adding_and_a_class_is_added_once() -> None:
    assert extended(WORDS, ["yak", "cat", "ape", "yak"]) == (*NAMES, "yak", "ape")


def test_the_runs_own_classes_keep_their_numbers_and_colours(run: RunReader) -> None:
    before = classes_of(run)
    pull_with(run, "ape", label="ape")
    pull_with(run, "ape", "zebra", label="zebra")
    after = classes_of(run)
    assert after.names == class_names(run) == (*before.names, "ape", "zebra")
    assert after.own_colors == (*before.own_colors, None, None)
    assert after.background == before.background
    assert [each.class_id for record in corrected(run.records(), run) for each in record.segments] == [4]
    assert run.vocabulary == WORDS


def test_a_class_goes_with_the_last_pull_that_was_made_with_it(run: RunReader) -> None:
    for added in (["ape"], ["ape", "zebra"], ["ape", "zebra"]):
        pull_with(run, *added, label=added[-1])
    undo(run.directory, 1)
    assert class_names(run) == (*NAMES, "ape", "zebra")  # what was written with these numbers stays right
    undo(run.directory, 3)
    assert class_names(run) == (*NAMES, "ape", "zebra")
    undo(run.directory, 2)
    assert class_names(run) == NAMES


def test_a_run_that_names_its_own_classes_has_none_added(tmp_path: Path) -> None:
    run = write_run(tmp_path / "open", {"a.jpg": Labelled([[0]], ["a cat"])})
    assert class_names(run) == ()


@pytest.mark.parametrize("value", ["{", "5", "[5]", '["ze\\u001bbra"]', '["Cat"]', '["background "]', "[" * 10_000])
def test_a_list_that_was_tampered_with_is_one_line(run: RunReader, value: str) -> None:
    pull_with(run, "zebra", label="zebra")
    (file,) = (run.directory / "corrections").glob("*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, KEY.encode(): value}), file)
    for use in (class_names, classes_of):
        with pytest.raises(RunError, match=r"000001\.parquet: cannot be read \(.*move it away") as caught:
            use(run)
        assert "\n" not in str(caught.value)
        assert json.dumps(str(caught.value)).isascii()
