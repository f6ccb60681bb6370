"""Runs on a cluster, and the same by the local engine."""

from __future__ import annotations

from pathlib import Path

from helpers_runs import VOCAB

from annotator import open_run, pipeline
from annotator.config import RunConfig
from exporters import base as exporters

NAMES = [f"{number % 3}/{number:02d}.png" for number in range(40)]
BAD = NAMES[::10]


def prepare(folder: Path, run: str, **given: object) -> pipeline.Job:
    options = {"images": str(folder / "photos"), "labeler": "deadly", "vocab": VOCAB, "pack": "embedded"}
    if given.get("labeler", "deadly") == "deadly":
        (folder / "diary").mkdir(exist_ok=True)
        options["settings"] = {"diary": str(folder / "diary"), **given.pop("settings", {})}  # type: ignore[dict-item]
    return pipeline.prepare(RunConfig.load(None, {**options, "out": str(folder / run), "workers": 0, **given}))


def exported(run: Path) -> bytes:
    out = run.parent / f"{run.name}.json"
    exporters.export("coco", open_run(run), out)
    return out.read_bytes()


def processes(folder: Path) -> list[int]:
    """Of those that labelled."""
    return [int(file.name) for file in (folder / "diary").iterdir() if file.name.isdigit()]


def status(process: int) -> str:
    """As Linux tells it; nothing of one that is gone."""
    try:
        return Path(f"/proc/{process}/status").read_text()
    except OSError:
        return ""


def undisturbed(folder: Path, labeler: str = "deadly") -> Path:
    """The same run by the local engine; `bands` survives every photo."""
    pipeline.run(prepare(folder, "local", labeler=labeler))
    return folder / "local"


def on(cluster: str, **given: object) -> dict[str, object]:
    return {"engine": "ray", "ray_address": cluster, "actors": 2, **given}
