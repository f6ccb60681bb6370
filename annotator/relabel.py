"""A run's free-text labels mapped to a vocabulary, as a run of its own.

Every segment takes the class that TT or ST finds for it (`evaluation.reassign`) where its cosine reaches the
threshold; the others become nothing. Segments of one photo with one class become one. The new run says where it
comes from, and beside its parts lies `mapping.csv`: what became of every segment, and how near it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotator.blame import blaming
from annotator.csv_cells import row_writer
from annotator.errors import ConfigError
from annotator.files import replacing_text
from annotator.identity import config_hash
from annotator.limits import SHARE
from annotator.photo_changes import Changed, unchanged
from annotator.prediction import NOTHING, Prediction
from annotator.run import ImageRecord, Manifest, RunReader, RunWriter
from annotator.spelling import option
from annotator.storage import is_remote, place
from annotator.vocabulary import Vocabulary
from evaluation.reassign import THRESHOLDS, By, TextNetworks, assigner

MAPPING_FILE = "mapping.csv"
MAPPING_COLUMNS = ("path", "segment", "label", "class", "similarity", "kept")


@dataclass(frozen=True)
class Relabelled:
    """What was done: segments of the origin, and how many of them kept a class; `changed` photos are left out."""

    run: RunReader
    segments: int
    kept: int
    changed: Changed


def relabel(
    run: RunReader,
    vocabulary: Vocabulary,
    by: By,
    out: str | Path,
    networks: TextNetworks,
    *,
    threshold: float | None = None,
    overwrite: bool = False,
) -> Relabelled:
    """Writes the new run, a photo in memory at a time. Called again after an interruption it goes on, and takes in what
    the origin has labelled again since then.

    threshold: cosine from which on a class holds; the paper's where None, 0.1 for st and 0.5 for tt.
    networks:  what holds the CLIP that made the run (st) or a sentence encoder (tt).
    """
    out = place(out)
    if is_remote(out):
        raise ConfigError(f"{out}: expected a folder of this machine for {MAPPING_FILE} and the new run, but got a URL")
    if out.resolve() == run.directory.resolve():
        raise ConfigError(f"{out}: expected another folder than the run's own; choose another --out")
    limit = THRESHOLDS[by] if threshold is None else threshold
    SHARE.check(limit, option("threshold"))
    assign = assigner(by, run, vocabulary, networks)  # loads the networks, which the manifest then names
    manifest = _manifest(run, vocabulary, by, limit, networks)
    segments = kept = 0
    counts: Counter[str] = Counter()
    with blaming(out), RunWriter.open(out, manifest, overwrite=overwrite) as writer, _mapping(out) as write_row:
        manifest.state = "interrupted"
        changed = Changed()
        stale = _stale(run, RunReader(out))
        writer.drop(stale)
        for record in unchanged(run, changed):
            found = assign(record)
            classes = found.verified(limit)
            for index, segment in enumerate(record.segments):
                chosen = found.classes[index]
                name = vocabulary.names[chosen] if chosen != NOTHING else ""
                similarity = f"{found.similarities[index]:.4f}"
                write_row((record.path, index, segment.label, name, similarity, int(classes[index] != NOTHING)))
            segments += len(classes)
            kept += int((classes != NOTHING).sum())
            counts[record.status] += 1
            if record.path in stale or not writer.finished.has(record.path, record.bytes, record.mtime):
                writer.write(_relabelled(record, classes, vocabulary))
        manifest.state = "complete" if run.manifest.state == "complete" and not changed.count else "partial"
        manifest.counts = {"photos": counts.total(), "ok": counts["ok"], "failed": counts["failed"]}
    return Relabelled(RunReader(out), segments, kept, changed)


def _stale(origin: RunReader, relabelled: RunReader) -> set[str]:
    """Photos whose relabelled row was not made from the origin's row of today: they were tried or labelled again, have
    changed, or are no longer in the origin. What is no label goes over into the relabelled row as it is."""
    today = unchanged(origin, Changed(), origin.records(segments=False))
    record = next(today, None)
    stale = set()
    for row in relabelled.records(segments=False):
        while record is not None and record.path < row.path:
            record = next(today, None)
        if record != row:
            stale.add(row.path)
    return stale


def _manifest(run: RunReader, vocabulary: Vocabulary, by: By, threshold: float, networks: TextNetworks) -> Manifest:
    """The origin's, with what was done to it; where the origin lies does not decide a label."""
    origin = run.manifest
    used = networks.used()
    decisive: dict[str, Any] = {
        "by": by,
        "threshold": threshold,
        "vocabulary": vocabulary.fingerprint(),
        "weights": {slot: file["sha256"] for slot, file in used.items()},
        "origin": origin.config_hash,
    }
    return replace(
        origin,
        config={**decisive, "origin": {"run": str(run.directory.resolve()), "config": origin.config}},
        config_hash=config_hash(decisive),
        vocabulary=vocabulary.to_dict(),
        pack={**origin.pack, "relabelled_with": {"name": networks.pack, "roles": used}},
        counts={},
        timings={},
        state="running",
    )


def _relabelled(record: ImageRecord, classes: NDArray[np.int32], vocabulary: Vocabulary) -> ImageRecord:
    """The photo with a segment per class; its score is the mean over pixels of those that it is made of."""
    present = [index for index in np.unique(classes).tolist() if index != NOTHING]
    areas = np.array([segment.area for segment in record.segments], dtype=np.float64)
    scores = np.array([segment.score for segment in record.segments], dtype=np.float64)
    label_of_class = {index: label for label, index in enumerate(present)}
    label_of_segment = [label_of_class.get(index, NOTHING) for index in classes.tolist()]
    lookup = np.array([*label_of_segment, NOTHING], dtype=np.int32)  # the last one for pixels without a segment
    prediction = Prediction(
        lookup[record.prediction().label_map],
        tuple(vocabulary.names[index] for index in present),
        tuple(present),
        tuple(float(np.average(scores[classes == index], weights=areas[classes == index])) for index in present),
    )
    return replace(record, segments=tuple(prediction.segments()), history=None)


@contextmanager
def _mapping(folder: Path) -> Iterator[Callable[[Sequence[object]], object]]:
    """Writes rows; the file appears when all of them are there. A resumed run writes it anew, which costs little."""
    (folder / MAPPING_FILE).unlink(missing_ok=True)  # an older one would not be of these parts
    with replacing_text(folder / MAPPING_FILE, durable=True) as file:
        write = row_writer(file)
        write(MAPPING_COLUMNS)
        yield write
