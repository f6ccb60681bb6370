"""The one place that mends what is missing around torch.

The CPU build of torch has no matching torchvision: torchvision then fails at import, because its compiled
operators were not loaded, and takes open_clip, timm and transformers down with it. None of them calls these
operators here, so declaring their schemas is enough.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def prepare_torchvision() -> None:
    """Makes `import torchvision` work; call before importing open_clip, timm or transformers."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators()
        importlib.import_module("torchvision")


@cache
def _declare_operators() -> object:
    """Cached, because the operators go when the library object does."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library
