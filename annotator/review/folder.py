"""The reviewed dataset as a folder that `fiftyone.Dataset.from_dir` reads on any machine.

samples.json, metadata.json    FiftyOne's own
data/                          the photos, as links or copies, by their paths in the run
fields/segments/               the masks, and besides those that stand beside them in the app
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from annotator.errors import ConfigError
from annotator.files import hidden_name, refuse_leading_out
from annotator.inner_paths import leads_out
from annotator.review.checked import SampleError, mask_file
from annotator.review.dataset import BATCH, RUN_KEY, Opened, Progress, is_edited
from annotator.review.samples import MASK
from annotator.review.views import OTHER, TRUTH
from annotator.run import RunReader

Bring = Literal["link", "copy", "none"]
MACHINE_ONLY = (RUN_KEY, "image_root", "other", "truth")
"""Facts of the dataset that hold on this machine only."""


@dataclass
class Exported:
    """What was written; `gone` photos are no longer where the run found them; `unpulled` hold edits of the app that are
    not in the run."""

    folder: Path
    photos: int = 0
    gone: int = 0
    unpulled: int = 0


def export_folder(
    fiftyone: Any, opened: Opened, run: RunReader, folder: Path, photos: Bring, progress: Progress
) -> Exported:
    """Writes the folder by FiftyOne's own exporter, from a copy of the dataset whose files lie in the folder.

    folder: new, or empty; it gets its name when it is whole.
    photos: without them, and where one is gone, samples keep the paths of the photos on this machine.
    """
    target = folder.absolute()
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise ConfigError(f"{folder}: expected a new or empty folder for the dataset; choose another --export")
    target.parent.mkdir(parents=True, exist_ok=True)
    exported = Exported(folder)
    with _replacing(target) as temporary, _copy_of(opened.dataset) as copy:
        _bring_files(copy, opened, run, temporary, photos, exported, progress)
        copy.info = {name: value for name, value in copy.info.items() if name not in MACHINE_ONLY}
        copy.save()
        copy.export(
            export_dir=str(temporary),
            dataset_type=fiftyone.types.FiftyOneDataset,
            export_media=False,
            rel_dir=str(temporary),
            overwrite=False,
            progress=False,
        )
    return exported


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A folder beside the target, which gets its name when the block ends well."""
    temporary = hidden_name(target)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _copy_of(dataset: Any) -> Iterator[Any]:
    copy = dataset.clone(persistent=False)
    try:
        yield copy
    finally:
        copy.delete()


def _bring_files(
    copy: Any, opened: Opened, run: RunReader, folder: Path, photos: Bring, exported: Exported, progress: Progress
) -> None:
    """Puts masks and photos into the folder and tells the copy's samples; a batch of samples in memory at a time."""
    fields = [field for field in (MASK, OTHER, TRUTH) if copy.has_sample_field(field)]
    total, samples = len(copy), iter(copy.iter_samples())
    while batch := list(islice(samples, BATCH)):
        paths: dict[str, str] = {}
        masks: dict[str, dict[str, str]] = {field: {} for field in fields}
        for sample in batch:
            exported.photos += 1
            exported.unpulled += is_edited(sample, opened.samples)
            if photos != "none" and (photo := _photo(run, sample["path"], folder, photos)) is None:
                exported.gone += 1
            elif photos != "none":
                paths[sample.id] = str(photo)
            for field in fields:
                if (source := _mask(sample, field, opened)) is not None:
                    masks[field][sample.id] = str(_copied(source, folder / "fields" / field / source.name))
        if paths:
            copy.set_values("filepath", paths, key_field="id", progress=False)
        for field, found in masks.items():
            if found:
                copy.set_values(f"{field}.mask_path", found, key_field="id", progress=False)
        progress(exported.photos, total)


def _mask(sample: Any, field: str, opened: Opened) -> Path | None:
    """The file of a mask, where it is in one and that is still there."""
    if sample[field] is None or not sample[field].mask_path:
        return None
    try:
        file = mask_file(sample[field].mask_path, opened.samples.cache)
    except SampleError as error:
        raise SampleError(f"{sample['path']!r}: {error}") from None
    return file if file.is_file() else None


def _photo(run: RunReader, path: str, folder: Path, photos: Bring) -> Path | None:
    """Where the photo lies now; None where it is gone."""
    if leads_out(path):
        raise SampleError(f"expected a photo of the run, but its path is {path!r}")
    source, target = (run.image_root / path).absolute(), folder / "data" / path
    if not source.is_file():
        return None
    refuse_leading_out(target.parent, folder)
    if photos == "copy":
        return _copied(source, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)
    return target


def _copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target
