"""Cached stem features of views, and random windows of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from annotator.models.mini_clip import ONE_LOOK, PATCH, StemFeatures
from annotator.training.embedded.bank import CLASSES
from annotator.training.embedded.photos import AGAIN, NO_LABEL

LEAST_PIXELS = 12  # of a class, at label resolution, for a view to count as showing it


class Cache:
    """All shards of a folder, left on disk (mapped) until a window is read."""

    def __init__(self, folder: Path) -> None:
        self._shards = [torch.load(file, weights_only=True, mmap=True) for file in sorted(folder.glob("*.pt"))]
        where, tokens, present = [], [], []
        for number, shard in enumerate(self._shards):
            for row, labels in enumerate(shard["labels"]):
                where.append((number, row))
                tokens.append(shard["stuff"].shape[-1])
                present.append(torch.bincount(labels.flatten().long(), minlength=256))
        self._where, self._tokens = where, torch.tensor(tokens)
        counts = torch.stack(present)
        self._known = counts[:, :NO_LABEL].sum(dim=1) > 0
        shown = (counts[:, 1 : CLASSES + 1] > LEAST_PIXELS).float()
        frequency = shown.sum(dim=0)
        self._odds = (shown / frequency.clamp(min=1).sqrt()).amax(dim=1) + 0.05
        self.class_weights = torch.ones(CLASSES + 1)
        """Rare classes weigh more. The background weighs little: its name must not win over an object's."""
        typical = frequency[frequency > 0].median() if (frequency > 0).any() else torch.tensor(1.0)
        self.class_weights[1:] = (typical / frequency.clamp(min=1)).sqrt().clamp(0.4, 2)
        self.class_weights[0] = 0.2

    def __len__(self) -> int:
        return len(self._where)

    def sample(self, unlabelled: int, labelled: int, side: int, random: torch.Generator) -> dict[str, Tensor]:
        """Random windows of side x side tokens, those of views without masks first.

        Views that were looked at twice are shown whole, for the two looks have no common grid to cut at.
        """
        fits = torch.where(self._tokens * PATCH > ONE_LOOK, self._tokens == side, self._tokens >= side)
        plain, masks = (fits & ~self._known).nonzero()[:, 0], (fits & self._known).nonzero()[:, 0]
        chosen = torch.cat(
            [
                plain[torch.randint(len(plain), (unlabelled,), generator=random)],
                masks[torch.multinomial(self._odds[masks], labelled, replacement=True, generator=random)],
            ]
        )
        rows = [_window(self._shards[n], row, side, random) for n, row in (self._where[i] for i in chosen.tolist())]
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def looks(batch: Mapping[str, Tensor], rows: Tensor | slice = slice(None)) -> list[StemFeatures]:
    """The stem's features in a batch or shard: of one look, or of two."""
    prefixes = ("", AGAIN) if AGAIN + StemFeatures._fields[0] in batch else ("",)
    return [StemFeatures(*(batch[prefix + name][rows].float() for name in StemFeatures._fields)) for prefix in prefixes]


def _window(shard: dict[str, Tensor], row: int, side: int, random: torch.Generator) -> dict[str, Tensor]:
    """A part of one view, aligned with the stride-32 cells; every map keeps its own resolution."""
    tokens = shard["stuff"].shape[-1]
    y, x = (2 * torch.randint((tokens - side) // 2 + 1, (2,), generator=random)).tolist()
    out = {"weak": shard["weak"][row].long(), "voc": shard["voc"][row]}
    out |= {key: values[row].float() for key, values in shard.items() if key.startswith(AGAIN)}
    for key in (*StemFeatures._fields, "labels", "instances", "stuff"):
        values = shard[key][row]
        n = values.shape[-1] / tokens
        ys, xs = (slice(int(o * n), int((o + side) * n)) for o in (y, x))
        out[key] = values[..., ys, xs].float() if values.is_floating_point() else values[..., ys, xs].long()
    return out
