"""A run on disk: what is written comes back in path order, and nothing unfinished or foreign is ever mixed in."""

from __future__ import annotations

import json
import random
import subprocess
import tracemalloc
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_processes import started
from helpers_runs import environment, manifest, python

from annotator.errors import RunError
from annotator.finished import Finished
from annotator.prediction import Prediction, Segment
from annotator.run import ImageRecord, Manifest, RunReader, RunWriter, finished_paths, part_files, read_columns

HOSTILE = (
    "-rf.jpg",
    "a b/c d.jpg",
    "a=1/color=red.jpg",
    "line\nbreak\t.jpg",
    "quote'\"\\.jpg",
    "semi;colon,comma.jpg",
    "Ünïcödé/日本語/🐈.jpg",
    "é decomposed.jpg",
    f"{'x' * 251}.jpg",
    "/".join(["deep"] * 60) + ".jpg",
)


def record(path: str, *, failed: bool = False, rle: bytes = b"04") -> ImageRecord:
    if failed:
        return ImageRecord(path, "failed", error="truncated")
    segment = Segment("cat", 0, 0.5, 4, (0, 0, 2, 2), rle)
    return ImageRecord(path, "ok", 1234, 1.5, 2, 2, orientation=6, seconds=0.25, segments=(segment,))


def striped(path: str, size: int) -> ImageRecord:
    """A photo whose run lengths take so many bytes: a row of pixels, every second one a cat's, and so for more cats."""
    width = 5000
    segment = Segment("cat", 0, 0.5, width // 2, (1, 0, width - 1, 1), b"111" + b"0" * (width - 3))
    return ImageRecord(path, "ok", width=width, height=1, segments=(segment,) * (size // width))


def write(directory: Path, parts: Sequence[Sequence[ImageRecord]], **open_options: bool) -> RunReader:
    with RunWriter.open(directory, manifest(), **open_options) as writer:
        for part in parts:
            for each in part:
                writer.write(each)
            writer.flush()
    return RunReader(directory)


def paths(directory: Path) -> list[str]:
    return [each.path for each in RunReader(directory).records(segments=False)]


def assert_finished(finished: Finished, expected: Collection[str]) -> None:
    """These paths and no others."""
    assert len(finished) == len(expected)
    assert all(path in finished for path in expected)


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    label_map = np.array([[0, 0, 1], [-1, 1, 1]], dtype=np.int32)
    segments = Prediction(label_map, ("cat", "a dog, 🐕"), (1, -1), (0.1234, 1.0)).segments()
    written = [
        ImageRecord("a.jpg", "ok", 2**40, 1e9 + 0.25, 3, 2, 8, seconds=0.5, segments=tuple(segments)),
        ImageRecord("b.jpg", "failed", error="damaged: 'x'\nof 2"),
        ImageRecord("c.jpg", "ok", width=3, height=2),
    ]
    run = write(tmp_path / "run", [written])
    assert list(run) == written
    assert len(run) == 3
    assert [each.path for each in run.failures()] == ["b.jpg"]
    np.testing.assert_array_equal(next(run.records()).prediction().class_map(), [[1, 1, -1], [-1, -1, -1]])


def described(path: str) -> ImageRecord:
    """As an open labeler makes it: embeddings and a history."""
    label_map = np.array([[0, 1, -1]], dtype=np.int32)
    rows = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float16)
    history = {"threshold": 0.8, "nodes": [{"id": 2, "children": [0, 1], "caption": "a dög 🐕", "score": None}]}
    prediction = Prediction(label_map, ("cat", "dog"), (-1, -1), (0.5, 1.0), rows, history)
    return ImageRecord(path, "ok", width=3, height=1, segments=tuple(prediction.segments()), history=history)


def test_embeddings_and_histories_come_back(tmp_path: Path) -> None:
    written = described("a.jpg")
    run = write(tmp_path, [[written, record("b.jpg")]])
    found, plain = run.records()
    assert found == written
    assert found.prediction().history == written.history
    rows = [segment.embedding for segment in written.segments]
    np.testing.assert_array_equal(found.prediction().embeddings, rows)
    assert {segment.embedding.dtype for segment in found.segments} == {np.dtype(np.float16)}
    assert (plain.history, plain.segments[0].embedding, plain.prediction().embeddings) == (None, None, None)
    assert [each.history for each in run.records(segments=False)] == [None, None]
    assert hash(found) == hash(written)


def test_a_run_of_before_there_were_embeddings_still_opens_and_goes_on(tmp_path: Path) -> None:
    write(tmp_path, [[described("a.jpg"), record("b.jpg", failed=True)]])
    (part,) = part_files(tmp_path)
    table = pq.read_table(part)
    kept = [field for field in table.schema.field("segments").type.value_type if field.name != "embedding"]
    rows = [
        {**row, "segments": [{f.name: s[f.name] for f in kept} for s in row["segments"]]} for row in table.to_pylist()
    ]
    schema = pa.schema([field for field in table.schema if field.name not in ("segments", "history")])
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"digests"}  # are younger
    old = schema.append(pa.field("segments", pa.list_(pa.struct(kept)))).with_metadata(metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema=old), part)

    first, _ = RunReader(tmp_path).records()
    assert first == replace(described("a.jpg"), history=None)
    assert [segment.embedding for segment in first.segments] == [None, None]
    with RunWriter.open(tmp_path, manifest(), retry_failed=True) as writer:  # which rewrites the old part
        writer.write(described("b.jpg"))
    first, second = RunReader(tmp_path).records()
    assert (first.history, second) == (None, described("b.jpg"))
    assert second.prediction().embeddings is not None


def test_hostile_paths_survive(tmp_path: Path) -> None:
    run = write(tmp_path / "a=b" / "run of\n🐈", [[record(path) for path in HOSTILE]])
    assert paths(run.directory) == sorted(HOSTILE)
    assert_finished(finished_paths(run.directory), HOSTILE)


def test_rows_of_a_part_are_sorted_and_its_span_is_in_its_metadata(tmp_path: Path) -> None:
    run = write(tmp_path, [[record("b"), record("c"), record("a")]])
    (part,) = part_files(run.directory)
    assert read_columns(part, ["path"])["path"].to_pylist() == ["a", "b", "c"]
    metadata = pq.read_schema(part).metadata
    assert (metadata[b"first_path"], metadata[b"last_path"]) == (b"a", b"c")


@pytest.mark.parametrize("part_size", [1, 3, 7, 50])
@pytest.mark.parametrize("spread", [0, 5, 50])
def test_records_are_in_path_order_whatever_the_parts_overlap(tmp_path: Path, part_size: int, spread: int) -> None:
    # spread: how far from its place in the order a photo may be written
    chance = random.Random(part_size * 100 + spread)
    names = [f"{number:03d}.jpg" for number in range(50)]
    order = sorted(names, key=lambda name: int(name[:3]) + chance.uniform(0, spread))
    write(tmp_path, [[record(name) for name in order[at : at + part_size]] for at in range(0, 50, part_size)])
    assert paths(tmp_path) == names


def test_only_parts_that_overlap_are_held(tmp_path: Path) -> None:
    part_bytes, photos, count = 1_000_000, 4, 10
    parts = [
        [striped(f"{part:02d}-{photo}.jpg", part_bytes // photos) for photo in range(photos)] for part in range(count)
    ]
    late = striped("05-9.jpg", part_bytes)  # overlaps nothing but its neighbours' gap
    run = write(tmp_path, [*parts, [late]])
    tracemalloc.start()
    try:
        found = sum(1 for _ in run.records())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == count * photos + 1
    assert peak < 4 * part_bytes


def test_a_part_closes_at_256_rows(tmp_path: Path) -> None:
    with RunWriter.open(tmp_path, manifest()) as writer:
        for number in range(600):
            writer.write(record(f"{number}.jpg"))
        assert [pq.read_metadata(part).num_rows for part in part_files(tmp_path)] == [256, 256]
    assert [pq.read_metadata(part).num_rows for part in part_files(tmp_path)] == [256, 256, 88]


def test_a_part_closes_after_30_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("annotator.run.time.monotonic", lambda: now)
    with RunWriter.open(tmp_path, manifest()) as writer:
        for after in (0, 29, 30, 31, 60, 62):  # the fourth opens a part at 31, which then is full at 61
            now = 1000.0 + after
            writer.write(record(f"{after}.jpg"))
        assert [pq.read_metadata(part).num_rows for part in part_files(tmp_path)] == [3, 3]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    write(tmp_path, [[record("a.jpg")]])
    (part,) = part_files(tmp_path)
    half = part.with_name(".part-000001.parquet.tmp")
    half.write_bytes(part.read_bytes()[:100])
    assert paths(tmp_path) == ["a.jpg"]  # nor does a reader mind
    with RunWriter.open(tmp_path, manifest()) as writer:
        assert not half.exists()
        assert_finished(writer.finished, {"a.jpg"})
        writer.write(record("b.jpg"))
    assert paths(tmp_path) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("left", [[], ["parts"], ["parts", "run.lock"], ["parts", "run.lock", ".run.json.tmp"]])
def test_a_process_killed_before_it_wrote_the_manifest_blocks_nothing(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).mkdir() if name == "parts" else (tmp_path / name).write_text("{")
    write(tmp_path, [[record("a.jpg")]])
    assert paths(tmp_path) == ["a.jpg"]


HOLD = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from helpers_runs import manifest
from annotator.run import RunWriter
writer = RunWriter.open(Path(sys.argv[1]), manifest())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.stress
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"retry_failed": True}])
def test_a_second_writer_is_refused_and_changes_nothing(tmp_path: Path, options: dict[str, bool]) -> None:
    write(tmp_path, [[record("a.jpg"), record("b.jpg", failed=True)]])
    command = python("-c", HOLD, tmp_path, Path(__file__).parent)
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"pid {holder.pid}\) is writing this run; wait for it or .* --out"):
            RunWriter.open(tmp_path, manifest(), **options)
        assert paths(tmp_path) == ["a.jpg", "b.jpg"]
    RunWriter.open(tmp_path, manifest(), **options).close()  # the lock went with the process


def test_another_configuration_is_refused_with_both_values(tmp_path: Path) -> None:
    RunWriter.open(tmp_path, manifest(labeler="a", settings={"sizes": (1, 2)}, vocabulary="x")).close()
    other = manifest(labeler="b", settings={"sizes": (1, 2)}, precision="fp32")
    try:
        RunWriter.open(tmp_path, other)
    except RunError as error:
        message = str(error)
        # one may start anew right here: a refused writer holds no lock
        RunWriter.open(tmp_path, other, overwrite=True).close()
    assert message == (
        f"{tmp_path}: this run was made with other options (labeler: the run has a, this command has b; "
        "precision: the run has none, this command has fp32; vocabulary: the run has x, this command has none); "
        "--overwrite starts anew, --out DIR keeps both"
    )
    assert RunReader(tmp_path).manifest.config["labeler"] == "b"


def test_overwrite_starts_anew_and_leaves_other_files(tmp_path: Path) -> None:
    write(tmp_path, [[record("a.jpg")], [record("b.jpg")]])
    export = tmp_path / "exports" / "coco.json"
    export.parent.mkdir()
    export.write_text("kept")
    run = write(tmp_path, [[record("c.jpg")]], overwrite=True)
    assert paths(run.directory) == ["c.jpg"]
    assert export.read_text() == "kept"


def test_retry_drops_failed_rows_only(tmp_path: Path) -> None:
    directory = tmp_path / "key=value"  # which Parquet readers like to take for a column
    first = [record("a.jpg"), record("b.jpg", failed=True), record("c.jpg")]
    second = [record("d.jpg", failed=True)]
    run = write(directory, [first, second, [record("e.jpg")]])
    untouched = part_files(directory)[2].read_bytes()
    with RunWriter.open(directory, manifest(), retry_failed=True) as writer:
        assert_finished(writer.finished, {"a.jpg", "c.jpg", "e.jpg"})
        writer.write(record("b.jpg"))
        writer.write(record("d.jpg"))
    assert list(run.records()) == [record(f"{name}.jpg") for name in "abcde"]
    assert part_files(directory)[-2].read_bytes() == untouched


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1', "[]", "null", "{}", '{"schema": 1, "pack": 3}', "\udcff"])
def test_a_damaged_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    run = write(tmp_path, [[record("a.jpg")]])
    (tmp_path / "run.json").write_text(text, errors="surrogateescape")
    for use in (lambda: RunReader(run.directory), lambda: RunWriter.open(run.directory, manifest())):
        with pytest.raises(RunError, match=r"run\.json: damaged \(.*--overwrite") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert paths(write(tmp_path, [[record("b.jpg")]], overwrite=True).directory) == ["b.jpg"]


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    run = write(tmp_path, [])
    (tmp_path / "run.json").write_text(json.dumps({"schema": 7, "unknown": 1}))
    with pytest.raises(RunError, match="expected schema 1, but found 7"):
        Manifest.load(run.directory)


@pytest.mark.parametrize("keep", [0, 50, -20])
def test_a_damaged_part_is_named_and_its_photos_are_open_again(
    tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    run = write(tmp_path, [[record("a.jpg")], [record("b.jpg")]])
    broken = part_files(tmp_path)[1]
    content = broken.read_bytes()[:keep]
    broken.write_bytes(content)
    for use in (lambda: list(run.records()), lambda: len(run)):
        with pytest.raises(RunError, match=r"part-000001\.parquet: damaged .* --verify"):
            use()
    with RunWriter.open(tmp_path, manifest()) as writer:
        assert_finished(writer.finished, {"a.jpg"})
        writer.write(record("b.jpg"))
    assert [message for message in caplog.messages if f"{broken}: damaged" in message and "labelled again" in message]
    assert broken.with_name("part-000001.parquet.damaged").read_bytes() == content
    assert paths(tmp_path) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("name", ["photo.jpg", "run.txt", "parts/part-000000.parquet", "exports/coco.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, name: str, overwrite: bool) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(RunError, match=r"expected an empty or new folder, .* choose another --out"):
        RunWriter.open(tmp_path, manifest(), overwrite=overwrite)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [file]
    assert file.read_text() == "mine"


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_in_the_folders_place_is_one_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written .* choose another --out"):
        RunWriter.open(tmp_path / "file" / below, manifest())
    with pytest.raises(RunError, match="no run here"):
        RunReader(tmp_path / "file" / below)
