"""Whose fault it is that a photo could not be labelled: its own, or that of what labels it.

A fault of the photo is recorded with it. A fault of the device, of a pool of processes or of a disk ends the labelling
and leaves the photos open. Where a single failure does not tell, many in a row do.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field

from annotator.blame import OF_A_DISK
from annotator.errors import BrokenError, ImageError, UnclearError
from annotator.models.devices import is_broken_device, may_be_broken_device
from annotator.run import ImageRecord

IN_A_ROW = 32
"""So many failures one after the other are no accident: even where half of all photos fail, they are 1 in 4 billion."""
REASON_LENGTH = 500


def describe(error: BaseException) -> str:
    """An error in one line, with its kind."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:REASON_LENGTH]


def stop_if_broken(error: Exception) -> None:
    """Raises `BrokenError` where a labeler failed for a reason that no photo can have."""
    if is_broken_device(error):
        raise BrokenError(
            f"the device is broken ({describe(error)}); the photos under way are left open, and the same command goes "
            "on when the device works again"
        ) from None
    if isinstance(error, BrokenExecutor):
        raise BrokenError(f"processes or threads that labelled have ended ({describe(error)})") from None
    if isinstance(error, OSError) and error.errno in OF_A_DISK:
        place = error.filename2 or error.filename or "the labeler"
        raise BrokenError(f"{place}: {error.strerror}; the photos under way are left open") from None


def stop_if_all_are_broken(errors: list[Exception]) -> None:
    """The same for photos that failed together and then each alone, for a reason that one photo may have."""
    if len(errors) > 1 and all(map(may_be_broken_device, errors)):
        raise BrokenError(
            f"the device seems broken: each of {len(errors)} photos failed ({describe(errors[-1])}); they are left "
            "open, and the same command goes on when the device works again"
        )


def is_unclear(answer: object) -> bool:
    """Whether what came of a photo is a failure that may not be its own: of labelling, or of reading the file."""
    return isinstance(answer, UnclearError) or (isinstance(answer, Exception) and not isinstance(answer, ImageError))


@dataclass
class FailuresInARow:
    """Holds back the records of photos that failed one after the other for reasons that may not be their own.

    most: after so many the labelling ends, and those that are held are left open; None: never.
    """

    most: int | None = IN_A_ROW
    _count: int = 0
    _held: list[ImageRecord] = field(default_factory=list)

    def pass_on(self, record: ImageRecord, unclear: bool) -> list[ImageRecord]:
        """What may be written, now that this record is known: photos that failed, when one after them did not.

        unclear: the photo failed for a reason that may not be its own.
        """
        if record.status == "ok":
            self._count = 0
            return [*self.rest(), record]
        if not unclear or self.most is None:
            return [record]
        self._count += 1
        self._held.append(record)
        if self._count >= self.most:
            raise BrokenError(self._complaint(record))
        return []

    def rest(self) -> list[ImageRecord]:
        """What is still held when there are no more photos."""
        held, self._held = self._held, []
        return held

    def _complaint(self, last: ImageRecord) -> str:
        recorded = self._count - len(self._held)
        others = f"; {recorded} of them are recorded as failed, --retry-failed tries these again" if recorded else ""
        return (
            f"{self._count} photos in a row failed, so that more is wrong than with photos; the last one: "
            f"{last.path!r}: {last.error}; they are left open{others}; mend it and give the same command, or record "
            "such photos as failed with --max-failure-rate 1"
        )
