"""What an exporter is, and the list of those known.

An exporter is a function over a run, registered by decorator with a dataclass of its options:

    @register("coco", CocoOptions, "COCO JSON")
    def export(run: RunReader, out: Path, options: CocoOptions) -> ExportSummary: ...

It streams `run.records()` (path order) and so needs memory for one photo, not for the run. Packages of third parties
register such a function in a module that the entry-point group `annotator.exporters` names. What it may rely on:

* The run is what `export` below lets through of the user's run: no photo is in it that has changed since.
* A format with a suffix writes one file: `out` ends in that suffix, is no folder, and the folder it belongs in exists.
  With `SplitOptions` among its options it is called once per split, with a file name for each.
* Any other format writes into the folder `out`, which exists.
* `OutputFolder(run, out)` of `exporters.output` writes files that stay inside `out` and off the run's photos; whoever
  names files after photos should write through it.
* The summary's `files` are what the user is told was written: `out`, unless the exporter lists more or others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from annotator.blame import blaming
from annotator.config import parameters_from
from annotator.errors import ConfigError
from annotator.photo_changes import refuse_all_changed
from annotator.registry import Registry
from annotator.run import ImageRecord, RunReader
from annotator.spelling import current_spelling, option
from annotator.wording import are, count
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
    """What was written.

    notes: sentences for the user (photos left out, losses of the format).
    files: every file of a format that writes files, the folder of one that fills a folder; `out` alone unless given.
    """

    out: Path
    images: int = 0
    annotations: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = self.files or [self.out]


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

    options: a dataclass with a default for every field; `metadata={"description": ...}` of a field is shown to users.
    suffix:  ending of the one file that the format writes (".json"); "" for a format that fills a folder.
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
    _refuse_other_kind(registration, out)
    refuse_all_changed(run)
    with blaming(out), _folder(out.parent if registration.suffix else out):
        if registration.suffix and isinstance(options, SplitOptions) and len(options.splits) > 1:
            summary = _export_splits(registration, selected, out, options)
        else:
            summary = registration.export(selected, out, options)
    summary.notes += selected.changed.notes()
    if selected.spoiled:
        summary.notes.append(
            f"{selected.spoiled:,} of the photos left out count as failed because of a score that is not finite "
            f"({selected.reason}); label them again"
        )
    if selected.hidden:
        summary.notes.append(f"{are(selected.hidden, 'segment')} left out: the score is under {options.min_score:g}")
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


def _refuse_other_kind(registration: Registration, out: Path) -> None:
    """Raises where `out` is not what the format writes: a file of its suffix, or a folder."""
    expected = f"{option('out')}, for the format {registration.name},"
    if not registration.suffix:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"expected {expected} to name a folder, but {out} is a file")
    elif not out.name.removesuffix(registration.suffix) or not out.name.endswith(registration.suffix):
        raise ConfigError(f"expected {expected} to name a file that ends in {registration.suffix}, but got {out}")
    elif out.is_dir():
        raise ConfigError(f"expected {expected} to name a file, but {out} is a folder")


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """A folder to write to; taken back where nothing could be written."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):  # something is in it
                folder.rmdir()
        raise


def _option_names(registration: Registration) -> list[str]:
    return [field.name for field in fields(registration.options)]


def _export_splits(registration: Registration, run: RunReader, out: Path, options: SplitOptions) -> ExportSummary:
    """A format of one file gets a file per split: `labels.json` -> `labels-train.json`, `labels-val.json`."""
    files = {split: _split_file(out, split, registration.suffix) for split in options.splits}
    whole = ExportSummary(out, files=[*files.values()])
    for split, file in files.items():
        part = SelectedRun(run, keep=partial(_is_in, options, split))
        summary = registration.export(part, file, options)
        whole.images += summary.images
        whole.annotations += summary.annotations
        whole.skipped += summary.skipped
        whole.files += [file for file in summary.files if file not in whole.files]
        whole.notes += [f"{split}: {count(summary.images, 'photo')}", *(f"{split}: {note}" for note in summary.notes)]
    return whole


def _split_file(out: Path, split: str, suffix: str) -> Path:
    return out.with_name(f"{out.name.removesuffix(suffix)}-{split}{suffix}")


def _is_in(options: SplitOptions, split: str, record: ImageRecord) -> bool:
    return options.split_of(record.path) == split
