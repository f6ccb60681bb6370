"""What holds of every format alike."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_formats import files_below, save_photos

from annotator.errors import ConfigError
from exporters.base import ExportSummary, available, export, find

NAMES = ["background", "cat", "dog"]


def made(name: str, run: Any, folder: Path) -> ExportSummary:
    return export(name, run, folder / f"out{find(name).suffix}")


@pytest.mark.parametrize("name", available())
def test_the_same_bytes_however_the_run_was_written(make_run, noise, tmp_path, name) -> None:
    maps = {f"{seed}.jpg": noise(seed, 30, 20, 3) for seed in range(9)}
    root = save_photos(tmp_path / "photos", maps)
    made(name, make_run(maps, NAMES, root=root), tmp_path / "x/whole")
    made(name, make_run(dict(reversed(maps.items())), NAMES, part_rows=2, root=root), tmp_path / "x/parts")
    written = files_below(tmp_path / "x/whole")
    assert written == files_below(tmp_path / "x/parts")
    assert len(written) > 0
    for path in written:
        assert (tmp_path / "x/whole" / path).read_bytes() == (tmp_path / "x/parts" / path).read_bytes(), path


@pytest.mark.parametrize("name", available())
def test_runs_with_nothing_in_them(make_run, tmp_path, name) -> None:
    """No photo at all; only photos that failed; photos without a label."""
    nothing = {"a.jpg": np.full((3, 4), -1, dtype=np.int32), "b.jpg": np.zeros((3, 4), dtype=np.int32)}
    root = save_photos(tmp_path / "photos", nothing)
    assert made(name, make_run({}, NAMES, root=root), tmp_path / "empty").images == 0
    failed = made(name, make_run({"a.jpg": None}, NAMES, root=root), tmp_path / "failed")
    assert (failed.images, failed.skipped) == (0, 1)
    assert made(name, make_run(nothing, NAMES, root=root), tmp_path / "nothing").images == 2


@pytest.mark.parametrize("name", [name for name in available() if name != "overlay"])
def test_labels_that_a_labeler_made_up(make_run, tmp_path, name) -> None:
    """Classes are the labels, normalised; they are somewhere in what is written."""
    maps = {"a.jpg": np.kron(np.array([[0, 1, 2]], dtype=np.int32), np.ones((8, 8), dtype=np.int32))}
    run = make_run(maps, None, labels=["a zebra", "cats", "the cat"], root=save_photos(tmp_path / "photos", maps))
    made(name, run, tmp_path / "x")
    text = "".join(
        (tmp_path / "x" / path).read_text(encoding="utf-8")
        for path in files_below(tmp_path / "x")
        if path.endswith((".json", ".xml", ".txt", ".yaml"))
    )
    assert "zebra" in text
    assert "cat" in text
    assert "cats" not in text
    assert "a zebra" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", available())
def test_photos_are_never_written_over(make_run, tmp_path, name) -> None:
    """Whatever folder is named, the photos are as they were."""
    maps = {f"{index}.jpg": np.ones((4, 6), dtype=np.int32) for index in range(3)}
    for folder in ("images/train", "JPEGImages", "Annotations", "data", "labels/train", "annotations"):
        root = save_photos(tmp_path / folder, maps)
        run = make_run(maps, NAMES, root=root)
        before = {path: path.read_bytes() for path in root.iterdir()}
        for out in (tmp_path, root):
            with suppress(ConfigError):
                made(name, run, out)
            with suppress(ConfigError):
                export(name, run, out / f"x{find(name).suffix}" if find(name).suffix else out)
            assert {path: path.read_bytes() for path in before} == before
