"""What an exporter is, and the list of those known.

An exporter is a function over a run, registered by decorator with a dataclass of its options:

    @register("coco", CocoOptions, "COCO JSON")
    def export(run: RunReader, out: Path, options: CocoOptions) -> ExportSummary: ...

It streams `run.records()` (path order) and so needs memory for one photo, not for the run. Packages of third
parties name such a function in the entry-point group `annotator.exporters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from annotator.config import parameters_from
from annotator.registry import Registry
from annotator.run import RunReader

BUILT_IN = {"coco": "exporters.coco", "mask-png": "exporters.mask_png", "overlay": "exporters.overlay"}


@dataclass
class ExportSummary:
    """What was written; `notes` are sentences for the user (photos left out, losses of the format)."""

    out: Path
    images: int = 0
    annotations: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)


Export = Callable[[RunReader, Path, Any], ExportSummary]
AnyExport = TypeVar("AnyExport", bound=Callable[[RunReader, Path, Any], ExportSummary])


@dataclass(frozen=True)
class Registration:
    name: str
    export: Export
    options: type
    description: str
    suffix: str


_exporters: Registry[Registration] = Registry("export format", "annotator.exporters", BUILT_IN)


def register(name: str, options: type, description: str, suffix: str = "") -> Callable[[AnyExport], AnyExport]:
    """Function decorator.

    suffix: of the one file that the format writes (".json"); "" for a format that writes a folder.
    """

    def add(export: AnyExport) -> AnyExport:
        _exporters.add(name, Registration(name, export, options, description, suffix))
        return export

    return add


def available() -> list[str]:
    """Names of all formats, built in and from installed packages, without importing any."""
    return _exporters.names()


def find(name: str) -> Registration:
    """Imports and returns the exporter of that name."""
    return _exporters.find(name)


def default_out(run: Path, name: str) -> Path:
    """Where an export goes that was not told: into the run, which no search for photos enters."""
    return run / "exports" / f"{name}{find(name).suffix}"


def export(name: str, run: RunReader, out: Path, given: Mapping[str, Any] | None = None) -> ExportSummary:
    """Exports a run; `given` are options by name, checked against the format's own."""
    registration = find(name)
    options: Any = parameters_from(registration.options, given or {}, f"format {name}")
    return registration.export(run, out, options)
