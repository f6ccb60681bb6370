"""Photos that change after they were labelled: labelled again by a run, named and left out by all else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers_runs import PLUGINS, environment, python
from PIL import Image
from typer.testing import CliRunner, Result

from annotator import ledger, photo_changes, storage
from annotator import run as run_module
from annotator.cli import app
from annotator.corrections import Correction, append, reviewed
from annotator.decode import CHECKED_BYTES, checksum_of, decode
from annotator.images import open_source
from annotator.photo_changes import Changed, OpenPhotos, unchanged, verdict
from annotator.run import ImageRecord, RunReader, RunWriter, finished_paths, part_files
from annotator.storage import Version, versions
from exporters.base import available, export, find

RUN = ("run", "--labeler", "bands", "--vocab", "background, cat", "--pack", "embedded", "--workers", "0")
SIZE = (12, 8)


@pytest.fixture(autouse=True)
def few_rows_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "PART_ROWS", 3)
    monkeypatch.setattr(ledger, "LEDGER_PARTS", 2)
    monkeypatch.syspath_prepend(str(PLUGINS))


def picture(file: Path, gray: int, size: tuple[int, int] = SIZE) -> None:
    """Without compression: photos of one size are files of one size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (gray, gray, gray)).save(file, "BMP")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with `photos` and a `run` of all of them: 14 in 5 parts, 4 of them in ledgers."""
    for number in range(14):
        picture(tmp_path / f"photos/{number // 5}/{number:02d}.bmp", 10 * number)
    assert label(tmp_path).exit_code == 0
    assert len(part_files(tmp_path / "run")) == 5
    assert len(list((tmp_path / "run/ledger").iterdir())) == 2
    return tmp_path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def label(project: Path, *more: str) -> Result:
    return call(*RUN, "--images", project / "photos", "--out", project / "run", *more)


def photo(project: Path, number: int) -> Path:
    return project / f"photos/{number // 5}/{number:02d}.bmp"


def by_path(project: Path) -> dict[str, ImageRecord]:
    rows = list(RunReader(project / "run"))
    assert len({row.path for row in rows}) == len(rows), "a photo has two rows"
    return {row.path: row for row in rows}


def touch(file: Path, seconds: float = 60) -> None:
    found = file.stat()
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns + int(seconds * 1e9)))


def larger(file: Path) -> None:
    picture(file, 255, (20, 10))


def same_size(file: Path) -> None:
    picture(file, 255)
    touch(file)


def one_pixel(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    touch(file)


def older(file: Path) -> None:
    """As where an old backup was put back."""
    picture(file, 255)
    touch(file, -1e6)


def another_by_name(file: Path) -> None:
    """The photo is a link to another one now."""
    file.unlink()
    picture(file.parents[2] / "elsewhere.bmp", 255)
    touch(file.parents[2] / "elsewhere.bmp")
    file.symlink_to(file.parents[2] / "elsewhere.bmp")


CHANGES = [larger, same_size, one_pixel, older, another_by_name]
Change = Callable[[Path], None]


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_labels_it_again(project: Path, change: Change) -> None:
    before = by_path(project)
    for number in (0, 4, 13):
        change(photo(project, number))
    dry = label(project, "--dry-run").output
    assert "would label 3 of 14 photos (11 finished)" in dry
    assert "3 photos have changed since they were labelled, such as '0/00.bmp'" in dry
    assert by_path(project) == before
    result = label(project)
    assert result.exit_code == 0
    assert (
        "3 photos have changed since they were labelled, such as '0/00.bmp'; they are labelled again" in result.output
    )
    after = by_path(project)
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} == {"0/00.bmp", "0/04.bmp", "2/13.bmp"}
    assert after["0/00.bmp"].mtime == photo(project, 0).stat().st_mtime
    assert after["0/00.bmp"].bytes == photo(project, 0).stat().st_size
    assert after["0/00.bmp"].checksum == checksum_of(photo(project, 0))
    assert "nothing was left to do" in label(project).output


def test_only_new_times_label_nothing_again_and_are_taken_down(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `cp -r` or a checkout. Each photo is read once, then its new time is known."""
    before = by_path(project)
    read: list[Path] = []

    def counting(file: Path) -> int | None:
        read.append(file)
        return checksum_of(file)

    monkeypatch.setattr(photo_changes, "checksum_of", counting)
    for number in range(14):
        touch(photo(project, number))
    assert not export("coco", RunReader(project / "run"), project / "labels.json").notes
    assert len(set(read)) == 14
    assert len(read) <= 15  # the first one twice, to see that there is one at all
    read.clear()
    assert "nothing was left to do" in label(project).output
    assert len(read) == len(set(read)) == 14
    read.clear()
    after = by_path(project)
    assert {path: row.seconds for path, row in after.items()} == {path: row.seconds for path, row in before.items()}
    assert all(row.mtime == (project / "photos" / path).stat().st_mtime for path, row in after.items())
    label(project)
    export("coco", RunReader(project / "run"), project / "labels.json")
    assert not read


def test_nothing_is_read_where_nothing_changed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_changes, "checksum_of", None)
    monkeypatch.setattr(photo_changes, "read_columns", None)
    assert "nothing was left to do" in label(project).output


@pytest.mark.parametrize("change", [same_size, larger])
def test_rows_of_older_versions_go_by_size(project: Path, change: Change) -> None:
    """They have no checksum."""
    for part in part_files(project / "run"):
        rows = pq.read_table(part)
        pq.write_table(
            rows.drop_columns(["checksum"]).replace_schema_metadata(
                {key: value for key, value in rows.schema.metadata.items() if key != b"digests"}
            ),
            part,
        )
    change(photo(project, 3))
    summary = export("coco", RunReader(project / "run"), project / "labels.json")
    assert summary.images == 14 - (change is larger)
    assert ("nothing was left to do" in label(project).output) == (change is same_size)


@pytest.mark.parametrize(
    ("name", "change"), [*((name, same_size) for name in available()), *(("voc", change) for change in CHANGES)]
)
def test_exports_leave_it_out_and_name_it(project: Path, name: str, change: Change) -> None:
    change(photo(project, 7))
    out = project / f"out/labels{find(name).suffix}"
    result = call("export", project / "run", "--format", name, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("13 photos")
    said = "note: 1 photo has changed since it was labelled: '1/07.bmp'; `annotate run` labels it again"
    assert said in result.output.replace("\n", " ")
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
    assert not any(b"07.bmp" in file.read_bytes() for file in files)
    assert not any("07" in file.stem for file in files)


def test_photos_that_are_gone_or_were_never_looked_at_stay(project: Path) -> None:
    photo(project, 7).unlink()
    assert export("coco", RunReader(project / "run"), project / "labels.json").images == 14
    shutil.rmtree(project / "photos")
    summary = export("coco", RunReader(project / "run"), project / "labels.json")
    assert (summary.images, summary.notes) == (14, [])


@pytest.mark.parametrize("name", ["coco", "voc", "hf-dataset"])
def test_an_export_without_any_photo_left_is_refused(project: Path, name: str) -> None:
    for number in range(14):
        larger(photo(project, number))
    out = project / f"out/labels{find(name).suffix}"
    result = call("export", project / "run", "--format", name, "--out", out)
    assert str(result.exception) == (
        f"{project}/run: expected its photos as they were labelled, but 14 photos have changed since they were "
        "labelled, such as '0/00.bmp', and no other is left; `annotate run` labels them again"
    )
    assert not out.parent.exists()


def test_splits_compare_once_for_all(project: Path) -> None:
    larger(photo(project, 7))
    out = project / "out/labels.json"
    summary = export("coco", RunReader(project / "run"), out, {"split": "0.5/0.5"})
    assert summary.images == 13
    assert sum("has changed" in note for note in summary.notes) == 1


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "--truth", "truth"),
        ("report",),
    ],
)
def test_eval_and_report_leave_it_out_and_name_it(project: Path, command: tuple[str, ...]) -> None:
    for row in by_path(project).values():
        file = project / "truth" / row.path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros(row.size, np.uint8)).save(file.with_suffix(".png"))
    (project / "truth/classes.txt").write_text("background\ncat\n")
    larger(photo(project, 7))
    more = [project / each if each == "truth" else each for each in command[1:]]
    result = call(command[0], project / "run", *more)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "1 photo has changed since it was labelled: '1/07.bmp'; `annotate run` labels it again" in said
    assert "13" in said
    pages = list((project / "run/report").rglob("*.html"))
    assert not any("07.bmp" in page.read_text() for page in pages)
    assert bool(pages) == (command[0] == "report")


def test_show_refuses_it(project: Path) -> None:
    larger(photo(project, 7))
    assert "1 photo has changed since it was labelled: '1/07.bmp'" in str(
        call("show", project / "run", "07.bmp").exception
    )
    assert call("show", project / "run", "06.bmp").exit_code == 0


def test_what_a_person_said_of_one_photo_says_nothing_of_another(project: Path) -> None:
    before = by_path(project)["1/07.bmp"]
    said = Correction("1/07.bmp", *SIZE, "approve", True, "x", before.segments[:1], checksum=before.checksum)
    append(project / "run", [said])
    assert [each.record.path for each in reviewed(RunReader(project / "run")) if each.verdict] == ["1/07.bmp"]
    same_size(photo(project, 7))
    label(project)
    assert not any(each.verdict for each in reviewed(RunReader(project / "run")))


def test_a_photo_that_could_not_be_opened_is_tried_again_only_when_asked(project: Path) -> None:
    bad = project / "photos/2/bad.bmp"
    bad.write_bytes(b"BM")
    assert label(project).exit_code == 3
    picture(bad, 3)
    assert "nothing was left to do" in label(project).output
    assert label(project, "--retry-failed").exit_code == 0
    assert by_path(project)["2/bad.bmp"].status == "ok"


def test_another_folder_with_the_same_names_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the labels of a million photos would be gone before anyone knew."""
    monkeypatch.setattr(photo_changes, "JUDGED_AFTER", 5)
    before = by_path(project)
    for number in range(10):
        larger(photo(project, number))
    result = label(project)
    assert str(result.exception) == (
        f"{project}/run: expected the photos that were labelled, but 10 of the first 14 are others, such as "
        "'0/00.bmp'; if this is the right folder, --overwrite labels all of them again, --out DIR keeps both"
    )
    assert by_path(project) == before
    assert label(project, "--overwrite").exit_code == 0
    assert by_path(project).keys() == before.keys()


def test_a_run_goes_on_where_the_photos_are_now(project: Path) -> None:
    """Later commands look for them there."""
    manifest = RunReader(project / "run").manifest
    moved = (project / "photos").rename(project / "moved")
    manifest.image_root = str(moved)
    RunWriter.open(project / "run", manifest).close()
    assert RunReader(project / "run").image_root == moved


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from annotator import ledger, run
from annotator.cli import app
run.PART_ROWS, ledger.LEDGER_PARTS = 3, 2
left = int(sys.argv[1])
def watch(event, arguments):
    global left
    if event in ("os.rename", "os.remove") and "/run/" in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
app(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing(project: Path) -> None:
    """Before each change of a file in the run; the same command then ends as one that was not killed."""
    for number in (0, 1, 2, 4, 13):  # the first part goes as a whole
        same_size(photo(project, number))
    fresh = {path: row.checksum for path, row in by_path(project).items()}
    expected = {row: checksum_of(project / "photos" / row) for row in fresh}
    kept = [path for path in fresh if fresh[path] == expected[path]]
    shutil.copytree(project / "run", project / "before")
    command = [*RUN, "--images", str(project / "photos"), "--out", str(project / "run")]
    for operation in range(1, 60):
        shutil.rmtree(project / "run")
        shutil.copytree(project / "before", project / "run")
        code = subprocess.run(
            python("-c", KILLED, PLUGINS, str(operation), *command), env=environment(), check=False, capture_output=True
        ).returncode
        rows = by_path(project)
        assert all(rows[path].checksum == expected[path] for path in kept)
        assert label(project).exit_code == 0
        assert {path: row.checksum for path, row in by_path(project).items()} == expected
        if code != -signal.SIGKILL:
            break
    assert operation > 8


def test_parts_that_overlap_are_all_looked_at(tmp_path: Path) -> None:
    """As in a run of several sessions."""
    for number in range(9):
        picture(tmp_path / f"photos/{number}.bmp", number)
    for first in range(3):  # every third photo at a time
        for number in range(9):
            file = tmp_path / f"photos/{number}.bmp"
            hidden = file.with_name(f".{number}")
            if (number % 3 > first) and file.exists():
                file.rename(hidden)
            elif number % 3 <= first and hidden.exists():
                hidden.rename(file)
        label(tmp_path)
    assert len(part_files(tmp_path / "run")) == 3
    same_size(tmp_path / "photos/4.bmp")
    same_size(tmp_path / "photos/5.bmp")
    touch(tmp_path / "photos/0.bmp")
    label(tmp_path)
    rows = by_path(tmp_path)
    assert {path: row.checksum for path, row in rows.items()} == {
        path: checksum_of(tmp_path / "photos" / path) for path in (f"{number}.bmp" for number in range(9))
    }


ROW_OF = {"bytes": 100, "mtime": 5.0, "checksum": 7}


@pytest.mark.parametrize(
    ("row", "now", "content", "expected"),
    [
        (ROW_OF, Version(100, 5.0), None, "same"),
        (ROW_OF, Version(101, 5.0), 7, "changed"),  # the size alone
        (ROW_OF, Version(101, 6.0), 7, "changed"),
        (ROW_OF, Version(100, 6.0), 7, "touched"),
        (ROW_OF, Version(100, 4.0), 8, "changed"),
        (ROW_OF, Version(100, 6.0), None, "same"),  # cannot be read
        (ROW_OF, None, None, "same"),  # is not there
        (ROW_OF | {"checksum": None}, Version(100, 6.0), 8, "touched"),  # of an older version
        (ROW_OF | {"checksum": None}, Version(99, 6.0), 8, "changed"),
        ({"bytes": 0, "mtime": 0.0}, Version(100, 6.0), 8, "same"),  # could not be opened
    ],
)
def test_verdicts(
    monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], now: Version | None, content: int | None, expected: str
) -> None:
    monkeypatch.setattr(photo_changes, "checksum_of", lambda file: content)
    assert verdict(ImageRecord("a.jpg", "ok", **row), Path("a.jpg"), now) == expected


def test_checksums_are_of_the_file(tmp_path: Path) -> None:
    """As `cksum`'s relatives count it: CRC-32 of `123456789` is CBF43926."""
    (tmp_path / "digits").write_bytes(b"123456789")
    assert checksum_of(tmp_path / "digits") == 0xCBF43926
    picture(tmp_path / "a.bmp", 3)
    assert decode(tmp_path / "a.bmp").checksum == checksum_of(tmp_path / "a.bmp")
    assert checksum_of(tmp_path / "gone") is None
    assert checksum_of(tmp_path) is None


def test_a_file_full_of_holes_is_not_read_to_its_end(tmp_path: Path) -> None:
    picture(tmp_path / "a.bmp", 3)
    os.truncate(tmp_path / "a.bmp", 2**40)
    reads = 0

    class Counting:
        def __init__(self) -> None:
            self.file = (tmp_path / "a.bmp").open("rb")
            self.seek = self.file.seek

        def read(self, size: int) -> bytes:
            nonlocal reads
            reads += size
            return self.file.read(size)

    from annotator.decode import _checksum

    _checksum(Counting())  # type: ignore[arg-type]
    assert reads == CHECKED_BYTES


def test_a_store_is_not_asked_for_each_photo(s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAGE_KEYS", 4)
    root = storage.place(f"s3://{bucket}/photos")
    paths = [f"{number // 5}/{number:02d}.bmp" for number in range(14)]
    for path in paths:
        storage.write_bytes(root / path, path.encode() * int(path[-5]))
    requests = 0
    page = storage._page

    def counting(*arguments: Any) -> Any:
        nonlocal requests
        requests += 1
        return page(*arguments)

    monkeypatch.setattr(storage, "_page", counting)
    asked = ["0/", "0/00.bmpx", *paths, "2/13", "3"]
    found = list(versions(root, sorted(asked)))
    sizes = [version and version.size for version in found]
    assert sizes == [7 and len(path) * int(path[-5]) if path in paths else None for path in sorted(asked)]
    assert requests <= 5
    requests = 0
    assert [each.version for each in open_source(str(root)) if each.version] == [
        version for version in found if version
    ]


def test_changed_photos_of_a_store(s3: Any, bucket: str, project: Path) -> None:
    root = storage.place(f"s3://{bucket}/photos")
    for number in range(14):
        storage.write_bytes(root / f"{number:02d}.bmp", photo(project, number).read_bytes())
    command = (*RUN, "--images", str(root), "--out", project / "remote")
    assert call(*command).exit_code == 0
    assert "nothing was left to do" in call(*command).output
    larger(photo(project, 3))
    storage.write_bytes(root / "03.bmp", photo(project, 3).read_bytes())
    result = call("export", project / "remote", "--out", project / "labels.json")
    assert result.output.startswith("13 photos")
    assert "'03.bmp'" in result.output
    assert "1 photo has changed since it was labelled: '03.bmp'; it is labelled again" in call(*command).output
    assert call("export", project / "remote", "--out", project / "labels.json").output.startswith("14 photos")


def test_a_store_that_does_not_answer_keeps_no_export_from_its_work(project: Path) -> None:
    run = RunReader(project / "run", "s3://no-such-bucket-anywhere/photos")
    changed = Changed()
    assert len(list(unchanged(run, changed))) == 14
    assert changed.count == 0
    (note,) = changed.notes()
    assert note.startswith("whether photos have changed since they were labelled is not known: ")


def test_a_store_without_pages_is_asked_a_folder_at_a_time(project: Path) -> None:
    import fsspec

    memory = storage.place("memory://stale/photos")
    for number in range(14):
        storage.write_bytes(memory / f"{number // 5}/{number:02d}.bmp", photo(project, number).read_bytes())
    paths = [f"{number // 5}/{number:02d}.bmp" for number in range(14)]
    found = list(versions(memory, ["0/none.bmp", *paths][1:]))
    assert [version and version.size for version in found] == [
        photo(project, number).stat().st_size for number in range(14)
    ]
    assert list(versions(memory, ["9/none.bmp", "a.bmp"])) == [None, None]
    fsspec.filesystem("memory").rm("/stale", recursive=True)


def test_a_part_that_is_damaged_besides_is_no_matter(project: Path) -> None:
    """Its photos are open again, changed or not, and a dry run says the same."""
    damaged = part_files(project / "run")[-1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    larger(photo(project, 1))
    larger(photo(project, 13))
    assert "would label 3 of 14 photos (11 finished)" in label(project, "--dry-run").output
    label(project)
    assert len(by_path(project)) == 14
    assert by_path(project)["2/13.bmp"].bytes == photo(project, 13).stat().st_size


def test_a_dry_look_changes_nothing(project: Path) -> None:
    larger(photo(project, 3))
    touch(photo(project, 5))
    before = {part: part.read_bytes() for part in part_files(project / "run")}
    left = OpenPhotos(project / "run", finished_paths(project / "run"))
    assert [ref.path for ref in left.among(open_source(project / "photos"))] == ["0/03.bmp"]
    assert left.changed == Changed(1, "0/03.bmp")
    assert {part: part.read_bytes() for part in part_files(project / "run")} == before
