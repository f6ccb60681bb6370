"""A digest of every column of a table, by its values alone: the same before it is written and after it is read.

Parquet's page checksums miss what is damaged outside of pages, such as the lengths and encodings in its footer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BYTES = 12


def digests_of(table: pa.Table) -> dict[str, str]:
    """By name; `segments.area` is one inside the segments, and `segments[]` how many there are in each row."""
    found: dict[str, str] = {}
    for name in table.column_names:
        column = table[name]
        found.update(_digests(name, column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()))
    return found


def not_as_written(table: pa.Table, told: Mapping[str, str], columns: Sequence[str] | None = None) -> list[str]:
    """Names of the digests that differ, or whose column is not there although it was asked for.

    columns: what was asked for of a file, as Parquet names it (`segments.list.element.area`); all where it is None.
    """
    found = digests_of(table)
    asked = None if columns is None else {name.replace(".list.element", "") for name in columns}

    def is_asked_for(name: str) -> bool:
        ways = name.removesuffix("[]").split(".")
        return asked is None or any(".".join(ways[: end + 1]) in asked for end in range(len(ways)))

    names = [*found, *(name for name in told if name not in found and is_asked_for(name))]
    return [name for name in names if found.get(name) != told.get(name)]


def _digests(name: str, values: pa.Array) -> Iterator[tuple[str, str]]:
    if pa.types.is_list(values.type):
        yield f"{name}[]", _digest(pc.list_value_length(values))
        yield from _digests(name, values.flatten())
    elif pa.types.is_struct(values.type):
        for field in values.type:
            yield from _digests(f"{name}.{field.name}", values.field(field.name))
    elif pa.types.is_fixed_size_list(values.type):
        yield from _digests(name, values.flatten())
    else:
        yield name, _digest(values)


def _digest(values: pa.Array) -> str:
    found = hashlib.blake2b(digest_size=BYTES)
    found.update(np.packbits(values.is_null().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_binary(values.type) or pa.types.is_string(values.type):
        lengths = pc.fill_null(pc.binary_length(values), 0).to_numpy(zero_copy_only=False)
        found.update(lengths.astype("<i4").tobytes())
        for piece in _bytes_of(values):
            found.update(piece)
    else:
        values = values.cast(pa.uint8()) if pa.types.is_boolean(values.type) else values
        values = pc.fill_null(values, 0) if values.null_count else values
        found.update(values.to_numpy(zero_copy_only=False).tobytes())
    return found.hexdigest()


def _bytes_of(values: pa.Array) -> Iterator[memoryview]:
    """All of them in a row; what lies under a null is left out."""
    values = values.drop_null() if values.null_count else values
    _, bounds, data = values.buffers()
    if data is not None and len(values):
        ends = np.frombuffer(bounds, np.int32)[[values.offset, values.offset + len(values)]]
        yield memoryview(data)[ends[0] : ends[1]]
