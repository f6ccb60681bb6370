"""Several devices of one machine as one labeler."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from annotator.prediction import Prediction
from annotator.vocabulary import Vocabulary

if TYPE_CHECKING:
    from labelers.base import Image, Labeler, Size


class Team:
    """Labelers of one method with the same weights, each on its own device; every batch is divided among them.

    Which of them labels a photo changes no mask, as the size of a batch does not.
    """

    def __init__(self, members: Sequence[Labeler]) -> None:
        self.spec = members[0].spec
        self._members = tuple(members)
        self._threads = ThreadPoolExecutor(len(members), thread_name_prefix="label")

    @property
    def working_side(self) -> int | None:
        return self._members[0].working_side

    def prepare(self, vocabulary: Vocabulary | None) -> None:
        for member in self._members:  # one by one: the first leaves the class names' embeddings in the cache
            member.prepare(vocabulary)

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        sizes = sizes if sizes is not None else [image.shape[:2] for image in images]
        starts = [len(images) * index // len(self._members) for index in range(len(self._members) + 1)]
        shares = [
            self._threads.submit(member.label, images[start:end], sizes[start:end])
            for member, start, end in zip(self._members, starts, starts[1:], strict=False)
            if end > start
        ]
        wait(shares)  # an error of one must not leave another at work while it is asked again
        return [prediction for share in shares for prediction in share.result()]
