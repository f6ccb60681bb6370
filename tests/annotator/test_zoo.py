"""A folder full of files that are no photos, or half of one: a run, every export and the report get through it."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest
from helpers_runs import PLUGINS, VOCAB, annotate_here
from PIL import Image

from annotator import cli
from annotator.run import RunReader
from exporters.base import available, default_out, find

FORMATS = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "jp2": "JPEG2000"}
FLIPS = 20


def picture(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def fill(folder: Path) -> dict[str, bool]:
    """Whether each file is a whole photo, or what may or may not pass for one (None)."""
    chance, zoo = random.Random(0), {}
    for extension, kind in FORMATS.items():
        whole = picture(kind)
        zoo[f"good.{extension}"] = whole
        for number, kept in enumerate((0, 1, 4, 12, 30, len(whole) // 3, len(whole) // 2, len(whole) - 30)):
            zoo[f"cut-{number}.{extension}"] = whole[:kept]
        for number in range(FLIPS):
            changed = bytearray(whole)
            for _ in range(chance.choice((1, 3, 30))):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            zoo[f"changed-{number}.{extension}"] = bytes(changed)
        zoo[f"random.{extension}"] = chance.randbytes(500)
        zoo[f"zeros.{extension}"] = bytes(500)
        zoo[f"text.{extension}"] = b"<html>404</html>"
        for other in FORMATS:
            zoo[f"really-{other}.{extension}"] = picture(FORMATS[other])
    for name, content in zoo.items():
        (folder / name).write_bytes(content)
    (folder / "nowhere.jpg").symlink_to("gone")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "zeros.jpg.link").symlink_to("/dev/zero")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    return {name: name.startswith(("good", "really")) for name in zoo}


@pytest.mark.slow
def test_a_folder_of_what_is_no_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    is_photo = fill(tmp_path / "zoo")
    command = ("run", "--labeler", "bands", "--pack", "embedded", "--vocab", VOCAB, "--images", "zoo", "--out", "run")
    options = ("--workers", "2", "-q", "--max-failure-rate", "1")
    answer = annotate_here((*command, *options), monkeypatch, capsys)
    assert answer.code == cli.EXIT_SOME_FAILED, answer.err
    records = {record.path: record for record in RunReader("run").records()}
    assert records.keys() - is_photo.keys() == {"nowhere.jpg", "itself.jpg"}
    assert is_photo.keys() <= records.keys()
    for name, record in records.items():
        assert record.status == "ok" or not is_photo.get(name), (name, record.error)
        assert record.status == "failed" or name.startswith(("good", "really", "changed", "cut-7")), name
        assert record.status == "ok" or (record.error.isprintable() and 5 < len(record.error) < 300)
    print(len(records), "files,", sum(record.status == "ok" for record in records.values()), "labelled")
    for name in available():
        out = str(default_out(Path("out"), name).with_suffix(find(name).suffix))
        answer = annotate_here(("export", "run", "--format", name, "--out", out), monkeypatch, capsys)
        assert answer.code == 0, answer.err
    answer = annotate_here(("report", "run", "--out", "report"), monkeypatch, capsys)
    assert answer.code == 0, answer.err
