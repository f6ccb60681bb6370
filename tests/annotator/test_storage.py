"""Photos and runs at URLs: a real S3 server in this process (moto), and fsspec's store in memory."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_runs import PLUGINS, VOCAB, environment, manifest, python, rows, write_photos
from reference.open_runs import Labelled, Table, image_of, write_run

from annotator import open_run, pipeline, storage
from annotator.cli import app
from annotator.config import RunConfig
from annotator.errors import ConfigError, ImageError, RunError
from annotator.images import decode, open_source
from annotator.ledger import finished_paths, survey
from annotator.models.networks import Networks
from annotator.relabel import relabel
from annotator.run import ImageRecord, Manifest, RunWriter, part_files
from annotator.storage import is_remote, place
from annotator.summary import summarise
from annotator.vocabulary import Vocabulary
from exporters.base import export

pytestmark = [pytest.mark.slow, pytest.mark.stress]  # a server, its clients, and locks with heartbeats

NAMES = [f"{number % 3}/{number:02d}.png" for number in range(20)]
TREE = (
    "b.jpg",
    "a-b/1.jpg",
    "a.b/1.jpg",
    "a/1.jpg",
    "a/b/c/2.PNG",
    "a/.hidden/1.jpg",
    ".hidden.jpg",
    "a/notes.txt",
    "a/camera.nef",
    "a/looks like one",
    "a/looks like none",
    "a#b?/c%20d.jpg",
    "Ünïcödé/日本語/🐈.jpg",
    "made/run.json",
    "made/parts/part-000000.parquet",
    "made/exports/1.jpg",
    "not made/run.json",
    "not made/1.jpg",
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAGE_KEYS", 3)


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., pipeline.Job]:
    monkeypatch.syspath_prepend(str(PLUGINS))

    def make(images: str | Path, out: str | Path, **given: object) -> pipeline.Job:
        known = {"images": str(images), "out": str(out), "labeler": "bands", "vocab": VOCAB, "pack": "embedded"}
        return pipeline.prepare(RunConfig.load(None, {"workers": 0, **known, **given}))

    return make


def upload(s3: Any, bucket: str, folder: Path, prefix: str = "photos") -> str:
    for file in folder.rglob("*"):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(folder).as_posix()}"
            s3.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
    return f"s3://{bucket}/{prefix}"


def coco(directory: str | Path, out: Path) -> bytes:
    export("coco", open_run(directory), out)
    return out.read_bytes()


def keys(s3: Any, bucket: str) -> list[str]:
    return [each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", ())]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty good photos and two bad ones."""
    write_photos(tmp_path / "photos", NAMES)
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    (tmp_path / "photos" / "1" / "half.png").write_bytes((tmp_path / "photos" / NAMES[0]).read_bytes()[:100])
    return tmp_path / "photos"


def test_a_run_from_s3_to_s3_is_the_local_run(
    s3: Any, bucket: str, photos: Path, tmp_path: Path, prepare: Callable[..., pipeline.Job]
) -> None:
    url, out = upload(s3, bucket, photos), f"s3://{bucket}/runs/one"
    for limit in (5, 9, None):  # two resumes; the last one decodes in a process of its own
        outcome = pipeline.run(prepare(url, out, limit=limit, workers=int(limit is None)))
    pipeline.run(prepare(photos, tmp_path / "run"))
    assert (outcome.state, outcome.labelled) == ("complete", 8)
    assert coco(out, tmp_path / "there.json") == coco(tmp_path / "run", tmp_path / "here.json")
    there, here = open_run(out), open_run(tmp_path / "run")
    assert len(there) == len(here) == 22
    assert [replace(each, mtime=0, seconds=0) for each in there] == [replace(each, mtime=0, seconds=0) for each in here]
    assert [(each.path, each.error) for each in there.failures()] == [(e.path, e.error) for e in here.failures()]
    assert summarise(there.directory) == summarise(here.directory)
    assert abs(next(iter(there)).mtime - time.time()) < 300
    assert there.manifest.image_root == url
    assert [key for key in keys(s3, bucket) if key.endswith(("run.lock", ".tmp"))] == []


def test_failures_are_tried_again_and_runs_started_anew(
    s3: Any, bucket: str, photos: Path, prepare: Callable[..., pipeline.Job]
) -> None:
    url, out = upload(s3, bucket, photos), f"s3://{bucket}/run"
    pipeline.run(prepare(url, out, max_failure_rate=1))
    s3.put_object(Bucket=bucket, Key="photos/empty.jpg", Body=(photos / NAMES[0]).read_bytes())
    outcome = pipeline.run(prepare(url, out, retry_failed=True))
    assert (outcome.labelled, outcome.summary.ok, outcome.summary.failed) == (2, 21, 1)
    with pytest.raises(RunError, match=r"\(vocabulary: only the run has 'middle'\); --overwrite starts anew"):
        pipeline.run(prepare(url, out, vocab="dark, bright"))
    assert pipeline.run(prepare(url, out, vocab="dark, bright", overwrite=True)).labelled == 22
    assert len(open_run(out)) == 22


def test_parts_in_a_store_get_ledgers(s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotator.ledger.LEDGER_PARTS", 2)
    out = place(f"s3://{bucket}/run")
    written = [ImageRecord(f"{number}.jpg", "ok", width=2, height=2) for number in range(10)]
    with RunWriter.open(out, manifest()) as writer:
        for number, record in enumerate(written):
            writer.write(record)
            if number % 2:
                writer.flush()
    assert [len(each.parts) for each in survey(out).ledgers] == [2, 2]
    assert list(open_run(out)) == written
    assert finished_paths(out).among(["0.jpg", "9.jpg", "10.jpg"]).tolist() == [True, True, False]
    storage.delete(part_files(out)[0])
    assert [len(each.parts) for each in survey(out).ledgers] == [2]
    assert len(open_run(out)) == 8


def make_tree(folder: Path, photo: bytes) -> None:
    for name in TREE:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"nothing" if name.endswith((".txt", ".json", "none")) else photo)


@pytest.mark.parametrize(
    "glob", ["", "/*", "/*/*.jpg", "/**/*.jpg", "/a*/**", "/[ab]/**/*.PNG", "/.hid*", "/*/.hid*/*"]
)
def test_photos_in_a_store_come_as_those_in_a_folder(
    s3: Any, bucket: str, tmp_path: Path, photos: Path, glob: str
) -> None:
    make_tree(tmp_path / "tree", (photos / NAMES[0]).read_bytes())
    here = [ref.path for ref in open_source(f"{tmp_path}/tree{glob}")]
    assert here == sorted(here)
    url = upload(s3, bucket, tmp_path / "tree", "tree")
    source = open_source(url + glob)
    assert [ref.path for ref in source] == here
    assert str(source.root) == url
    for ref in source:
        assert decode(ref.file).pixels.shape == (48, 64, 3)


def test_a_store_without_pages_is_walked_by_folders(photos: Path, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", (photos / NAMES[0]).read_bytes())
    root = place("memory://tree")
    for name in TREE:
        storage.write_bytes(root / name, (tmp_path / "tree" / name).read_bytes())
    assert [ref.path for ref in open_source("memory://tree/")] == [ref.path for ref in open_source(tmp_path / "tree")]


def test_lists_and_single_photos(s3: Any, bucket: str, photos: Path, tmp_path: Path) -> None:
    url = upload(s3, bucket, photos)
    (ref,) = open_source(f"{url}/{NAMES[4]}")
    assert (str(ref.root), ref.path) == (f"{url}/1", "04.png")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{url}/1/04.png\n\n{url}/0/03.png\n{url}/1/04.png\n")
    s3.put_object(Bucket=bucket, Key="photos/list.txt", Body=b"1/04.png\r\n0/03.png\n")
    names: list[Any] = [listed, f"{url}/list.txt", [f"{url}/0/03.png", f"{url}/1/04.png"]]
    for source in map(open_source, names):
        assert [(str(each.root), each.path) for each in source] == [(url, "0/03.png"), (url, "1/04.png")]
    listed.write_text(f"{url}/1/04.png\ns3://elsewhere/0/03.png\n")
    with pytest.raises(ConfigError, match=r"expected photos of one bucket, but .*elsewhere"):
        open_source(listed)
    listed.write_text(f"{url}/1/04.png\n0/03.png\n")
    with pytest.raises(ConfigError, match=r"0/03\.png: expected a URL, as s3://"):
        open_source(listed)


def test_what_cannot_be_fetched_is_a_failed_photo(
    s3: Any, bucket: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(s3, bucket, photos)
    with pytest.raises(ImageError, match="file not found: it vanished"):
        decode(place(f"{url}/gone.jpg"))
    with pytest.raises(ImageError, match="a folder, not a file"):
        decode(place(f"{url}/1"))
    with pytest.raises(ImageError, match="the file is empty"):
        decode(place(f"{url}/empty.jpg"))
    monkeypatch.setattr("annotator.decode.MAX_FETCHED_BYTES", 50)
    with pytest.raises(ImageError, match=r"\d+ bytes are more than the 50"):
        decode(place(f"{url}/{NAMES[0]}"))


@pytest.mark.parametrize("given", ["s3://no-such-bucket/photos", "nope://x/y"])
def test_a_url_that_leads_nowhere_is_one_line(s3: Any, given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_source(given)
    assert "\n" not in str(caught.value)
    with pytest.raises((ConfigError, RunError)) as caught_too:
        RunWriter.open(place(given), manifest())
    assert "\n" not in str(caught_too.value)


def test_a_place_that_holds_other_things_is_refused(s3: Any, bucket: str, photos: Path) -> None:
    url = upload(s3, bucket, photos)
    with pytest.raises(RunError, match=r"expected an empty or new folder, .* choose another --out"):
        RunWriter.open(place(url), manifest(), overwrite=True)
    assert len(keys(s3, bucket)) == 22
    with pytest.raises(RunError, match="no run here"):
        open_run(url)


def said(*arguments: str) -> tuple[int, str]:
    """In this process: exit code and output."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output + (str(result.exception) if result.exception else "")


def test_commands_take_the_url_of_a_run(
    s3: Any, bucket: str, photos: Path, tmp_path: Path, prepare: Callable[..., pipeline.Job]
) -> None:
    url, out = upload(s3, bucket, photos), f"s3://{bucket}/run"
    pipeline.run(prepare(url, out))
    pipeline.run(prepare(photos, tmp_path / "run"))
    code, there = said("status", out, "--failures")
    assert code == 0
    assert out in there
    assert there.splitlines()[2:] == said("status", str(tmp_path / "run"), "--failures")[1].splitlines()[2:]

    assert said("export", out, "--out", str(tmp_path / "there.json"))[0] == 0
    assert said("export", str(tmp_path / "run"), "--out", str(tmp_path / "here.json"))[0] == 0
    assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()
    assert said("export", out, "--format", "mask-png", "--out", str(tmp_path / "masks"))[0] == 0
    assert said("eval", out, "--truth", str(tmp_path / "masks"), "--out", str(tmp_path / "eval"))[0] == 0
    assert any((tmp_path / "eval").iterdir())
    assert said("report", out, "--out", str(tmp_path / "report"))[0] == 0
    assert (tmp_path / "report" / "index.html").is_file()

    assert said("show", out, NAMES[0], "--out", str(tmp_path / "one.png"))[0] == 0
    assert (tmp_path / "one.png").is_file()

    before = keys(s3, bucket)
    commands = (["export"], ["eval", "--truth", str(tmp_path / "masks")], ["report"], ["relabel", "--vocab", "a, b"])
    for command in commands:
        assert "expected --out, a folder or file of this machine" in said(command[0], out, *command[1:])[1]
        assert "but got a URL" in said(command[0], str(tmp_path / "run"), *command[1:], "--out", f"{out}/x.json")[1]
    assert "copy it here first" in said("review", out, "--list")[1]
    assert keys(s3, bucket) == before


def test_a_run_in_a_store_is_relabelled_as_one_here(s3: Any, bucket: str, tmp_path: Path) -> None:
    table = {"dog": (1, 0), "cat": (0, 1), "hound": (0.9, 0.1), "kitten": (0.2, 0.8)}
    found = {
        "a.jpg": Labelled([[0, 1, 1], [0, 0, -1]], ["hound", "kitten"], [(1, 0), (0, 1)], [0.5, 0.75]),
        "b.jpg": None,
    }
    here = write_run(tmp_path / "run", found, image_root=tmp_path / "photos", pack={"name": "embedded"})
    there = open_run(upload(s3, bucket, tmp_path / "run", "run"))
    networks, words = Networks.of(sentence=Table(table), clip=Table(image_of(table))), Vocabulary.of(["cat", "dog"])
    before = keys(s3, bucket)
    for by in ("st", "tt"):
        outs = (tmp_path / f"{by} here", tmp_path / f"{by} there")
        done = [relabel(run, words, by, out, networks) for run, out in zip((here, there), outs, strict=True)]
        assert [*done[1].run] == [*done[0].run]
        assert [segment.label for segment in next(iter(done[1].run)).segments] == ["cat", "dog"]
    with pytest.raises(ConfigError, match=r"expected a folder of this machine .* but got a URL"):
        relabel(here, words, "tt", f"s3://{bucket}/new", networks)
    assert keys(s3, bucket) == before


WITHOUT = """
import sys
sys.modules["upath"] = None
from annotator.storage import place
try:
    place("s3://bucket/photos")
except Exception as error:
    print(type(error).__name__, error)
"""

LOCAL = """
import sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from annotator.images import decode, open_source
from annotator.run import open_run, RunWriter, ImageRecord
from annotator.summary import summarise
from helpers_runs import manifest
refs = list(open_source(sys.argv[1]))
decode(refs[0].file)
with RunWriter.open(Path(sys.argv[2]), manifest()) as writer:
    writer.write(ImageRecord(refs[0].path, "ok", width=2, height=2))
assert len(list(open_run(sys.argv[2]))) == summarise(Path(sys.argv[2])).photos == 1
print(sorted({"fsspec", "upath", "s3fs"} & {name.split(".")[0] for name in sys.modules}))
"""


def test_a_missing_package_is_named() -> None:
    found = subprocess.run(python("-c", WITHOUT), env=environment(), check=True, capture_output=True, text=True).stdout
    assert found.startswith("ConfigError s3://bucket/photos: needs packages that are not installed")
    assert "pip install 'annotate[remote]'" in found


def test_folders_of_this_machine_need_no_package(photos: Path, tmp_path: Path) -> None:
    command = python("-c", LOCAL, photos, tmp_path / "run", Path(__file__).parent)
    found = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout
    assert found == "[]\n"
    assert place("runs/a:b") == Path("runs/a:b")
    assert place(f"file://{tmp_path}/x") == tmp_path / "x"
    assert not is_remote(place(tmp_path))


def test_errors_of_a_driver_come_out_as_those_of_a_disk() -> None:
    with pytest.raises(OSError, match="ValueError: odd") as caught, storage.asking(place("memory://x")):
        raise ValueError("odd")
    assert caught.value.filename == "memory://x"
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(place("memory://nothing/here"))
    assert not storage.exists(place("memory://nothing/here"))
    storage.delete(place("memory://nothing/here"))


def test_manifest_and_rows_read_alike(s3: Any, bucket: str) -> None:
    out = place(f"s3://{bucket}/run")
    record = ImageRecord("a/b.jpg", "failed", error="x")
    with RunWriter.open(out, manifest(labeler="a")) as writer:
        writer.write(record)
    assert Manifest.load(out).config == {"labeler": "a"}
    assert rows(out) == [record]
