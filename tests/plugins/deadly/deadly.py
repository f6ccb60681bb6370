"""A third party's labeler that some photos kill: the process ends at a photo whose first pixel is pure red."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bands import _ByBrightness

from annotator.models.packs import Networks
from annotator.prediction import Prediction
from annotator.vocabulary import Vocabulary
from labelers.base import Image, LabelerSpec, Size, register

DEADLY = (255, 0, 0)
DEADLY_ONCE = (255, 255, 0)


@dataclass(frozen=True)
class DeadlyParameters:
    """diary: a folder with a file per process that labelled, named by its id, and one per death, `death-ID`. Files in
    it say what happens: `no-memory`: no memory is left. `no-labeler`: none can be prepared. `break`: the device of the
    first process that labels is broken, or where it holds `all`, every device. `together`: nothing is labelled before
    there are as many processes as it says.
    seconds: how long a photo takes."""

    diary: str
    seconds: float = 0.0
    tints: tuple[float, ...] = (0.25, 0.5, 0.25)


@register(LabelerSpec("deadly", needs_vocabulary=True, paper="none", roles=()), DeadlyParameters)
class Deadly(_ByBrightness):
    """As `bands` where a photo kills nothing."""

    def __init__(self, networks: Networks, parameters: DeadlyParameters) -> None:
        super().__init__(networks, parameters)  # type: ignore[arg-type]
        self._diary = Path(parameters.diary)

    def prepare(self, vocabulary: Vocabulary | None) -> None:
        if (self._diary / "no-memory").exists():
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")
        if (self._diary / "no-labeler").exists():
            raise KeyError("of a\nthird party")
        super().prepare(vocabulary)

    def label(self, images: Sequence[Image], sizes: Sequence[Size] | None = None) -> list[Prediction]:
        (self._diary / str(os.getpid())).touch()
        while not self._all_are_there():
            time.sleep(0.02)
        if self._is_broken():
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors")
        for image in images:
            first = tuple(np.asarray(image)[0, 0].tolist())
            if first == DEADLY:
                self._die(signal.SIGKILL)
            if first == DEADLY_ONCE and not (self._diary / "once").exists():
                (self._diary / "once").touch()
                self._die(signal.SIGSEGV)
        time.sleep(self.parameters.seconds * len(images))
        return [self._label(image) for image in images]

    def _all_are_there(self) -> bool:
        wanted = self._diary / "together"
        there = sum(file.name.isdigit() for file in self._diary.iterdir())
        return not wanted.exists() or there >= int(wanted.read_text())

    def _is_broken(self) -> bool:
        if not (self._diary / "break").exists():
            return False
        with contextlib.suppress(FileExistsError), (self._diary / "broken").open("x") as file:
            file.write(str(os.getpid()))
        return (self._diary / "break").read_text() == "all" or (self._diary / "broken").read_text() == str(os.getpid())

    def _die(self, by: signal.Signals) -> None:
        (self._diary / f"death-{os.getpid()}").touch()
        os.kill(os.getpid(), by)
        time.sleep(60)
