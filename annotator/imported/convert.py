"""Foreign labels -> a run in a temporary folder -> any export format."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from annotator.blame import blaming
from annotator.errors import ConfigError
from annotator.imported.coco import coco_labels
from annotator.imported.entries import restore
from annotator.imported.labels import Labels, Tally
from annotator.imported.masks import mask_labels
from annotator.imported.parquet import parquet_labels, shards_of
from annotator.run import Manifest, RunReader, RunWriter, open_run
from annotator.spelling import option
from exporters import base

Overlap = Literal["refuse", "smaller-on-top"]
OBJECTS_ONLY = ("coco", "cvat", "datumaro", "label-studio", "labelme", "yolo-seg")
"""Formats without the background."""


def convert(
    source: Path,
    to: str,
    out: Path,
    options: Mapping[str, Any] | None = None,
    *,
    images: Path | None = None,
    classes: Path | None = None,
    overlap: Overlap = "refuse",
) -> base.ExportSummary:
    """Writes labels in another format, and says what that does not keep.

    source:  a COCO .json, a folder of masks, or an export to hf-dataset.
    options: of the format, by name.
    images:  folder of the photos, for formats that bring them along and for the names of masks' photos.
    classes: what a folder's values mean; for COCO, the order of the classes.
    overlap: what happens where annotations of several classes overlap, which most formats cannot hold.
    """
    registration = base.find(to)
    given = dict(options or {})
    if images is not None and not images.is_dir():
        raise ConfigError(f"{images}: expected the folder of the photos, but there is no such folder")
    _refuse_source(source, out, folder=not registration.suffix)
    if images is None:
        _without_photos(to, given)
    labels = read_labels(source, images, classes)
    if to == "coco" and not labels.scored:
        given.setdefault("strict", True)  # nobody said how sure they are
    with tempfile.TemporaryDirectory(prefix="annotate-convert-") as scratch:
        run = write_run(labels, Path(scratch) / "run")
        _refuse_overlap(labels, overlap)
        summary = base.export(to, run, out, given)
        if to == "coco" and labels.entries:
            for file in filter(Path.is_file, summary.files):  # not the folder of panoptic PNGs
                restore(file, labels.entries)
    summary.notes += [*labels.notes, *_losses(labels, to, given)]
    return summary


def read_labels(source: Path, images: Path | None, classes: Path | None) -> Labels:
    """By what the source is."""
    if (source / "run.json").is_file():
        raise ConfigError(f"{source}: expected labels of another tool, but found a run; use annotate export {source}")
    if shards_of(source):
        return parquet_labels(source, images, classes)
    if source.is_dir():
        return mask_labels(source, images, classes)
    if source.is_file() and source.suffix.lower() == ".json":
        return coco_labels(source, images, classes)
    raise ConfigError(f"{source}: expected a COCO .json, a folder of mask PNGs or of an hf-dataset, but found neither")


def write_run(labels: Labels, directory: Path) -> RunReader:
    """A complete run of the labels; records stream, a photo in memory at a time."""
    manifest = Manifest(
        config={},
        config_hash="",
        image_root=str(labels.root),
        tool_version=version("annotate"),
        labeler=f"convert ({labels.source.name})",
        vocabulary=labels.vocabulary.to_dict(),
        state="complete",
    )
    with blaming(directory), RunWriter.open(directory, manifest) as writer:
        for record in labels.records():
            writer.write(record)
    return open_run(directory)


def _refuse_source(source: Path, out: Path, *, folder: bool) -> None:
    """Raises where the labels themselves, or what names their classes, would be written over."""
    here, there = source.resolve(), out.resolve()
    among = source.is_dir() and (there.is_relative_to(here) or here.parent == there)
    if there == here or (folder and among):
        raise ConfigError(
            f"expected a place apart from the labels in {source}, but got {out}; choose another {option('out')}"
        )


def _without_photos(to: str, given: dict[str, Any]) -> None:
    """Where no one said where the photos are, none come along."""
    takes_photos = _takes(to, "photos")
    if to == "overlay" or (takes_photos and given.get("photos", "none") != "none"):
        raise ConfigError(f"format {to} needs the photos for this; say where they are with {option('images', 'DIR')}")
    if takes_photos:
        given["photos"] = "none"


def _takes(to: str, option: str) -> bool:
    return any(field.name == option for field in fields(base.find(to).options))


def _refuse_overlap(labels: Labels, overlap: Overlap) -> None:
    if labels.tally.overlapping and overlap == "refuse":
        raise ConfigError(
            f"{labels.source}: expected annotations that do not overlap, but those of several classes share "
            f"{_overlap(labels.tally)}; {option('overlap', 'smaller-on-top')} gives these to the smaller annotation"
        )


def _overlap(tally: Tally) -> str:
    return f"{tally.overlapping:,} pixels in {tally.overlaps:,} of {tally.photos:,} photos"


def _losses(labels: Labels, to: str, given: Mapping[str, Any]) -> list[str]:
    """Sentences on what the way through a run, or the format, does not keep."""
    tally, notes = labels.tally, []
    if tally.overlapping:
        notes.append(f"annotations of several classes share {_overlap(tally)}: given to the smaller annotation")
    if tally.crowds:
        notes.append(f"{tally.crowds:,} crowd regions are no objects: their own pixels are without a label")
    if tally.empty:
        notes.append(f"{tally.empty:,} annotations cover no pixel: left out")
    told = tally.annotations - tally.untold
    if given.get("instances") and tally.untold:
        notes.append(
            f"{told:,} of {tally.annotations:,} annotations are a connected part of their own and kept; the others "
            "touch one of their class, lie under another or are in several parts"
        )
    elif tally.merged and not given.get("instances"):
        parts = option("instances", True)
        hint = f"; {parts} writes connected parts, which {told:,} of {tally.annotations:,} annotations are"
        notes.append(
            f"{tally.merged:,} annotations share photo and class with another, and are one mask"
            f"{hint if _takes(to, 'instances') else ''}"
        )
    if tally.background and to in OBJECTS_ONLY and given.get("variant") != "stuff":
        names = labels.vocabulary.names
        lost = f"; {tally.nothing:,} pixels without a label can no longer be told from it" if tally.nothing else ""
        stuff = f"; {option('variant', 'stuff')} keeps it" if to == "coco" else ""
        background = names[labels.vocabulary.background_class or 0]
        notes.append(f"{background!r} is no object, so {to} leaves it out{lost}{stuff}")
    if to != "coco" and labels.entries and (changed := labels.entries.changed):
        notes.append(f"{to} numbers classes by their order: category ids are not kept, such as {changed}")
    return notes
