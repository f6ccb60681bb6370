"""Exporters of other packages, found by their entry points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from annotator.cli import app
from exporters.base import available

PLUGINS = Path(__file__).parents[1] / "plugins" / "areas"
MAP = np.array([[0, 1, 1]], dtype=np.int32)


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third party's package is installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))


def test_their_folder_is_made(make_run) -> None:
    """They open files in it at once, as the contract lets them, also where the run holds no export yet."""
    run = make_run({"a.jpg": MAP, "b.jpg": MAP}, ["cat", "dog"])
    assert {"areas", "sheets"} <= set(available())
    for name, file in (("areas", "areas.csv"), ("sheets", "sheets")):
        result = CliRunner().invoke(app, ["export", str(run.directory), "--format", name], catch_exceptions=False)
        assert result.output.splitlines()[0].endswith(f"→ {run.directory}/exports/{file}")
    assert (run.directory / "exports/areas.csv").read_text() == (
        "photo,label,pixels\na.jpg,cat,1\na.jpg,dog,2\nb.jpg,cat,1\nb.jpg,dog,2\n"
    )
    assert sorted(path.name for path in (run.directory / "exports/sheets").iterdir()) == ["0.csv", "1.csv"]


def test_their_options_are_described() -> None:
    lines = CliRunner().invoke(app, ["export", ".", "--format", "list"], catch_exceptions=False).output.splitlines()
    below = lines[lines.index("areas  pixels per label, one CSV") + 1]
    assert " ".join(below.split()) == "--set header=false The first line names the columns. default: on"
