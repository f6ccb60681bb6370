"""FOUND: where the objects of a photo are, from DINO features alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.dino import Dino, LastAttention
from annotator.models.weights import load_strict

SEED_SIMILARITY = 0.3


class Found(nn.Module):
    """Objectness Theta in [0, 1] per DINO patch: the trained 1 x 1 decoder on keys, or its training-free form."""

    def __init__(self, dino: Dino, decoder: nn.Conv2d | None) -> None:
        super().__init__()
        self.dino = dino
        self.decoder = decoder.eval().requires_grad_(False) if decoder is not None else None

    def objectness(self, images: Tensor) -> Tensor:
        """B x 3 x H x W RGB in [0, 1] -> B x h x w, soft; above 0.5 is foreground."""
        return self.logits(images).sigmoid()

    def logits(self, images: Tensor) -> Tensor:
        """The same before the sigmoid."""
        if self.decoder is None:
            raise ValueError("Expected a FOUND decoder, but this one was built without; use `seed_objectness`")
        attention = self.dino.last_attention(images)
        return self.decoder(attention.as_map(attention.keys))[:, 0].float()

    def seed_objectness(self, images: Tensor) -> Tensor:
        """The training-free form: B x 3 x H x W -> B x h x w, 1 where a patch is unlike the background seed."""
        attention = self.dino.last_attention(images)
        similarity = similarity_to_seed(attention)
        return (similarity <= SEED_SIMILARITY).float().view(-1, *attention.grid)


def similarity_to_seed(attention: LastAttention) -> Tensor:
    """B x P cosine with the background seed: the patch with the least head-weighted class attention."""
    a = attention.class_attention  # B x heads x P
    above = a > a.mean(dim=(1, 2), keepdim=True)
    q = above.float().mean(dim=2).clamp(min=1 / a.shape[2])  # Q_h; a head without such patches counts as with one
    beta = (q.sum(dim=1, keepdim=True) / q).log()  # B x heads
    seed = (a * beta[:, :, None]).sum(dim=1).argmin(dim=1)  # B
    features = (attention.keys * beta[:, :, None, None]).transpose(1, 2).flatten(2)  # B x P x (heads * c)
    features = F.normalize(features, dim=2)
    return torch.einsum("bpc,bc->bp", features, features[torch.arange(len(seed), device=seed.device), seed])


def load_found(dino: Dino, state: dict[str, Tensor]) -> Found:
    """state: `weight` 1 x C x 1 x 1 and `bias` 1, as FOUND publishes its decoder."""
    decoder = nn.Conv2d(dino.width, 1, kernel_size=1)
    load_strict(decoder, state, role="found", what="1 x 1 decoder")
    return Found(dino, decoder)
