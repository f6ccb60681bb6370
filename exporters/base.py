"""What an exporter is, and the list of those known.

An exporter is a function over a run, registered by decorator with a dataclass of its options:

    @register("coco", CocoOptions, "COCO JSON")
    def export(run: RunReader, out: Path, options: CocoOptions) -> ExportSummary: ...

It streams `run.records()` (path order) and so needs memory for one photo, not for the run. The run that it gets is
what `export` below lets through of the user's run. Packages of third parties name such a function in the
entry-point group `annotator.exporters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from annotator.config import parameters_from
from annotator.errors import ConfigError
from annotator.registry import Registry
from annotator.run import ImageRecord, RunReader
from annotator.spelling import current_spelling, option
from exporters.options import Amend, CommonOptions, Keep, SelectedRun, SplitOptions

BUILT_IN = {
    "coco": "exporters.coco",
    "mask-png": "exporters.mask_png",
    "yolo-seg": "exporters.yolo",
    "voc": "exporters.voc",
    "labelme": "exporters.labelme",
    "cvat": "exporters.cvat",
    "label-studio": "exporters.label_studio",
    "datumaro": "exporters.datumaro",
    "hf-dataset": "exporters.hf_dataset",
    "overlay": "exporters.overlay",
}


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


def export(
    name: str,
    run: RunReader,
    out: Path,
    given: Mapping[str, Any] | None = None,
    *,
    amend: Amend | None = None,
    keep: Keep | None = None,
) -> ExportSummary:
    """Exports a run; `given` are options by name, checked against the format's own.

    amend: what people said about the run, put over its records as they stream by.
    keep:  which photos to export, such as approved ones only; asked after `amend`.
    """
    registration = find(name)
    options = _options_from(registration, given or {})
    selected = SelectedRun(run, options.min_score if isinstance(options, CommonOptions) else 0.0, amend, keep)
    if registration.suffix and isinstance(options, SplitOptions) and len(options.splits) > 1:
        summary = _export_splits(registration, selected, out, options)
    else:
        summary = registration.export(selected, out, options)
    if selected.hidden:
        summary.notes.append(f"{selected.hidden:,} segments are left out, as they score under {options.min_score:g}")
    return summary


def _options_from(registration: Registration, given: Mapping[str, Any]) -> Any:
    """A name that other formats know is no slip of the pen, so the message says which do."""
    own = _option_names(registration)
    for name in given:
        if name not in own and (having := [each for each in BUILT_IN if name in _option_names(find(each))]):
            raise ConfigError(
                f"format {registration.name} has no {option(name)}, which is for {', '.join(having)}; leave it out"
            )
    return parameters_from(registration.options, given, f"format {registration.name}", current_spelling())


def _option_names(registration: Registration) -> list[str]:
    return [field.name for field in fields(registration.options)]


def _export_splits(registration: Registration, run: RunReader, out: Path, options: SplitOptions) -> ExportSummary:
    """A format of one file gets a file per split: `labels.json` -> `labels-train.json`, `labels-val.json`."""
    whole = ExportSummary(out)
    for split in options.splits:
        part = SelectedRun(run, keep=partial(_is_in, options, split))
        summary = registration.export(part, split_file(out, split), options)
        whole.images += summary.images
        whole.annotations += summary.annotations
        whole.skipped += summary.skipped
        whole.notes += [f"{split}: {summary.images:,} photos", *(f"{split}: {note}" for note in summary.notes)]
    return whole


def split_file(out: Path, split: str) -> Path:
    """Where a format of one file puts a split."""
    return out.with_stem(f"{out.stem}-{split}")


def _is_in(options: SplitOptions, split: str, record: ImageRecord) -> bool:
    return options.split_of(record.path) == split
