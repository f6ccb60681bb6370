"""annotate: a folder of photos in, pixel masks out, no human labels.

    from annotator import annotate

    run = annotate("photos/", labeler="dinoiser", vocab=["background", "dog", "cat"], out="runs/pets")
    for record in run.records():
        print(record.path, [(segment.label, segment.area) for segment in record.segments])

The whole public interface is here. Names are imported when they are first used, so that the command line and
the decoding processes start at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annotator.errors import AnnotatorError
    from annotator.prediction import Prediction, Segment
    from annotator.run import ImageRecord, RunReader, open_run
    from annotator.vocabulary import Vocabulary
    from labelers.base import Labeler

__all__ = [
    "AnnotatorError",
    "ImageRecord",
    "Prediction",
    "RunReader",
    "Segment",
    "Vocabulary",
    "annotate",
    "load_labeler",
    "open_run",
]

_HOMES = {
    "AnnotatorError": "annotator.errors",
    "ImageRecord": "annotator.run",
    "Prediction": "annotator.prediction",
    "RunReader": "annotator.run",
    "Segment": "annotator.prediction",
    "Vocabulary": "annotator.vocabulary",
    "open_run": "annotator.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'annotator' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def annotate(
    images: str | Path | Sequence[str | Path],
    labeler: str = "dinoiser",
    vocab: Vocabulary | str | Path | Sequence[str] | None = None,
    pack: str = "auto",
    out: str | Path | None = None,
    *,
    settings: dict[str, Any] | None = None,
    report: Callable[[ImageRecord], None] = lambda record: None,
    **options: Any,
) -> RunReader:
    """Labels photos and returns the run; calling it again resumes.

    images:   folder, glob, list file, photo, or a sequence of photos.
    vocab:    class names (synonyms after commas), a file of them, or a Vocabulary.
    settings: the labeler's own, as in configs/labelers/NAME.yaml.
    report:   called with each photo's record as it is written.
    options:  any other field of `annotator.config.RunConfig`: device, batch_size, limit, overwrite, ...
    """
    from annotator import pipeline
    from annotator.config import RunConfig
    from annotator.run import open_run

    given = {"labeler": labeler, "pack": pack, "out": str(out) if out else None, "settings": settings, **options}
    job = pipeline.prepare(RunConfig.load(None, given), vocab, images)
    return open_run(pipeline.run(job, report).directory)


def load_labeler(
    name: str, pack: str = "auto", *, device: str = "auto", precision: str = "auto", **settings: Any
) -> Labeler:
    """A labeler for arrays in memory: `prepare(vocabulary)` once, then `label([H x W x 3 uint8, ...])`.

    settings: the labeler's own, as in configs/labelers/NAME.yaml.
    """
    from annotator.models.packs import open_networks
    from labelers import base

    spec = base.find(name).spec
    return base.build(name, open_networks(pack, spec, device, precision), settings)
