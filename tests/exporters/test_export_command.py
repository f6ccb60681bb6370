"""`annotate export` and its flags."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from helpers_formats import files_below, save_photos
from typer.testing import CliRunner, Result

from annotator.cli import app
from annotator.commands import results
from annotator.corrections import Correction, append, fingerprint
from annotator.errors import ConfigError
from exporters.base import available, find
from exporters.descriptions import DESCRIPTIONS

NAMES = ["background", "cat", "dog"]
FLAGS = results.EXPORT_FLAGS


def export(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_every_format_by_its_name_alone(make_run, noise, tmp_path) -> None:
    """Into the run's own folder."""
    maps = {f"{index}.jpg": noise(index, 20, 30, 3) for index in range(3)}
    run = make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps))
    for name in available():
        assert "3 photos" in export(run.directory, "--format", name).output
    made = {path.name for path in (run.directory / "exports").iterdir()}
    assert {f"{name}{find(name).suffix}" for name in available()} <= made


def test_flags_reach_the_format(make_run, noise, tmp_path) -> None:
    maps = {f"{index}.jpg": noise(index, 20, 30, 3) for index in range(12)}
    run = make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps))
    flags = ["--split", "0.4/0.3/0.3", "--seed", "3", "--photos", "copy", "--simplify", "1", "--min-area", "4"]
    result = export(run.directory, "--format", "yolo-seg", "--out", tmp_path / "yolo", *flags)
    assert "simplify 1: mean IoU with the exact masks 0." in result.output
    images = files_below(tmp_path / "yolo/images")
    assert len(images) == 12
    assert {name.split("/")[0] for name in images} == {"train", "val", "test"}
    assert not any((tmp_path / "yolo/images" / name).is_symlink() for name in images)
    export(run.directory, "--format", "cvat", "--out", tmp_path / "a.xml", "--shape", "polygon", "--instances")
    assert "<polygon" in (tmp_path / "a.xml").read_text()
    export(run.directory, "--out", tmp_path / "a.json", "--min-score", "0.6")
    assert json.loads((tmp_path / "a.json").read_text())["annotations"] == []


def test_flags_of_another_format_are_refused(make_run, tmp_path) -> None:
    run = make_run({"a.jpg": np.zeros((1, 1), dtype=np.int32)}, NAMES)
    with pytest.raises(ConfigError, match="format overlay has no --split, which is for coco, mask-png"):
        export(run.directory, "--format", "overlay", "--split", "0.9/0.1")


def test_reviewed_photos(make_run, tmp_path) -> None:
    """What a person edited is exported, what is to be redone is not; and on demand only what is approved."""
    maps = dict.fromkeys(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], np.ones((2, 3), dtype=np.int32))
    run = make_run(maps, NAMES)
    seen = {record.path: record for record in run.records()}
    dog = tuple(replace(segment, label="dog") for segment in seen["b.jpg"].segments)
    said = [
        Correction("a.jpg", 3, 2, "approve", False, fingerprint(seen["a.jpg"].segments), seen["a.jpg"].segments),
        Correction("b.jpg", 3, 2, "approve", True, fingerprint(seen["b.jpg"].segments), dog),
        Correction("c.jpg", 3, 2, "reject", False, fingerprint(seen["c.jpg"].segments), ()),
    ]
    assert append(run.directory, said)
    out = tmp_path / "labels.json"
    result = export(run.directory, "--out", out)
    assert "as reviewed: 1 photo edited, 2 approved, 1 left out" in result.output
    content = json.loads(out.read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.jpg", "d.jpg"]
    assert [each["category_id"] for each in content["annotations"]] == [2, 3, 2]
    export(run.directory, "--out", out, "--only", "approved")
    assert [image["file_name"] for image in json.loads(out.read_text())["images"]] == ["a.jpg", "b.jpg"]


def listed() -> dict[str, list[str]]:
    """Format -> the lines of `--format list` below it."""
    found: dict[str, list[str]] = {}
    for line in export(".", "--format", "list").output.splitlines():
        if not line.startswith(" "):
            found[name := line.split()[0]] = []
        else:
            found[name].append(" ".join(line.split()))
    return found


def test_the_list_is_what_one_types() -> None:
    """Flags with something for their value, and what they mean; no type of Python's."""
    lines = listed()
    assert list(lines) == available()
    assert "--min-area N Connected regions with fewer pixels become unlabelled." in lines["coco"]
    assert "--top N Free-text labels: keep only this many, the most frequent." in lines["labelme"]
    assert "--photos link|copy|none How photos come along: link, copy or none. default: copy" in lines["datumaro"]
    assert (
        "--set prefix=TEXT What a photo's URL begins with; its path follows. default: /data/local-files/?d="
        in (lines["label-studio"])
    )
    assert any(line.startswith("--set instances=false ") and line.endswith("default: on") for line in lines["voc"])
    assert any(line.startswith("--strict ") for line in lines["coco"])
    assert not any(word in line for each in lines.values() for line in each for word in ("None", "True", "False"))


@pytest.mark.slow
@pytest.mark.parametrize("name", available())
def test_what_the_list_says_can_be_typed(make_run, name, tmp_path) -> None:
    """Each line of it, with a value of its kind, is understood; every option has its description there."""
    values = {"N": "1", "NUMBER": "0.5", "TEXT": "1/1"}
    run = make_run({"a.jpg": np.zeros((4, 4), dtype=np.int32)}, None, labels=["cat"])
    for line, option in zip(listed()[name], fields(find(name).options), strict=True):
        assert DESCRIPTIONS[option.name] in line
        typed = line.partition(DESCRIPTIONS[option.name])[0].split()
        typed[1:] = ["=".join(values.get(part, part.split("|")[0]) for part in word.split("=")) for word in typed[1:]]
        out = tmp_path / f"out{find(name).suffix}"
        result = CliRunner().invoke(app, ["export", str(run.directory), "--format", name, "--out", str(out), *typed])
        assert not isinstance(result.exception, SystemExit), (typed, result.output)
        assert not any(
            text in str(result.exception) for text in ("has no setting", "which is for", "expected one of")
        ), typed


def test_help_names_the_formats_that_take_a_flag() -> None:
    help_of = {flag: get_type_hints(results.export, include_extras=True)[flag].__metadata__[0].help for flag in FLAGS}
    for flag, text in help_of.items():
        having = [name for name in available() if flag in {field.name for field in fields(find(name).options)}]
        named, colon, rest = text.partition(": ")
        if colon and set(named.split(", ")) <= set(available()):
            assert (named.split(", "), rest) == (having, DESCRIPTIONS[flag])
        else:
            assert text == DESCRIPTIONS[flag]


def has_splits(name: str) -> bool:
    return "split" in {field.name for field in fields(find(name).options)}


FORMS = [
    *((name, "") for name in available()),
    *((name, "0.5/0.5") for name in available() if has_splits(name) and name != "mask-png"),
    *(("coco --variant panoptic", split) for split in ("", "0.5/0.5")),
    *((f"mask-png --preset {preset}", split) for preset in ("voc", "hf") for split in ("", "0.5/0.5")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "split"), FORMS)
@pytest.mark.parametrize("photos", [6, 0])
def test_what_is_named_was_written(make_run, noise, tmp_path, form, split, photos) -> None:
    """Every path in the message is there; of a format that writes files, all there is is in the message."""
    maps = {f"{index}.jpg": noise(index, 20, 30, 3) for index in range(photos)}
    run = make_run(maps, NAMES, root=save_photos(tmp_path / "photos", maps))
    name, *flags = form.split()
    out = tmp_path / "new" / "out"
    out = out.with_suffix(find(name).suffix)
    result = export(run.directory, "--format", name, *flags, "--out", out, *(["--split", split] if split else []))
    named = {Path(text) for text in result.output.splitlines()[0].partition(" → ")[2].split(", ")}
    assert [path for path in named if not path.exists()] == []
    assert named == (set(out.parent.iterdir()) if find(name).suffix else {out})
    assert not [line for line in result.output.splitlines() if line.strip() == "note:"]


@pytest.mark.parametrize("name", available())
def test_the_name_that_was_typed_is_refused(make_run, tmp_path, name) -> None:
    """And not one that a split made of it."""
    run = make_run({"a.jpg": np.zeros((1, 1), dtype=np.int32)}, NAMES)
    out = tmp_path / "taken"
    if find(name).suffix:
        problem = f"to name a file that ends in {find(name).suffix}, but got {out}"
    else:
        out.write_text("")
        problem = f"to name a folder, but {out} is a file"
    split = ["--split", "0.5/0.5", *(["--preset", "voc"] if name == "mask-png" else [])] if has_splits(name) else []
    result = CliRunner().invoke(app, ["export", str(run.directory), "--format", name, "--out", str(out), *split])
    assert str(result.exception) == f"expected --out, for the format {name}, {problem}"
