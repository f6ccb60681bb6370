"""A run as a FiftyOne dataset that stays: made once, brought up to date whenever it is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from annotator.corrections import Reviewed, reviewed
from annotator.inner_paths import leads_out
from annotator.open_labels import normalise
from annotator.photo_changes import Changed, unchanged
from annotator.review.checked import load
from annotator.review.database import cache_folder
from annotator.review.legend import Legend, legend_of
from annotator.review.samples import INSTANCES, MASK, Samples, labels_field_of
from annotator.run import RunReader

RUN_KEY = "run"
BATCH = 64

Progress = Callable[[int, int], None]
"""Photos done, photos in all."""


@dataclass
class Opened:
    """A dataset that shows a run, and what was done to make it so; `waiting` are stale samples that a person
    edited since the last pull, which were left alone; `colors` are by value, of masks that stand beside the run's;
    photos that have `changed` since they were labelled are not shown."""

    dataset: Any
    samples: Samples
    added: int = 0
    refreshed: int = 0
    removed: int = 0
    waiting: int = 0
    colors: dict[str, dict[int, str]] = field(default_factory=dict)
    changed: Changed = field(default_factory=Changed)


def open_dataset(
    fiftyone: Any, run: RunReader, progress: Progress = lambda done, total: None, *, discard: bool = False
) -> Opened:
    """Makes the run's dataset, or adds new photos to it and refreshes those whose labels changed.

    discard: drops what a person edited in the app since the last pull.

    Streams: a batch of photos in memory at a time, besides a few short strings per photo.
    """
    dataset = _load_or_create(fiftyone, run)
    samples = samples_of(fiftyone, run, dataset)
    opened = Opened(dataset, samples)
    _sync(opened, run, progress, discard)
    describe(dataset, run, samples.legend)
    return opened


def shown(run: RunReader, changed: Changed) -> Iterator[Reviewed]:
    """The photos that the app shows: all but those that have changed since they were labelled."""
    return reviewed(run, unchanged(run, changed))


def samples_of(fiftyone: Any, run: RunReader, dataset: Any) -> Samples:
    """What makes the dataset's samples; classes keep the values that its masks have."""
    return Samples(fiftyone, run, legend_of(run, _known_classes(dataset)), cache_folder(run))


def _known_classes(dataset: Any) -> list[str]:
    """Those that its masks have values for, in order; anything there that is not a class name is left out."""
    known = dataset.info.get("classes")
    names = known if isinstance(known, list) else []
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and normalise(name) == name))


def find_dataset(fiftyone: Any, run: RunReader) -> Any:
    """The run's dataset if there is one, else None."""
    for name in _names(run):
        if fiftyone.dataset_exists(name):
            dataset = fiftyone.load_dataset(name)
            if dataset.info.get(RUN_KEY) == str(run.directory.resolve()):
                return dataset
    return None


def _names(run: RunReader) -> tuple[str, str]:
    """The run's own, and one to take where another run's dataset has it."""
    where = run.directory.resolve()
    return where.name, f"{where.name}-{hashlib.sha256(str(where).encode()).hexdigest()[:8]}"


def _load_or_create(fiftyone: Any, run: RunReader) -> Any:
    if (found := find_dataset(fiftyone, run)) is not None:
        return found
    name = next(name for name in _names(run) if not fiftyone.dataset_exists(name))
    dataset = fiftyone.Dataset(name, persistent=True)
    dataset.info = {RUN_KEY: str(run.directory.resolve())}
    for name in ("path", "status", "error", "shown", "content"):
        dataset.add_sample_field(name, fiftyone.StringField)
    dataset.add_sample_field("edited", fiftyone.BooleanField)
    dataset.add_sample_field("confidence", fiftyone.FloatField)
    for name, kind in (
        (MASK, fiftyone.Segmentation),
        (INSTANCES, fiftyone.Detections),
        (labels_field_of(run), fiftyone.Classifications),
    ):
        dataset.add_sample_field(name, fiftyone.EmbeddedDocumentField, embedded_doc_type=kind)
    dataset.create_index("path")
    return dataset


def _sync(opened: Opened, run: RunReader, progress: Progress, discard: bool) -> None:
    dataset, total, done = opened.dataset, len(run), 0
    _follow(dataset, opened.samples)
    there = zip(*dataset.values(["path", "id", "shown", f"{MASK}.mask_path"]), strict=True)
    known: dict[str, tuple[str, str]] = {
        path: (identity, stamp if mask is None or Path(mask).is_file() else "")  # the cache may have been deleted
        for path, identity, stamp, mask in there
    }
    for batch in _batches(shown(run, opened.changed)):
        new = []
        for each in batch:
            identity, stamp = known.pop(each.record.path, (None, None))
            if identity is None:
                new.append(opened.samples.new(each))
            elif discard or stamp != opened.samples.shown(each):
                _refresh(opened, load(dataset, identity), each, stamp, discard)
        if new:
            dataset.add_samples(new, progress=False)
            opened.added += len(new)
        done += len(batch)
        progress(done, total)
    for identity, _ in known.values():
        if not discard and is_edited(load(dataset, identity), opened.samples):
            opened.waiting += 1
        else:
            dataset.delete_samples([identity])
            opened.removed += 1


def _follow(dataset: Any, samples: Samples) -> None:
    """Shows photos that were moved where they are now."""
    there = zip(*dataset.values(["path", "id", "filepath"]), strict=True)
    moved = {
        identity: samples.file(path)
        for path, identity, file in there
        if isinstance(path, str) and not leads_out(path) and file != samples.file(path)
    }
    dataset.set_values("filepath", moved, key_field="id", progress=False)


def _refresh(opened: Opened, sample: Any, each: Reviewed, stamp: str | None, discard: bool) -> None:
    edited = is_edited(sample, opened.samples)
    if edited and not discard:
        opened.waiting += 1
    elif edited or stamp != opened.samples.shown(each):
        opened.samples.fill(sample, each)
        sample.save()
        opened.refreshed += 1


def is_edited(sample: Any, samples: Samples) -> bool:
    """Whether a person changed the sample since it was filled. There is nothing to change of a failed photo."""
    return sample["status"] == "ok" and samples.content(sample) != sample["content"]


def _batches(items: Iterator[Reviewed]) -> Iterator[list[Reviewed]]:
    while batch := list(islice(items, BATCH)):
        yield batch


def describe(dataset: Any, run: RunReader, legend: Legend) -> None:
    """The dataset's facts about the run, and the names of the values in its masks."""
    manifest = run.manifest
    dataset.info = {
        **dataset.info,
        "classes": list(legend.classes.names),
        "labeler": manifest.labeler,
        "pack": manifest.pack.get("name"),
        "config": manifest.config,
        "config_hash": manifest.config_hash,
        "tool_version": manifest.tool_version,
        "image_root": manifest.image_root,
        "state": manifest.state,
        "counts": manifest.counts,
        "timings": manifest.timings,
    }
    dataset.default_classes = list(legend.classes.names)
    dataset.default_mask_targets = legend.names
    dataset.save()
