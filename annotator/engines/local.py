"""The local engine: this process labels, worker processes decode, a thread encodes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from annotator.engines.decoding import Decoded, DecodePool
from annotator.engines.faults import (
    REASON_LENGTH,
    FailuresInARow,
    describe,
    is_unclear,
    stop_if_all_are_broken,
    stop_if_broken,
)
from annotator.errors import BrokenError
from annotator.images import ImageRef, Photo
from annotator.models.devices import is_out_of_memory
from annotator.prediction import Prediction
from annotator.run import ImageRecord
from annotator.stages import staged

if TYPE_CHECKING:
    from labelers.base import Labeler


def execute(
    refs: Iterable[ImageRef],
    labeler: Labeler,
    pool: DecodePool,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
    need_less: Callable[[], bool] = lambda: False,
    failures: FailuresInARow | None = None,
) -> Iterator[ImageRecord]:
    """decode -> label -> encode; one record per photo in the order of `refs`.

    Photos that failed one after the other come late: when it is known that nothing is broken. Where something is, a
    `BrokenError` ends it, and neither these nor the photos under way come at all.

    While one batch is labelled, the next is being decoded and the last is being encoded; nothing else is held.

    should_stop: is asked before each batch.
    need_less:   called when memory ran out; makes the labeler need less and says whether it could.
    failures:    counts failures in a row over several calls.
    """
    failures = failures if failures is not None else FailuresInARow()
    decoded = pool.decode(refs)
    encoding: deque[tuple[Future[ImageRecord], bool]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder:
        while not should_stop() and (batch := list(islice(decoded, batch_size))):
            labelled = _label(batch, labeler, need_less)
            while encoding:
                yield from failures.pass_on(*_next(encoding))
            while labelled:  # which must not hold a label map longer than its encoding takes
                unclear = is_unclear(labelled[0][2])
                encoding.append((encoder.submit(_record, *labelled.pop(0)), unclear))
        while encoding:
            yield from failures.pass_on(*_next(encoding))
        yield from failures.rest()


Labelled = tuple[ImageRef, Photo | None, Prediction | Exception, float]


@staged("waiting for RLE")
def _next(encoding: deque[tuple[Future[ImageRecord], bool]]) -> tuple[ImageRecord, bool]:
    """The next record, and whether it is of a failure that may not be the photo's own."""
    future, unclear = encoding.popleft()
    return future.result(), unclear


@staged("rest of labelling")
def _label(batch: list[Decoded], labeler: Labeler, need_less: Callable[[], bool]) -> list[Labelled]:
    """Each photo of the batch with its prediction, or with what went wrong, and its share of the time."""
    photos = [photo for _, photo in batch if isinstance(photo, Photo)]
    begun = time.perf_counter()
    answers: list[Prediction] | Exception = _ask(photos, labeler) if photos else []
    while isinstance(answers, Exception) and is_out_of_memory(answers) and need_less():
        answers = _ask(photos, labeler)
    each: list[Prediction | Exception]
    if isinstance(answers, Exception):  # a bad photo must fail alone: find out which one it is
        alone = [_ask([photo], labeler) for photo in photos]
        if len(errors := [answer for answer in alone if isinstance(answer, Exception)]) == len(photos):
            stop_if_all_are_broken(errors)
        each = [answer if isinstance(answer, Exception) else answer[0] for answer in alone]
    else:
        each = [*answers]
    seconds = (time.perf_counter() - begun) / max(len(photos), 1)
    remaining = iter(each)
    return [
        (ref, photo, next(remaining), seconds) if isinstance(photo, Photo) else (ref, None, photo, 0.0)
        for ref, photo in batch
    ]


def _ask(photos: list[Photo], labeler: Labeler) -> list[Prediction] | Exception:
    """The labeler's answer, or its error without a traceback, whose frames would keep a device's memory in use."""
    sizes = [(photo.height, photo.width) for photo in photos]
    try:
        predictions = labeler.label([photo.pixels for photo in photos], sizes)
        found = [prediction.size for prediction in predictions]
        if found != sizes:
            raise ValueError(f"Expected predictions of sizes {sizes}, but the labeler gave {found}")
        return predictions
    except BrokenError:
        raise
    except Exception as error:
        stop_if_broken(error)
        return error.with_traceback(None)


@staged("RLE")
def _record(ref: ImageRef, photo: Photo | None, answer: Prediction | Exception, seconds: float) -> ImageRecord:
    if photo is None:
        return ImageRecord(ref.path, "failed", error=str(answer))
    record = ImageRecord(
        path=ref.path,
        status="ok",
        bytes=photo.bytes,
        mtime=photo.mtime,
        width=photo.width,
        height=photo.height,
        orientation=photo.orientation,
        seconds=seconds,
    )
    if isinstance(answer, Prediction):
        return replace(record, segments=tuple(answer.segments()), history=answer.history)
    return replace(record, status="failed", error=f"labelling failed: {describe(answer)}"[:REASON_LENGTH])
