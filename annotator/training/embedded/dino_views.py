"""What mini-dino is trained on: pairs of windows of cached stem features, disturbed and with holes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.mini_clip import StemFeatures
from annotator.models.mini_dino import Components
from annotator.training.embedded.photos import AGAIN, NO_LABEL

MOST_HOLES, HOLE_SIDES = 3, (2, 5)

Corner = tuple[int, int]
"""(row, column) in tokens of the view, both even, as a cell of stride 32 covers two tokens."""


class Views:
    """Stem features of unlabelled photos' views in a cache folder: the largest of those that were looked at once.

    They are left on disk until they are read.
    """

    def __init__(self, folder: Path, stride8: bool = False) -> None:
        """stride8: read that map, too; mini-dino does not look at it, mini-clip does."""
        self._fields = StemFeatures._fields if stride8 else StemFeatures._fields[1:]
        shards = [torch.load(file, weights_only=True, mmap=True) for file in sorted(folder.glob("*.pt"))]
        shards = [shard for shard in shards if AGAIN + "stride16" not in shard]
        self.tokens = max(shard["stride16"].shape[-1] for shard in shards)
        self._where = [
            (shard, row)
            for shard in shards
            if shard["stride16"].shape[-1] == self.tokens
            for row in (shard["labels"] == NO_LABEL).flatten(1).all(dim=1).nonzero()[:, 0].tolist()
        ]

    def __len__(self) -> int:
        return len(self._where)

    def read(self, indices: Sequence[int]) -> StemFeatures:
        """B x C x h x w each."""
        where = [self._where[index] for index in indices]
        maps = {name: torch.stack([shard[name][row] for shard, row in where]).float() for name in self._fields}
        return StemFeatures(maps.get("stride8", torch.empty(0)), maps["stride16"], maps["stride32"])

    def spread(self, count: int) -> Iterator[StemFeatures]:
        """So many views, one at a time, evenly spread over all."""
        count = min(count, len(self))
        for index in range(count):
            yield self.read([index * len(self) // count])


@dataclass(frozen=True)
class Windows:
    """Two windows of each of B views: 2B rows, the first of all views, then the second; with their corners."""

    features: StemFeatures
    corners: tuple[Corner, Corner]


def draw_windows(views: Views, count: int, side: int, random: torch.Generator) -> Windows:
    """Of `count` random views; all first windows lie at one place, all second ones at another."""
    seen = views.read(torch.randint(len(views), (count,), generator=random).tolist())
    places = 2 * torch.randint((views.tokens - side) // 2 + 1, (2, 2), generator=random)
    first, second = ((int(row), int(column)) for row, column in places)
    cuts = [_cut(seen, corner, side) for corner in (first, second)]
    return Windows(StemFeatures(*(torch.cat(maps) for maps in zip(*cuts, strict=True))), (first, second))


def _cut(features: StemFeatures, corner: Corner, side: int) -> StemFeatures:
    row, column = corner
    fine = features.stride16[..., row : row + side, column : column + side]
    coarse = features.stride32[..., row // 2 : (row + side) // 2, column // 2 : (column + side) // 2]
    return StemFeatures(features.stride8, fine, coarse)


def disturb(features: StemFeatures, noise: float, dropped: float, random: torch.Generator) -> StemFeatures:
    """Each channel of each window times exp(noise * normal); a share of the stride-32 channels is dropped."""

    def gain(maps: Tensor) -> Tensor:
        return (noise * torch.randn(*maps.shape[:2], 1, 1, generator=random)).exp()

    coarse = features.stride32
    kept = torch.rand(*coarse.shape[:2], 1, 1, generator=random) >= dropped
    return StemFeatures(features.stride8, features.stride16 * gain(features.stride16), coarse * gain(coarse) * kept)


def draw_holes(count: int, side: int, share: float, random: torch.Generator) -> Tensor:
    """-> count x side^2 bool; a share of the windows has one to three rectangular holes."""
    holes = torch.zeros(count, side, side, dtype=torch.bool)
    for window in holes:
        if torch.rand((), generator=random) >= share:
            continue
        for _ in range(int(torch.randint(1, MOST_HOLES + 1, (), generator=random))):
            height, width = torch.randint(HOLE_SIDES[0], HOLE_SIDES[1] + 1, (2,), generator=random).tolist()
            row = int(torch.randint(side - height + 1, (), generator=random))
            column = int(torch.randint(side - width + 1, (), generator=random))
            window[row : row + height, column : column + width] = True
    return holes.flatten(1)


def shared_tokens(corners: tuple[Corner, Corner], side: int) -> tuple[Tensor, Tensor]:
    """Which tokens of the first window are which of the second: their indices there, row by row."""
    place = torch.arange(side**2).view(side, side)
    cuts = []
    for (row, column), (other_row, other_column) in (corners, corners[::-1]):
        top, left = max(row, other_row), max(column, other_column)
        bottom, right = min(row, other_row) + side, min(column, other_column) + side
        cuts.append(place[top - row : bottom - row, left - column : right - column].flatten())
    return cuts[0], cuts[1]


@torch.no_grad()
def fit_components(views: Sequence[StemFeatures], whitening: float) -> Components:
    """Tokens before any training: principal components of each stride's standardised features, without a stem.

    whitening: 0 keeps each component's spread, 1 makes all alike; the mean variance is 1.
    """
    components = Components()
    components.stem = nn.Identity()  # type: ignore[assignment]
    _principal_components(components.stride16, [view.stride16 for view in views], whitening)
    _principal_components(components.stride32, [view.stride32 for view in views], whitening)
    return components


def _principal_components(into: nn.Conv2d, maps: Sequence[Tensor], whitening: float) -> None:
    rows = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])
    mean, spread = rows.mean(dim=0), rows.std(dim=0) + 1e-5
    standard = (rows - mean) / spread
    variances, axes = torch.linalg.eigh(standard.T @ standard / len(rows))
    chosen = variances.argsort(descending=True)[: into.out_channels]
    gains = variances[chosen] ** (-whitening / 2)
    gains = gains / (gains**2 * variances[chosen]).mean().sqrt()
    projection = axes[:, chosen] * gains / spread[:, None]
    into.weight.copy_(projection.T[:, :, None, None])
    assert into.bias is not None
    into.bias.copy_(-mean @ projection)


def sinkhorn(logits: Tensor, steps: int) -> Tensor:
    """N x K logits -> N x K targets: rows sum to 1, and columns share the rows about evenly (Sinkhorn-Knopp)."""
    shares = F.softmax(logits.flatten(), dim=0).view_as(logits)
    for _ in range(steps):
        shares = shares / shares.sum(dim=0, keepdim=True).clamp(min=1e-12)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return shares
