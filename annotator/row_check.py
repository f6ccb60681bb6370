"""What the rows of a part must be before anybody believes them: whoever wrote the file, a path leads to a place inside
the photos' folder, and masks, boxes and sizes fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotator.inner_paths import each_leads_out
from annotator.record import ROW
from annotator.run_lengths import totals

MOST_PIXELS = 2**31 - 1
"""Of a photo: pycocotools counts in 32 bits."""
AT_ONCE = 2**15
"""Bytes of run lengths that are looked at together."""
YOUNGER = {"history", "embedding", "checksum"}
"""Columns and fields that rows of older versions lack."""

Wrong = NDArray[np.bool_]


def refuse_other_columns(schema: pa.Schema, columns: Sequence[str] = ROW.names, expected: pa.Schema = ROW) -> None:
    """Raises ValueError where these are not there, or not of the types that a part's have, or those expected.

    columns: as `parts.read_columns` takes them; `segments.list.element.area` names one inside the segments.
    """
    for column in columns:
        name, *below = column.split(".")
        if name in schema.names:
            _refuse_other_type(expected.field(name), schema.field(name), below[-1:])
        elif name not in YOUNGER:
            raise ValueError(f"expected a column {name!r}, but there is none")


def refuse_nonsense(rows: pa.Table, classes: int | None = None) -> None:
    """Raises ValueError, with the photo's path where it has one, for the first kind of fault that any row has.

    rows:    some columns of a part, of the right types. What takes several columns is looked at where all are there.
    classes: how many the run's vocabulary has, where that is known.
    """
    for wrong, what in _faults(rows, np.iinfo(np.int32).max if classes is None else classes - 1):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            path = rows["path"][row].as_py() if "path" in rows.column_names else None
            raise ValueError(f"row {row + 1}{'' if path is None else f', {path!r}'}: {what}")


def _refuse_other_type(expected: pa.Field, found: pa.Field, only: Sequence[str] = ()) -> None:
    """only: the fields of a segment that must be there, where not all need be."""
    if pa.types.is_list(expected.type) and pa.types.is_list(found.type) and pa.types.is_struct(found.type.value_type):
        fields = {field.name: field for field in found.type.value_type}
        all_but_younger = {field.name for field in expected.type.value_type} - YOUNGER
        for field in expected.type.value_type:
            if field.name in fields:
                _refuse_other_type(field, fields[field.name])
            elif field.name in (only or all_but_younger):
                raise ValueError(f"expected segments with a {field.name!r}, but they have none")
    elif expected.type != found.type:
        raise ValueError(f"expected {expected.name!r} to be of type {expected.type}, but it is {found.type}")


def _faults(rows: pa.Table, last_class: int) -> Iterator[tuple[Wrong, str]]:
    """Per row whether it is wrong, and what is wrong."""
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    for name, column in columns.items():
        if name not in ("segments", "history", "checksum"):
            yield _true(column.is_null()), f"{name} is missing"
    if "path" in columns:
        yield _true(each_leads_out(columns["path"])), "the path does not lead to a place inside the photos' folder"
    if "status" in columns:
        yield ~_true(pc.is_in(columns["status"], pa.array(["ok", "failed"]))), "status is neither ok nor failed"
    if {"width", "height"} <= columns.keys():
        is_ok = _true(pc.equal(columns["status"], "ok")) if "status" in columns else np.ones(len(rows), np.bool_)
        width, height = (columns[name].to_numpy(zero_copy_only=False).astype(np.int64) for name in ("width", "height"))
        pixels = width * height
        yield is_ok & ((width < 1) | (height < 1) | (pixels > MOST_PIXELS)), "no photo has this size"
        if "segments" in columns:
            yield from _segment_faults(columns["segments"], last_class, width, height)
    elif "segments" in columns:
        yield from _segment_faults(columns["segments"], last_class)


def _segment_faults(
    column: pa.ListArray,
    last_class: int,
    width: NDArray[np.int64] | None = None,
    height: NDArray[np.int64] | None = None,
) -> Iterator[tuple[Wrong, str]]:
    segments = column.flatten()
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    row_of = np.repeat(np.arange(len(column)), counts)

    def rows(wrong: Wrong) -> Wrong:
        found = np.zeros(len(column), np.bool_)
        found[row_of[wrong]] = True
        return found

    yield rows(_true(segments.is_null())), "a segment is missing"
    fields = {field.name: segments.field(field.name) for field in segments.type}
    for name, values in fields.items():
        if name != "embedding":
            yield rows(_true(values.is_null())), f"a segment's {name} is missing"
    if "embedding" in fields:
        lengths = pc.fill_null(pc.binary_length(fields["embedding"]), 2).to_numpy(zero_copy_only=False)
        yield rows((lengths % 2 != 0) | (lengths == 0)), "a segment's embedding is cut off"
    if "class_id" in fields:
        class_ids = fields["class_id"].to_numpy()
        yield rows((class_ids < -1) | (class_ids > last_class)), "a segment's class_id is no class"
    if "area" in fields:
        yield rows(fields["area"].to_numpy() < 1), "a segment has no area"
    if width is None or height is None or not {"rle", "area", "bbox"} <= fields.keys():
        return
    boxes = fields["bbox"].flatten()
    yield rows(np.asarray(_true(boxes.is_null()).reshape(-1, 4).any(axis=1))), "a segment's bbox is missing"
    x, y, across, down = boxes.to_numpy().astype(np.int64).reshape(-1, 4).T
    inside = (x >= 0) & (y >= 0) & (across > 0) & (down > 0)
    inside &= (x + across <= width[row_of]) & (y + down <= height[row_of])
    yield rows(~inside), "a segment's bbox is not inside"
    pixels, area = _run_totals(fields["rle"])
    yield rows(pixels != (width * height)[row_of]), "a segment's run lengths are not those of a photo of this size"
    yield rows(area != fields["area"].to_numpy()), "a segment's area is not that of its run lengths"


def _run_totals(strings: pa.BinaryArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each string all pixels, -1 where it is none, and those of the mask; worked out for some at a time."""
    all_pixels, all_area = np.zeros(len(strings), np.int64), np.zeros(len(strings), np.int64)
    bounds = np.frombuffer(strings.buffers()[1], np.int32).astype(np.int64)
    bounds = bounds[strings.offset : strings.offset + len(strings) + 1]
    data = np.frombuffer(strings.buffers()[2] or b"", np.uint8)
    first = 0
    while first < len(strings):
        beyond = int(np.searchsorted(bounds, bounds[first] + AT_ONCE, side="right"))
        last = min(max(beyond - 1, first + 1), len(strings))
        found = totals(data, bounds[first : last + 1])
        all_pixels[first:last] = np.where(found.whole, found.pixels, -1)
        all_area[first:last] = found.area
        first = last
    return all_pixels, all_area


def _true(values: pa.BooleanArray) -> Wrong:
    """Unknown is not true."""
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=np.bool_)
