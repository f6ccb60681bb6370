"""Photos, manifests and processes for tests of runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from annotator import cli
from annotator.run import ImageRecord, Manifest, RunReader
from annotator.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins"
DEADLY = PLUGINS / "deadly"
VOCAB = "dark, middle, bright"


class Answer(NamedTuple):
    """Of a command."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        return self.err.splitlines()[-1]


def annotate_here(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Answer:
    """`annotate` as in a shell, but in this process."""
    monkeypatch.setattr(sys, "argv", ["annotate", *arguments])
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    return Answer(code, *capsys.readouterr())


def write_photos(folder: Path, names: Iterable[str], size: tuple[int, int] = (48, 64)) -> None:
    """Different photos of coarse noise, height x width, in the format that their names say."""
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST).save(file)


def manifest(**config: object) -> Manifest:
    return Manifest(config, config_hash=repr(config), image_root="photos", tool_version="1", labeler="test")


def finished_manifest(vocabulary: Vocabulary) -> Manifest:
    """With a value of each name, as run.json gives them back."""
    return Manifest(
        config={"labeler": "maskclip", "settings": {"window": 448}},
        config_hash="ab" * 32,
        image_root="photos",
        tool_version="0.1",
        labeler="maskclip",
        vocabulary=json.loads(json.dumps(vocabulary.to_dict())),
        pack={"name": "embedded", "roles": {"clip": {"sha256": "cd"}}},
        counts={"photos": 3},
        timings={"seconds": 1.5},
        state="complete",
    )


def rows(directory: Path) -> list[ImageRecord]:
    """What decides an export: every record without the time that it took."""
    return [replace(record, seconds=0.0) for record in RunReader(directory).records()]


def python(*arguments: str | Path) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def environment() -> dict[str, str]:
    """For a process that shall find the tool and the third parties' labelers."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, PLUGINS, DEADLY))), "OMP_NUM_THREADS": "1"}
