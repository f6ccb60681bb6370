"""A run with free-text labels becomes one with a vocabulary; the directions of all texts are written down."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference.open_runs import Labelled, Table, image_of, write_run

from annotator.errors import ConfigError, RunError
from annotator.models.networks import Networks
from annotator.relabel import relabel
from annotator.run import RunReader, part_files, write_part
from annotator.vocabulary import Vocabulary
from exporters.base import export

TABLE = {
    "background": (1, 1, 1),
    "cat": (1, 0, 0),
    "dog": (0, 1, 0),
    "kitten": (0.96, 0.28, 0),
    "puppy": (0, 0.8, 0.6),
    "hound": (0.28, 0.96, 0),
    "sky": (0, 0.1, 1),
}
PETS = Vocabulary.of(["background", "dog", "cat"])
PHOTOS = {
    "a.jpg": Labelled(
        [[0, 0, 1, 1], [2, 2, 2, -1], [3, 3, 3, 3]],
        ["puppy", "sky", "hound", "kitten"],
        [(0, 1, 0), (0, 0.05, 1), (0.9, 0, 0.1), (1, 0, 0)],
        [0.9, 0.4, 0.5, 0.3],
    ),
    "b.jpg": None,
    "c.jpg": Labelled([[0, 0]], ["sky"], [(0, 1, 0)], [0.7]),
    "sub/d.jpg": Labelled([[-1, -1]], [], []),
}


@pytest.fixture
def origin(tmp_path: Path) -> RunReader:
    return write_run(tmp_path / "run", PHOTOS, image_root=tmp_path / "photos", pack={"name": "embedded"})


@pytest.fixture
def networks() -> Networks:
    return Networks.of(sentence=Table(TABLE), clip=Table(image_of(TABLE)))


def test_text_to_text(origin: RunReader, networks: Networks, tmp_path: Path) -> None:
    done = relabel(origin, PETS, "tt", tmp_path / "new", networks)
    records = {record.path: record for record in done.run.records()}
    a = records["a.jpg"]
    assert [(segment.label, segment.class_id, segment.area) for segment in a.segments] == [("dog", 1, 5), ("cat", 2, 4)]
    # puppy (2 pixels) and hound (3) are one now, sky is nothing
    np.testing.assert_array_equal(a.prediction().class_map(), [[1, 1, -1, -1], [1, 1, 1, -1], [2, 2, 2, 2]])
    assert a.segments[0].score == pytest.approx((2 * 0.9 + 3 * 0.5) / 5)
    assert a.segments[1].score == pytest.approx(0.3)
    assert a.size == (3, 4)
    assert records["b.jpg"].status == "failed"
    assert records["b.jpg"].error == "empty file"
    assert records["c.jpg"].segments == records["sub/d.jpg"].segments == ()
    assert (done.segments, done.kept) == (5, 3)


def test_segment_to_text(origin: RunReader, networks: Networks, tmp_path: Path) -> None:
    """By the embeddings: the hound looks like a cat, the second photo's sky like a dog."""
    done = relabel(origin, PETS, "st", tmp_path / "new", networks)
    first, _, third, _ = done.run.records()
    np.testing.assert_array_equal(first.prediction().class_map(), [[1, 1, -1, -1], [2, 2, 2, -1], [2, 2, 2, 2]])
    assert [segment.label for segment in third.segments] == ["dog"]


def test_every_mapping_is_written_down(origin: RunReader, networks: Networks, tmp_path: Path) -> None:
    relabel(origin, PETS, "tt", tmp_path / "new", networks, threshold=0.85)
    with open(tmp_path / "new/mapping.csv", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("a.jpg", "0", "puppy", "dog", "0.8000", "0"),
        ("a.jpg", "1", "sky", "dog", "0.0995", "0"),
        ("a.jpg", "2", "hound", "dog", "0.9600", "1"),
        ("a.jpg", "3", "kitten", "cat", "0.9600", "1"),
        ("c.jpg", "0", "sky", "dog", "0.0995", "0"),
    ]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "mapping.csv", "parts", "run.json", "run.lock"
    ]  # fmt: skip


def test_the_new_run_says_where_it_comes_from(origin: RunReader, networks: Networks, tmp_path: Path) -> None:
    done = relabel(origin, PETS, "tt", tmp_path / "new", networks)
    manifest = done.run.manifest
    assert manifest.state == "complete"
    assert manifest.labeler == "test"
    assert manifest.image_root == str(tmp_path / "photos")
    assert manifest.config["origin"] == {"run": str(tmp_path / "run"), "config": {"seed": 1}}
    assert (manifest.config["by"], manifest.config["threshold"]) == ("tt", 0.5)
    assert manifest.pack["name"] == "embedded"
    assert done.run.vocabulary is not None
    assert done.run.vocabulary.names == PETS.names
    json.dumps(manifest.config)


def test_it_exports_like_any_run_with_a_vocabulary(origin: RunReader, networks: Networks, tmp_path: Path) -> None:
    done = relabel(origin, PETS, "tt", tmp_path / "new", networks)
    export("coco", done.run, tmp_path / "labels.json")
    content = json.loads((tmp_path / "labels.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["dog", "cat"]
    assert [annotation["area"] for annotation in content["annotations"]] == [5, 4]


def test_it_goes_on_after_an_interruption(
    origin: RunReader, networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = relabel(origin, PETS, "tt", tmp_path / "whole", networks)
    table = networks.sentence
    embed = table.embed

    def breaks(texts: list[str]) -> object:
        if "sky" in texts and len(texts) == 1:  # the third photo's
            raise KeyboardInterrupt
        return embed(texts)

    photos = {**PHOTOS, "a.jpg": Labelled([[0]], ["puppy"])}
    short = write_run(tmp_path / "short", photos)
    with monkeypatch.context() as patched:
        patched.setattr(table, "embed", breaks)
        with pytest.raises(KeyboardInterrupt):
            relabel(short, PETS, "tt", tmp_path / "new", networks)
    stopped = RunReader(tmp_path / "new")
    assert stopped.manifest.state == "interrupted"
    assert [record.path for record in stopped.records()] == ["a.jpg", "b.jpg"]
    assert not (tmp_path / "new/mapping.csv").exists()
    before = part_files(tmp_path / "new")[0].read_bytes()

    done = relabel(short, PETS, "tt", tmp_path / "new", networks)
    assert part_files(tmp_path / "new")[0].read_bytes() == before
    assert [record.path for record in done.run.records()] == list(PHOTOS)
    assert done.run.manifest.state == "complete"
    assert len((tmp_path / "new/mapping.csv").read_text().splitlines()) == 1 + 2
    assert (done.segments, whole.segments) == (2, 5)


def test_refusals(origin: RunReader, networks: Networks, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected another folder than the run's own"):
        relabel(origin, PETS, "tt", tmp_path / "x" / ".." / "run", networks)
    with pytest.raises(ConfigError, match="threshold: expected 0 to 1, but got 2"):
        relabel(origin, PETS, "tt", tmp_path / "new", networks, threshold=2)
    assert not (tmp_path / "new").exists()
    relabel(origin, PETS, "tt", tmp_path / "new", networks)
    with pytest.raises(RunError, match=r"\(by: the run has tt, this command has st; threshold: the run has "):
        relabel(origin, PETS, "st", tmp_path / "new", networks)
    again = relabel(origin, PETS, "st", tmp_path / "new", networks, overwrite=True)
    assert again.kept == 4
    assert len(again.run) == 4


def test_an_unfinished_origin_leaves_an_unfinished_run(networks: Networks, tmp_path: Path) -> None:
    partial = write_run(tmp_path / "run", {"a.jpg": Labelled([[0]], ["puppy"])}, state="partial")
    assert relabel(partial, PETS, "tt", tmp_path / "new", networks).run.manifest.state == "partial"


def test_no_cell_of_the_mapping_is_a_formula(networks: Networks, tmp_path: Path) -> None:
    photos = {"=HYPERLINK(1).jpg": Labelled([[0]], ["cat"], [(1, 0, 0)], [0.7]), "+1.jpg": PHOTOS["c.jpg"]}
    run = write_run(tmp_path / "run", photos, image_root=tmp_path / "photos", pack={"name": "embedded"})
    relabel(run, PETS, "tt", tmp_path / "new", networks)
    lines = (tmp_path / "new/mapping.csv").read_text().splitlines()
    assert lines[1:] == ["'+1.jpg,0,sky,dog,0.0995,0", "'=HYPERLINK(1).jpg,0,cat,cat,1.0000,1"]


def rerun(origin: RunReader, **changed: Labelled | None) -> None:
    """The origin with other rows for some of its photos, as after --retry-failed or a change of the photo."""
    photos = {**PHOTOS, **{f"{name}.jpg": what for name, what in changed.items()}}
    shutil.rmtree(origin.directory)
    write_run(origin.directory, photos, image_root=Path(origin.manifest.image_root), pack={"name": "embedded"})


AGAIN = Labelled([[0, 0], [0, 0]], ["hound"], [(0.9, 0, 0.1)], [0.8])


@pytest.mark.parametrize(
    "changed",
    [
        {"b": AGAIN},  # failed, and was tried again
        {"c": AGAIN},  # has other labels
        {"b": AGAIN, "a": None},
        {"a": None, "c": None},
    ],
)
def test_what_the_origin_labelled_again_is_relabelled(
    origin: RunReader, networks: Networks, tmp_path: Path, changed: dict[str, Labelled | None]
) -> None:
    relabel(origin, PETS, "tt", tmp_path / "new", networks)
    rerun(origin, **changed)
    again = relabel(origin, PETS, "tt", tmp_path / "new", networks)
    fresh = relabel(origin, PETS, "tt", tmp_path / "fresh", networks)
    assert list(again.run) == list(fresh.run)
    assert (again.segments, again.kept) == (fresh.segments, fresh.kept)
    assert again.run.manifest.counts == fresh.run.manifest.counts


def test_what_is_as_it_was_is_not_relabelled(origin: RunReader, networks: Networks, tmp_path: Path) -> None:
    relabel(origin, PETS, "tt", tmp_path / "new", networks)
    before = {part: (part.stat().st_ino, part.read_bytes()) for part in part_files(tmp_path / "new")}
    relabel(origin, PETS, "tt", tmp_path / "new", networks)
    assert {part: (part.stat().st_ino, part.read_bytes()) for part in part_files(tmp_path / "new")} == before


def test_a_photo_that_has_changed_is_left_out(origin: RunReader, networks: Networks, tmp_path: Path) -> None:
    """The relabelled run loses it, too, until the origin has labelled it again."""
    files = {path: tmp_path / "photos" / path for path in ("a.jpg", "c.jpg")}
    for file in files.values():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"photo")
    rows = [
        replace(row, bytes=5, mtime=files[row.path].stat().st_mtime) if row.path in files else row for row in origin
    ]
    for part in part_files(origin.directory):
        part.unlink()
    write_part(origin.directory, 0, rows)
    whole = relabel(origin, PETS, "tt", tmp_path / "new", networks)
    assert (len(whole.run), whole.changed.notes()) == (4, [])
    files["a.jpg"].write_bytes(b"another")
    less = relabel(origin, PETS, "tt", tmp_path / "new", networks)
    assert [row.path for row in less.run] == ["b.jpg", "c.jpg", "sub/d.jpg"]
    assert less.run.manifest.state == "partial"
    assert less.run.manifest.counts == {"photos": 3, "ok": 2, "failed": 1}
    assert less.changed.notes() == [
        "1 photo has changed since it was labelled: 'a.jpg'; `annotate run` labels it again"
    ]
    write_part(
        origin.directory,
        0,
        [replace(row, bytes=7, mtime=files["a.jpg"].stat().st_mtime) if row.path == "a.jpg" else row for row in rows],
    )
    assert list(relabel(origin, PETS, "tt", tmp_path / "new", networks).run) == list(
        relabel(origin, PETS, "tt", tmp_path / "fresh", networks).run
    )
