"""The check that keeps NaN and infinity out of labels: NaN loses every comparison, so it would pass for class 0."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor


def require_finite(values: Tensor | Iterable[float]) -> None:
    """Raises FloatingPointError where a network gave NaN or infinity; the photo then fails with that reason."""
    finite = bool(values.isfinite().all()) if isinstance(values, Tensor) else all(map(math.isfinite, values))
    if not finite:
        raise FloatingPointError("the network gave values that are not finite (NaN or infinity)")
