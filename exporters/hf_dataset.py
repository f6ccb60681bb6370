"""Hugging Face: Parquet shards that `datasets.load_dataset(FOLDER)` and the Hub's viewer read.

    data/train-00000.parquet     path, width, height, image, mask
    README.md                    the dataset's card: class names by pixel value, and the splits
    id2label.json                the names once more, as Transformers takes them

`mask` is a PNG of class indices, 255 where there is no label (of more than 254 classes 16 bits, and 65535). `image` is
the photo's own bytes (--photos copy), its path on this machine (link), or missing (none). Both columns decode to
Pillow images. Instances are not told apart.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import yaml
from PIL import Image

from annotator.batches import BatchWriter
from annotator.decode import decode
from annotator.errors import ImageError
from annotator.files import Draft
from annotator.jpeg import jpeg_bytes
from annotator.run import ImageRecord, RunReader
from annotator.storage import read_bytes
from annotator.wording import are
from exporters.base import ExportSummary, register
from exporters.classes import Classes, classes_of
from exporters.descriptions import about
from exporters.files import json_line, labelled, refuse_other_splits
from exporters.layouts import LAYOUTS, refuse_no_photos
from exporters.mask_png import Coding, coding_of, values_of
from exporters.options import CleanOptions, PhotoOptions, SplitOptions
from exporters.output import OutputFolder, refuse_among_photos
from exporters.pieces import View

GROUP_ROWS, GROUP_BYTES = 100, 2**25
"""What is collected before it is written: a row group, which readers load whole."""
SHARD_BYTES = 2**29
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}
"""As the Hub calls them."""

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class HfDatasetOptions(CleanOptions, SplitOptions, PhotoOptions):
    """As everywhere, but photos may lie in the shards: copy, the default, puts their bytes there; link their path."""

    photos: Literal["link", "copy", "none"] = field(default="copy", metadata=about("photos"))


@register("hf-dataset", HfDatasetOptions, "Hugging Face dataset: photos and masks in Parquet shards")
def export(run: RunReader, out: Path, options: HfDatasetOptions) -> ExportSummary:
    """Streams the run; holds a row group."""
    refuse_no_photos(run, options.photos)
    refuse_among_photos(run, out)
    classes = classes_of(run, options)
    coding = coding_of(classes, LAYOUTS["plain"])
    summary = ExportSummary(out, notes=[*classes.notes])
    refuse_other_splits(path for split in options.unused for path in (out / "data").glob(f"{split}-?????.parquet"))
    folder = OutputFolder(run, out)
    shards = {split: Shards(folder, out / "data", split, _schema(options)) for split in options.splits}
    gone = 0
    try:
        for record in labelled(run, summary, upright=options.photos != "link"):
            row: dict[str, Any] = {"path": record.path, "width": record.width, "height": record.height}
            if options.photos != "none":
                picture = _photo(run.image_root / record.path, record, embed=options.photos == "copy")
                if picture is None:
                    gone += 1
                    continue
                row["image"] = picture
            row["mask"] = {"bytes": _mask(record, classes, coding, options.view), "path": None}
            shards[options.split_of(record.path)].add(row)
            summary.annotations += len(record.segments)
        for each in shards.values():
            each.end()
    except BaseException:
        for each in shards.values():
            each.abandon()
        raise
    for split, each in shards.items():
        for stale in set((out / "data").glob(f"{split}-?????.parquet")) - set(each.finish()):
            stale.unlink()  # a longer export before this one
    _write_tables(folder, out, classes, coding, {split: each.rows for split, each in shards.items()})
    if gone:
        summary.images -= gone
        summary.notes.append(f"{are(gone, 'photo')} left out: no longer in {run.image_root}")
    return summary


class Shards:
    """Rows of one split as `FOLDER/train-00000.parquet` and so on, which get their names when all are whole."""

    def __init__(self, folder: OutputFolder, data: Path, split: str, schema: pa.Schema) -> None:
        self.rows = 0
        self._folder = folder
        self._data = data
        self._split = split
        self._schema = schema
        self._waiting: list[dict[str, Any]] = []
        self._bytes = 0
        self._shards: list[Draft] = []
        self._writer: BatchWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self._waiting.append(row)
        self._bytes += sum(len(cell["bytes"] or b"") for cell in row.values() if isinstance(cell, dict))
        if len(self._waiting) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def end(self) -> None:
        """Writes what is waiting."""
        self._flush()
        self._close()

    def finish(self) -> list[Path]:
        """The shards by their final names, once they have ended."""
        for shard in self._shards:
            shard.publish()
        return [shard.path for shard in self._shards]

    def abandon(self) -> None:
        with suppress(OSError):  # of a full disk, for one, which brought us here
            self._close()
        for shard in self._shards:
            shard.discard()

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            path = self._data / f"{self._split}-{len(self._shards):05d}.parquet"
            self._shards.append(self._folder.draft(path))
            self._writer = BatchWriter(self._shards[-1].file, self._schema)
        self._writer.write(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting, self._bytes = [], 0
        if self._shards[-1].file.tell() >= SHARD_BYTES:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._shards[-1].close()


def _schema(options: HfDatasetOptions) -> pa.Schema:
    """With the features as `datasets` keeps them, so that pictures come back as pictures."""
    numbers = {"width": "int32", "height": "int32"}
    pictures = ["mask"] if options.photos == "none" else ["image", "mask"]
    features = {
        "path": {"dtype": "string", "_type": "Value"},
        **{name: {"dtype": kind, "_type": "Value"} for name, kind in numbers.items()},
        **{name: {"_type": "Image"} for name in pictures},
    }
    fields = [("path", pa.string()), ("width", pa.int32()), ("height", pa.int32())]
    return pa.schema(
        [*fields, *((name, PICTURE) for name in pictures)],
        metadata={"huggingface": json_line({"info": {"features": features}})},
    )


def _photo(path: Path, record: ImageRecord, *, embed: bool) -> dict[str, Any] | None:
    """None where it is gone. A photo that EXIF turns is embedded upright."""
    try:
        if not embed:
            return {"bytes": None, "path": str(path.resolve(strict=True))}
        if record.orientation <= 1:
            return {"bytes": read_bytes(path), "path": path.name}
        photo = decode(path, max_pixels=record.width * record.height)
        return {"bytes": jpeg_bytes(Image.fromarray(photo.pixels), quality=95, subsampling=0), "path": path.name}
    except (ImageError, FileNotFoundError):
        return None


def _mask(record: ImageRecord, classes: Classes, coding: Coding, view: View) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values_of(record, classes, coding, view)).save(buffer, "PNG")
    return buffer.getvalue()


def _write_tables(folder: OutputFolder, out: Path, classes: Classes, coding: Coding, rows: dict[str, int]) -> None:
    names = json_line(dict(enumerate(classes.names)))
    files = [{"split": SPLIT_NAMES[split], "path": f"data/{split}-*.parquet"} for split in rows if rows[split]]
    card = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]}, sort_keys=False)
    folder.write_text(out / "id2label.json", names + "\n")
    folder.write_text(
        out / "README.md",
        f"---\n{card}---\n\n"
        f"`mask` holds a class index per pixel; {coding.nothing} is a pixel without a label.\n\n"
        f"```json\n{names}\n```\n",
    )
