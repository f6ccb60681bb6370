"""A fixed bank of phrases in CLIP's joint space: the fast way to put a segment into words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.errors import WeightsError
from annotator.files import replacing
from annotator.models.fp32 import exact_fp32

if TYPE_CHECKING:
    from annotator.models.clip import DenseClip
    from annotator.models.weights import State

TEMPLATE = "Image of a {}."
ROWS_AT_ONCE = 65_536
PROBES = 8
SAME_TEXT = 0.99
"""Cosine of a bank's row with the phrase embedded again, above which both come from the same weights."""


class PhraseBank(nn.Module):
    """phrases: N texts; embeddings: N x d float16, normalised.

    On the CPU a bank read from a file stays there: the rows are mapped into memory as they are needed.
    """

    embeddings: Tensor

    def __init__(self, phrases: Sequence[str], embeddings: Tensor) -> None:
        super().__init__()
        if len(phrases) != len(embeddings) or not phrases:
            raise WeightsError(
                f"phrases: expected as many texts as embeddings, but found {len(phrases)} and {len(embeddings)}; "
                "build the bank anew with `annotate train phrases`"
            )
        self.phrases = tuple(phrases)
        self.register_buffer("embeddings", embeddings)

    def nearest(self, segments: Tensor, rows_at_once: int = ROWS_AT_ONCE) -> tuple[Tensor, Tensor]:
        """S x d normalised -> the row of the nearest phrase, and its cosine: S each. Of equals the first wins."""
        segments = segments.to(self.embeddings.device).float()
        rows = torch.zeros(len(segments), dtype=torch.long, device=segments.device)
        cosines = torch.full((len(segments),), -torch.inf, device=segments.device)
        for start in range(0, len(self.embeddings), rows_at_once):
            part = segments @ self.embeddings[start : start + rows_at_once].float().T
            row = part.argmax(dim=1)  # the first of equals
            cosine = part.gather(1, row[:, None])[:, 0]
            better = cosine > cosines
            rows, cosines = torch.where(better, row + start, rows), torch.where(better, cosine, cosines)
        return rows, cosines

    def check(self, clip: DenseClip) -> None:
        """An error where the bank was embedded by other text weights than these."""
        probes = torch.linspace(0, len(self.phrases) - 1, min(PROBES, len(self.phrases))).long().tolist()
        again = embed_phrases(clip, [self.phrases[row] for row in probes])
        ours = self.embeddings[probes].float().to(again.device)
        found = float((ours * again).sum(dim=1).min()) if ours.shape == again.shape else 0.0
        if found < SAME_TEXT:
            raise WeightsError(
                f"phrases: expected a bank made with this pack's CLIP text weights, but found another one's (cosine "
                f"{found:.2f}); build one with `annotate train phrases` and give it with --weights phrases=FILE"
            )


class Retrieval:
    """The nearest phrase of a bank."""

    def __init__(self, bank: PhraseBank, clip: DenseClip) -> None:
        with exact_fp32(), torch.inference_mode():
            bank.check(clip)
        self._bank = bank

    def caption(self, segments: Tensor) -> list[str]:
        """S x d normalised embeddings -> S captions."""
        with exact_fp32(), torch.inference_mode():
            return [self._bank.phrases[row] for row in self._bank.nearest(segments)[0].tolist()]


def embed_phrases(clip: DenseClip, phrases: Sequence[str]) -> Tensor:
    """-> N x d, normalised float32, each phrase in the sentence that segments are compared with."""
    return F.normalize(clip.text([TEMPLATE.replace("{}", phrase) for phrase in phrases]).float(), dim=-1)


def load_phrases(state: State) -> PhraseBank:
    """state: `embeddings` N x d float16, and `text`: UTF-8 bytes (uint8) of the phrases, a line each."""
    if set(state) != {"embeddings", "text"} or state["embeddings"].ndim != 2 or state["text"].dtype != torch.uint8:
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
        raise WeightsError(f"phrases: expected `embeddings` (N x d) and `text` (bytes), but found {found}")
    text = bytes(state["text"].numpy()).decode("utf-8")
    return PhraseBank(text.split("\n"), state["embeddings"])


def save_phrases(bank: PhraseBank, file: Path, provenance: dict[str, Any]) -> None:
    """One safetensors file, there whole or not at all; provenance goes into its metadata, as JSON."""
    from safetensors.torch import save

    text = torch.frombuffer(bytearray("\n".join(bank.phrases), "utf-8"), dtype=torch.uint8)
    tensors = {"embeddings": bank.embeddings.half().cpu().contiguous(), "text": text}
    metadata = {"provenance": json.dumps(provenance, sort_keys=True)}  # one entry, because safetensors shuffles them
    with replacing(file) as opened:
        opened.write(save(tensors, metadata))
