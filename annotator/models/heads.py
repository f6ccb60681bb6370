"""CLIP-DINOiser's two convolutions: which patches belong together (g), and which are an object (h)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.weights import load_strict

AFFINITY_WIDTH = 256


class DinoiserHeads(nn.Module):
    """Both read CLIP's intermediate features, B x D x h x w. Names as in the published checkpoint."""

    def __init__(self, width: int, affinity_width: int = AFFINITY_WIDTH) -> None:
        super().__init__()
        self.obj_proj = nn.Conv2d(width, affinity_width, kernel_size=3, padding=1, padding_mode="replicate")  # g
        self.bkg_decoder = nn.Conv2d(width, 1, kernel_size=1)  # h

    def affinity_features(self, intermediate: Tensor) -> Tensor:
        """g on the features as they are: B x 256 x h x w."""
        return self.obj_proj(intermediate)

    def objectness(self, intermediate: Tensor) -> Tensor:
        """h on the L2-normalised features: B x h x w in [0, 1], above 0.5 is foreground."""
        return self.bkg_decoder(F.normalize(intermediate, dim=1))[:, 0].sigmoid()


def affinity(features: Tensor, gamma: float) -> Tensor:
    """A: cosine similarity of every pair of patches, below gamma set to 0. B x C x h x w -> B x P x P."""
    normalised = F.normalize(features.flatten(2), dim=1)
    similarity = normalised.transpose(1, 2) @ normalised
    return torch.where(similarity >= gamma, similarity, 0.0)


def guided_pooling(features: Tensor, weights: Tensor) -> Tensor:
    """F+_p = sum_q A_pq F_q / (sum_q A_pq + 1e-6), Eq. 1 (which prints F_p inside the sum).

    B x d x h x w features, B x P x P weights -> B x d x h x w.
    """
    pooled = features.flatten(2) @ weights.transpose(1, 2) / (weights.sum(dim=2)[:, None] + 1e-6)
    return pooled.view_as(features)


def load_heads(state: dict[str, Tensor]) -> DinoiserHeads:
    """state: `obj_proj.*` and `bkg_decoder.*`, as in CLIP-DINOiser's checkpoint; the widths are read off it."""
    kernel = state.get("obj_proj.weight", torch.empty(AFFINITY_WIDTH, 768, 3, 3))
    heads = DinoiserHeads(width=kernel.shape[1], affinity_width=kernel.shape[0])
    load_strict(heads, state, role="heads", what="CLIP-DINOiser's heads")
    return heads.eval().requires_grad_(False)


def to_grid(features: Tensor, like: Tensor) -> Tensor:
    """Bilinearly to the grid of patches of `like`, where it differs."""
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)
