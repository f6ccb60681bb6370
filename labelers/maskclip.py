"""MaskCLIP (Zhou et al., ECCV 2022): CLIP's last value path, patch by patch, against class names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from annotator.models.windows import ClassMaps
from labelers.base import LabelerSpec, register
from labelers.dense import WindowLabeler, WindowParameters


@register(
    LabelerSpec("maskclip", needs_vocabulary=True, paper="MaskCLIP, Zhou et al., ECCV 2022", roles=("clip",)),
    WindowParameters,
)
class Maskclip(WindowLabeler):
    def _score(self, windows: Tensor) -> Sequence[ClassMaps]:
        return self._classifier.score(self._clip.dense(windows).maskclip).maps()
