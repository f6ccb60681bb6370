"""What a person said of a run, beside it and over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference.open_runs import Labelled, write_run

from annotator.corrections import Correction, Tally, Verdict, append, corrected, fingerprint, pulls, reviewed, undo
from annotator.errors import RunError
from annotator.prediction import Prediction, Segment
from annotator.record import ImageRecord
from annotator.run import RunReader, part_files
from annotator.vocabulary import Vocabulary

CLASSES = Vocabulary.of(["background", "cat", "dog"])
CAT = [[0, 0, 1], [0, 1, 1]]  # of background and cat
PHOTOS = ("a.jpg", "b.jpg", "c/d.jpg", "e.jpg")


def cats(label_map: object = CAT) -> Labelled:
    return Labelled(label_map, ["background", "cat"], scores=[0.6, 0.9])


@pytest.fixture
def run(tmp_path: Path) -> RunReader:
    return write_run(tmp_path / "run", {**dict.fromkeys(PHOTOS, cats()), "z.jpg": None}, CLASSES)


def segments(label_map: object, labels: tuple[str, ...] = ("background", "dog")) -> tuple[Segment, ...]:
    ids = [CLASSES.names.index(label) if label in CLASSES.names else -1 for label in labels]
    return tuple(Prediction(np.array(label_map, np.int32), labels, ids, (1.0,) * len(labels)).segments())


def said(
    run: RunReader, path: str, verdict: Verdict = "", edit: tuple[Segment, ...] | None = None, **changes: object
) -> Correction:
    """A correction of what the run says of a photo now."""
    record = {record.path: record for record in run.records()}[path]
    kept = edit if edit is not None else record.segments if verdict == "approve" else ()
    seen = fingerprint(record.segments)
    correction = Correction(path, record.width, record.height, verdict, edit is not None, seen, kept)
    return replace(correction, **changes)  # type: ignore[arg-type]


def exported(run: RunReader, *, only_approved: bool = False) -> dict[str, ImageRecord]:
    return {record.path: record for record in corrected(run.records(), run, only_approved=only_approved)}


def test_a_run_that_nobody_looked_at_is_as_it_was(run: RunReader) -> None:
    assert list(corrected(run.records(), run)) == list(run.records())
    assert list(corrected(run.records(), run, only_approved=True)) == list(run.failures())
    assert pulls(run.directory) == []


def test_an_edit_changes_its_photo_and_no_other(run: RunReader) -> None:
    dog = segments([[0, 0, 0], [0, 1, 1]])
    before = [part.read_bytes() for part in part_files(run.directory)]
    append(run.directory, [said(run, "b.jpg", edit=dog)])
    found = exported(run)
    assert found["b.jpg"].segments == dog
    assert found["b.jpg"].prediction().class_map().tolist() == [[0, 0, 0], [0, 2, 2]]
    others = {record.path: record for record in run.records() if record.path != "b.jpg"}
    assert {path: record for path, record in found.items() if path != "b.jpg"} == others
    assert [part.read_bytes() for part in part_files(run.directory)] == before


def test_verdicts_choose_photos(run: RunReader) -> None:
    tally = Tally(edited=7)
    append(
        run.directory,
        [said(run, "a.jpg", "approve"), said(run, "b.jpg", "reject"), said(run, "c/d.jpg", "redo")],
    )
    assert [record.path for record in corrected(run.records(), run, tally=tally)] == ["a.jpg", "e.jpg", "z.jpg"]
    assert tally == Tally(edited=0, approved=1, left_out=2)
    assert list(exported(run, only_approved=True)) == ["a.jpg", "z.jpg"]  # a failed photo is not a verdict's matter
    assert [each.verdict for each in reviewed(run)] == ["approve", "reject", "redo", "", ""]


def rerun(run: RunReader, label_map: object, vocabulary: Vocabulary = CLASSES) -> RunReader:
    """The same photos with other labels; `write_run` starts the folder anew, as --overwrite does."""
    return write_run(run.directory, {**dict.fromkeys(PHOTOS, cats(label_map)), "new.jpg": cats()}, vocabulary)


def test_it_survives_a_run_with_other_labels(run: RunReader) -> None:
    dog = segments([[0, 0, 0], [0, 1, 1]])
    append(
        run.directory,
        [
            said(run, "a.jpg", "approve"),
            said(run, "b.jpg", "reject"),
            said(run, "c/d.jpg", "redo"),
            said(run, "e.jpg", edit=dog),
        ],
    )
    again = rerun(run, [[1, 1, 1], [1, 1, 0]])
    found = exported(again)
    assert list(found) == ["a.jpg", "c/d.jpg", "e.jpg", "new.jpg"]
    assert found["a.jpg"].prediction().class_map().tolist() == CAT  # what was approved, not what nobody saw
    assert found["c/d.jpg"].prediction().class_map().tolist() == [[1, 1, 1], [1, 1, 0]]  # it was labelled anew
    assert found["e.jpg"].segments == dog
    same = rerun(run, CAT)
    assert list(exported(same)) == ["a.jpg", "e.jpg", "new.jpg"]  # with the old labels, the wish to redo holds


def test_classes_are_found_by_name_in_another_vocabulary(run: RunReader) -> None:
    append(run.directory, [said(run, "a.jpg", edit=segments(CAT)), said(run, "b.jpg", "approve")])
    other = Vocabulary.of(["dog", "background"])
    again = write_run(run.directory, {name: Labelled([[0]], ["dog"]) for name in ("y.jpg",)}, other)
    assert list(exported(again)) == ["y.jpg"]
    size = Labelled([[0, 0, 0], [0, 0, 0]], ["dog"])
    found = exported(write_run(run.directory, {"a.jpg": size, "b.jpg": size}, other))
    assert [(each.label, each.class_id) for each in found["a.jpg"].segments] == [("background", 1), ("dog", 0)]
    assert [(each.label, each.class_id) for each in found["b.jpg"].segments] == [("background", 1), ("cat", -1)]


def test_a_photo_of_another_size_is_another_photo(run: RunReader) -> None:
    wider = segments([[0, 0, 0, 1], [0, 0, 0, 1]])
    append(run.directory, [said(run, "a.jpg", edit=wider, width=4), said(run, "b.jpg", "reject", height=3)])
    assert exported(run) == {record.path: record for record in run.records()}


def test_the_last_pull_holds_and_can_be_undone(run: RunReader) -> None:
    one, two = segments([[0, 0, 0], [0, 0, 1]]), segments([[1, 0, 0], [0, 0, 1]])
    append(run.directory, [said(run, "a.jpg", edit=one), said(run, "b.jpg", "reject")])
    append(run.directory, [said(run, "a.jpg", "approve", edit=two)])
    assert exported(run)["a.jpg"].segments == two
    taken_back = undo(run.directory, 2)
    assert (taken_back.number, taken_back.photos, taken_back.undone) == (2, 1, True)
    assert exported(run)["a.jpg"].segments == one
    third = append(run.directory, [said(run, "b.jpg")])  # the rejection is withdrawn
    assert third is not None
    assert third.number == 3
    assert list(exported(run)) == [record.path for record in run.records()]
    undo(run.directory, 1)
    undo(run.directory, 3)
    assert exported(run) == {record.path: record for record in run.records()}
    listed = [(each.number, each.photos, each.edited, each.verdicts["approve"], each.verdicts["reject"], each.undone)
              for each in pulls(run.directory)]  # fmt: skip
    assert listed == [(1, 2, 1, 0, 1, True), (2, 1, 1, 1, 0, True), (3, 1, 0, 0, 0, True)]


def test_undoing_what_is_not_there_says_what_is(run: RunReader) -> None:
    append(run.directory, [said(run, "a.jpg", "reject")])
    with pytest.raises(RunError, match=r"expected a pull that is not undone \(1\), but got 2"):
        undo(run.directory, 2)
    undo(run.directory, 1)
    with pytest.raises(RunError, match=r"\(none\), but got 1"):
        undo(run.directory, 1)


def test_a_pull_is_written_whole_or_not_at_all(run: RunReader) -> None:
    def breaks() -> Iterator[Correction]:
        for _ in range(300):
            yield said(run, "a.jpg", "reject")
        raise RunError("mend it")

    assert append(run.directory, []) is None
    with pytest.raises(RunError, match="mend it"):
        append(run.directory, breaks())
    assert list((run.directory / "corrections").iterdir()) == []
    assert exported(run) == {record.path: record for record in run.records()}


def test_many_pulls_of_many_photos_hold_as_if_they_were_said_one_by_one(tmp_path: Path) -> None:
    names = [f"{number:04d}.jpg" for number in range(700)]
    run = write_run(tmp_path / "run", dict.fromkeys(names, cats([[0, 1]])), CLASSES)
    rng = np.random.default_rng(0)
    expected: dict[str, Verdict] = dict.fromkeys(names, "")
    verdicts: tuple[Verdict, ...] = ("", "approve", "reject", "redo")
    template = said(run, names[0])
    for _ in range(5):
        chosen = {name: verdicts[rng.integers(4)] for name in names if rng.random() < 0.6}
        append(run.directory, [replace(template, path=name, verdict=verdict) for name, verdict in chosen.items()])
        expected |= chosen
    assert {each.record.path: each.verdict for each in reviewed(run)} == expected


def test_a_pull_whose_paths_became_bytes_is_named(run: RunReader) -> None:
    """One bit of the type that stands in the file does it; the values and their digests stay the same."""
    append(run.directory, [said(run, "b.jpg", "reject")])
    (file,) = (run.directory / "corrections").glob("*.parquet")
    table = pq.read_table(file)
    place = table.schema.get_field_index("path")
    pq.write_table(table.set_column(place, "path", table["path"].cast(pa.binary())), file)
    with pytest.raises(RunError, match=r"000001\.parquet: cannot be read \(expected .*path"):
        list(corrected(run.records(), run))


def test_a_damaged_pull_is_named(run: RunReader) -> None:
    append(run.directory, [said(run, "a.jpg", "reject")])
    (run.directory / "corrections" / "000001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RunError, match=r"000001\.parquet: cannot be read"):
        exported(run)
    with pytest.raises(RunError, match=r"000001\.parquet: cannot be read"):
        pulls(run.directory)
