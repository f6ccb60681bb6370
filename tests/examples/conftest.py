"""The example's package, installed as far as Python and the tool can see."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "examples" / "segmenter"


@pytest.fixture(scope="module", autouse=True)
def segmenter_installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Its folder on the path, and what pip would note of its pyproject.toml."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANNOTATE_CACHE", str(site / "cache"))
        patch.syspath_prepend(str(site))
        patch.syspath_prepend(str(SOURCE))
        yield
