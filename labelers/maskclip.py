"""MaskCLIP (Zhou et al., ECCV 2022): CLIP's last value path, patch by patch, against class names."""

from __future__ import annotations

from torch import Tensor

from labelers.base import LabelerSpec, register
from labelers.dense import WindowLabeler, WindowParameters


@register(
    LabelerSpec("maskclip", needs_vocabulary=True, paper="MaskCLIP, Zhou et al., ECCV 2022", roles=("clip",)),
    WindowParameters,
)
class Maskclip(WindowLabeler):
    def _score(self, windows: Tensor) -> Tensor:
        return self._classifier.probabilities(self._clip.dense(windows).maskclip)
