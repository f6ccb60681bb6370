"""A process that decodes photos for another one, over its standard input and output.

A request is a pickled (path, working_side, max_pixels). A byte says that it was taken: of what comes later the photo
is suspected, of what comes before it is not. The answer is a pickled photo without its pixels, or the error, and then
the pixels raw. End of input ends the process, so workers never outlive the program they serve, however that ends.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
from typing import IO

import numpy as np

from annotator.errors import ImageError
from annotator.images import Photo, decode

TAKEN = b"t"
NO_PIXELS = np.zeros((0, 0, 3), dtype=np.uint8)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    while True:
        try:
            path, working_side, max_pixels = pickle.load(requests)
        except EOFError:
            return
        answers.write(TAKEN)
        answers.flush()
        try:
            photo = decode(path, working_side=working_side, max_pixels=max_pixels)
        except ImageError as error:
            pickle.dump(error.with_traceback(None), answers)
        else:
            pixels = np.ascontiguousarray(photo.pixels)
            pickle.dump((dataclasses.replace(photo, pixels=NO_PIXELS), pixels.shape), answers)
            answers.write(pixels.data)
        answers.flush()


def receive(answers: IO[bytes]) -> Photo:
    """Reads one answer; raises it where it is an ImageError, and EOFError where the process is gone."""
    answer = pickle.load(answers)
    if isinstance(answer, ImageError):
        raise answer
    photo, shape = answer
    pixels = np.empty(shape, dtype=np.uint8)
    view = pixels.data.cast("B")
    while len(view):
        if not (read := answers.readinto(view)):  # type: ignore[attr-defined]
            raise EOFError
        view = view[read:]
    return dataclasses.replace(photo, pixels=pixels)


def main() -> None:
    """Keeps the real standard output for answers; whatever a decoder prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:  # who asked was killed meanwhile
        os._exit(1)
