"""Our own Hugging Face export: Parquet shards with a mask PNG per row, and an id2label.json that names the values.

The photos in its shards are left there; `--images` says where they are as files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from annotator.batches import read_batches
from annotator.errors import ConfigError
from annotator.imported.labels import Labels, Measured, Tally, measure, record_of, refuse_bomb, refuse_outside
from annotator.imported.masks import Values, indices_of, values_of
from annotator.parts import UNREADABLE
from annotator.record import ImageRecord
from annotator.wording import one_line

COLUMNS: dict[str, Callable[[pa.DataType], bool]] = {
    "path": pa.types.is_string,
    "width": pa.types.is_integer,
    "height": pa.types.is_integer,
    "mask": lambda kind: pa.types.is_struct(kind) and {field.name for field in kind} >= {"bytes"},
}
BATCH = 16


def shards_of(folder: Path) -> list[Path]:
    """None where it is no such export."""
    return sorted((folder / "data").glob("*-?????.parquet"))


def parquet_labels(folder: Path, images: Path | None, classes_file: Path | None) -> Labels:
    """images: folder of the photos."""
    values, tally = values_of(folder, classes_file), Tally()
    root = (images or folder).resolve()
    return Labels(folder, root, values.vocabulary, partial(_records, folder, images, values, tally), tally)


def _records(folder: Path, images: Path | None, values: Values, tally: Tally) -> Iterator[ImageRecord]:
    seen: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="annotate-mask-") as scratch:
        for shard in shards_of(folder):
            for row in _rows(shard):
                path, size = row["path"], (row["height"], row["width"])
                refuse_outside(shard, path)
                refuse_bomb(f"{shard}: {path}", size)
                if path in seen:
                    raise ConfigError(f"{shard}: expected every photo once, but {path!r} comes again; remove one")
                seen.add(path)
                photo = Measured(size[1], size[0]) if images is None else measure(images, path)
                mask = Path(scratch) / "mask.png"
                mask.write_bytes(row["mask"]["bytes"])
                yield record_of(path, indices_of(mask, photo.size, values), values.vocabulary, photo, tally)


def _rows(shard: Path) -> Iterator[dict]:
    try:
        with pq.ParquetFile(shard, page_checksum_verification=True) as file:
            if missing := set(COLUMNS).difference(file.schema_arrow.names):
                raise ConfigError(
                    f"{shard}: expected the columns {', '.join(COLUMNS)}, as an export to hf-dataset has them, but "
                    f"{min(missing)} is missing"
                )
            for name, fits in COLUMNS.items():
                if not fits(found := file.schema_arrow.field(name).type):
                    raise ConfigError(f"{shard}: expected {name} as an export to hf-dataset has it, but it is {found}")
            for batch in read_batches(file, BATCH, list(COLUMNS)):
                for row in batch.to_pylist():
                    if None in row.values() or row["mask"]["bytes"] is None:
                        raise ConfigError(f"{shard}: expected photos with size and mask, but {row['path']!r} lacks one")
                    yield row
    except UNREADABLE as error:
        raise ConfigError(f"{shard}: cannot be read ({one_line(error)})") from None
