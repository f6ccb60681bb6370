"""Where the objects of a whole photo are, from any network that says it per patch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SHORT_SIDE = 448


def photo_objectness(
    photo: NDArray[np.uint8], patch: int, maps: Callable[[Tensor], Tensor], short_side: int = SHORT_SIDE
) -> NDArray[np.float64]:
    """H x W x 3 RGB -> H x W in [0, 1], through `maps` at that short side.

    maps:  1 x 3 x h x w RGB in [0, 1] -> 1 x rows x columns of patches, those beyond the photo's border included.
    patch: side of a patch in pixels.
    """
    height, width = photo.shape[:2]
    scale = short_side / min(height, width)
    size = (round(height * scale), round(width * scale))
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    image = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
    soft = maps(image)[:, None].float().cpu()
    padded = F.interpolate(soft, scale_factor=patch, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
    whole = F.interpolate(padded, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
    return np.asarray(whole.clamp(0, 1).numpy(), dtype=np.float64)
