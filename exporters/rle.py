"""Run lengths from values in a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def runs_of(values: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Values in a row -> lengths of gap, run, gap, run, ...; only the first may be 0."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    bounds = np.concatenate(([0] * (1 + bool(values[0])), changes, [values.size]))
    return np.diff(bounds)
