"""What labelled photos, for the parts that hold them: masks may differ in a few pixels from device to device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version

import pyarrow as pa

from annotator.manifest import Manifest

KEY = "made_with"
"""In a part's metadata."""


def maker(devices: Iterable[str], tool_version: str = "") -> str:
    """The tool's version, today's where none is given, and the kind of device: its number does not count."""
    kinds = sorted({device.partition(":")[0] for device in devices})
    return f"annotate {tool_version or version('annotate')} on {', '.join(kinds)}"


def maker_in(manifest: Manifest) -> str:
    """What labelled last, as run.json says."""
    return maker(str(manifest.execution.get("device", "an unknown device")).split(","), manifest.tool_version)


def maker_of(rows: pa.Table) -> str:
    """As the part says it that the rows were read from; "" for one of an older version."""
    said: str = (rows.schema.metadata or {}).get(KEY.encode(), b"").decode(errors="replace")
    return said


def photos_by_maker(tables: Iterable[pa.Table]) -> Counter[str]:
    """Of rows from several parts, a table of each; without those whose part does not say."""
    photos: Counter[str] = Counter()
    for rows in tables:
        photos[maker_of(rows)] += rows.num_rows
    del photos[""]
    return +photos
