"""Over-segments of a photo from DINO alone: more segments than things, and the order in which they would merge.

Keys of DINO's last layer at overlapping patches, Ward's linkage down to a few clusters, clusters of nearly the same
mean merged, and on to one cluster for the whole binary tree (zero-guidance segmentation, section 1). That is the paper;
its published code goes down Ward's tree from the root instead (`published_segments`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.errors import ConfigError
from annotator.limits import Count, Limits, check_fields
from annotator.models.dino import Dino
from annotator.models.finite import require_finite
from annotator.models.merge_tree import Features, MergeTree, ward
from annotator.models.refine import refine
from annotator.models.upsample import upsampled_winners
from annotator.models.windows import in_fixed_batches, to_canvas

MOST_CELLS = 20_000  # full linkage holds every pair of cells twice: 3.2 GB
PLAIN_OVERLAP, STEM_OVERLAP = 4, 2
LONGEST = 4  # long side in short sides; longer photos are seen smaller
ROWS_AT_ONCE = 1024

Size = tuple[int, int]
"""(height, width)."""
Labels = NDArray[np.int32]
CellEdges = Sequence[tuple[int, int]] | None
"""Cells that touch; None where all may merge with all."""


@dataclass(frozen=True)
class OversegmentOptions:
    """patches: of DINO's along the photo's short side, were they side by side (28 of 8 px are the paper's 224 px);
    overlap: how many begin per patch side; None: 4 (stride 2 of 8 px, the paper's), or 2 where the patch embedding
    is a convolutional stem, whose features are smooth and whose copies cost more;
    segments: clusters that are left; same: cosine of means from which two clusters are one; neighbours_only: merge
    only what touches; refine: draw the segments to the photo's edges; way: the paper's, or that of its published code,
    which makes segments / 2 + 1 at most."""

    patches: Count = 28
    overlap: Annotated[int | None, Limits(1, 64)] = None
    segments: Count = 20
    same: float = 0.9
    neighbours_only: bool = False
    refine: bool = False
    way: Literal["paper", "published"] = "paper"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Oversegments:
    """labels: H x W int32 of the photo, each of 0 ... n - 1 present.
    masks:  n x h x w in {0, 1}, the same on the canvas that DINO saw.
    tree:   over those n segments as its leaves."""

    labels: Labels
    masks: Tensor
    tree: MergeTree


def oversegment(
    dino: Dino, image: NDArray[np.uint8], size: Size, options: OversegmentOptions, device: torch.device | str = "cpu"
) -> Oversegments:
    """image: H x W x 3 uint8; size: (height, width) of the labels, which also decides the canvas."""
    stride = stride_of(dino, options.overlap)
    canvas = to_canvas(image, canvas_size(size, options.patches, dino.patch_size, stride), device)
    keys = strided_keys(dino, canvas, stride)  # C x h x w
    require_finite(keys)
    grid: Size = (keys.shape[1], keys.shape[2])
    features = keys.flatten(1).T.cpu().double().numpy()  # not every device has float64
    edges = grid_edges(grid) if options.neighbours_only else None
    segments_by = published_segments if options.way == "published" else paper_segments
    segmentation = segments_by(features, edges, options)

    cells = torch.from_numpy(segmentation.of_cell.reshape(grid))
    labels, on_canvas = _to_photo(cells, canvas, size, dino.patch_size, stride, options.refine)
    present = np.unique(labels)  # a photo smaller than the canvas, or a refined border, can lose a cluster
    rank = np.full(segmentation.of_cell.max() + 1, -1, dtype=np.int32)
    rank[present] = np.arange(len(present))
    masks = on_canvas[None] == torch.from_numpy(present).to(on_canvas.device)[:, None, None]
    return Oversegments(rank[labels], masks.float(), segmentation.tree_over(present.tolist()))


def stride_of(dino: Dino, overlap: int | None) -> int:
    """Pixels between patches."""
    overlap = overlap or (PLAIN_OVERLAP if _is_plain(dino) else STEM_OVERLAP)
    if dino.patch_size % overlap:
        raise ConfigError(f"overlap: expected a divisor of DINO's patch side, {dino.patch_size} px, but got {overlap}")
    return dino.patch_size // overlap


def _is_plain(dino: Dino) -> bool:
    return isinstance(dino.vit.patch_embed.proj, nn.Conv2d)


def canvas_size(size: Size, patches: int, patch: int, stride: int) -> Size:
    """(height, width) of the photo -> of what DINO sees: whole patches, `patches` of them short, ratio about kept.

    A photo longer than `LONGEST`, or with more than about `MOST_CELLS` cells, is seen smaller.
    """
    side = patches * patch
    scale = min(side / min(size), LONGEST * side / max(size), (MOST_CELLS * stride**2 / (size[0] * size[1])) ** 0.5)
    height, width = (max(round(length * scale / patch), 1) * patch for length in size)
    return height, width


def strided_keys(dino: Dino, canvas: Tensor, stride: int, batch: int = 4) -> Tensor:
    """3 x H x W in whole patches -> C x h x w keys of overlapping patches, h = (H - patch) / stride + 1.

    Where the patch embedding is a plain convolution it steps by `stride`, and all patches attend to each other. Any
    other kind (a convolutional stem) sees shifted copies of the photo, `batch` at a time, whose keys interleave.
    """
    if _is_plain(dino):
        return _keys(_with_stride(dino, stride), canvas[None])[0]

    height, width = canvas.shape[1:]
    times = dino.patch_size // stride
    beyond = dino.patch_size - stride
    padded = F.pad(canvas[None], (0, beyond, 0, beyond), mode="replicate")[0]
    offsets = [(y * stride, x * stride) for y in range(times) for x in range(times)]
    copies = torch.stack([padded[:, y : y + height, x : x + width] for y, x in offsets])
    maps = in_fixed_batches([copies], partial(_keys, dino), min(batch, len(copies)))  # times^2 x C x H/patch x W/patch
    grid = maps.shape[-2:]
    woven = maps.view(times, times, -1, *grid).permute(2, 3, 0, 4, 1).reshape(-1, times * grid[0], times * grid[1])
    return woven[:, : (height - dino.patch_size) // stride + 1, : (width - dino.patch_size) // stride + 1]


def _keys(dino: Dino, images: Tensor) -> Tensor:
    attention = dino.last_attention(images)
    return attention.as_map(attention.keys)


def _with_stride(dino: Dino, stride: int) -> Dino:
    """The same network, weights and compiled blocks shared, whose patches are `stride` apart; positions are resized to
    their grid."""
    vit = _shallow(dino.vit)
    vit.patch_embed = _shallow(vit.patch_embed)
    vit.patch_embed.proj = _shallow(vit.patch_embed.proj)
    vit.patch_embed.proj.stride = (stride, stride)
    strided: Dino = _shallow(dino)
    strided.vit = vit
    return strided


def _shallow(module: Any) -> Any:
    """Another module of the same parts, one of which may then be another."""
    twin = copy.copy(module)
    twin._modules = module._modules.copy()
    return twin


@dataclass(frozen=True)
class Segmentation:
    """of_cell: segment of each cell, 0 ... n - 1. tree_over: of some of them, in increasing order, the merge tree."""

    of_cell: NDArray[np.int64]
    tree_over: Callable[[list[int]], MergeTree]


def paper_segments(features: Features, edges: CellEdges, options: OversegmentOptions) -> Segmentation:
    """Ward's linkage until `segments` are left, then the most alike become one while their cosine is `same` or more;
    the merge tree grows anew from what is left."""
    clusters = Clusters.of(features, _cell_tree(features, edges).cut(options.segments), edges)
    clusters = clusters.without_twins(options.same)
    return Segmentation(clusters.of_cell, lambda kept: clusters.only(kept).tree())


def published_segments(features: Features, edges: CellEdges, options: OversegmentOptions) -> Segmentation:
    """Ward's tree over keys of length 1, from the root down: a node is split if the cosine of its children's means is
    below `same`, at most half of `segments` times, so that 20 make 11 segments or fewer.

    Known of the published code are the length, the cosine, that only siblings can be one, and the 11. Our reading is
    that the children furthest apart by Ward's distance are split first, and that the merge tree is what lies above the
    segments.
    """
    unit = _unit(features)
    tree = _cell_tree(unit, edges)
    nodes = split_unlike(tree, unit, options.same, len(range(0, options.segments, 2)))
    of_cell = np.empty(tree.leaves, dtype=np.int64)
    for segment, node in enumerate(nodes):
        of_cell[tree.leaves_below(node)] = segment
    return Segmentation(of_cell, lambda kept: tree.above([nodes[segment] for segment in kept]))


def split_unlike(tree: MergeTree, features: Features, same: float, most_splits: int) -> list[int]:
    """The nodes left when the root, and what comes of it, is split where the cosine of the children's means is below
    `same`, the highest first; in the order of their first leaves."""

    def unlike(node: int) -> bool:
        means = [features[tree.leaves_below(child)].mean(axis=0) for child in tree.children(node)]
        one, other = _unit(np.stack(means))
        return bool(one @ other < same)

    whole = [tree.root]
    to_split = [node for node in whole if node in tree.inner and unlike(node)]
    for _ in range(most_splits):
        if not to_split:
            break
        highest = max(to_split, key=lambda node: tree.heights[node - tree.leaves])
        parts = tree.children(highest)
        whole = [node for node in whole if node != highest] + list(parts)
        to_split = [node for node in to_split if node != highest]
        to_split += [part for part in parts if part in tree.inner and unlike(part)]
    return sorted(whole, key=lambda node: tree.leaves_below(node)[0])


def _unit(rows: Features) -> Features:
    unit: Features = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def _cell_tree(features: Features, edges: CellEdges) -> MergeTree:
    return full_ward(features) if edges is None else ward(features, np.ones(len(features), np.int64), edges)


def full_ward(features: Features) -> MergeTree:
    """All cells with all: scipy's linkage."""
    from scipy.cluster.hierarchy import linkage

    if len(features) == 1:
        return MergeTree(1)
    return MergeTree.from_linkage(linkage(_condensed_distances(features), method="ward"))


def _condensed_distances(features: Features) -> Features:
    """n x d -> the n (n - 1) / 2 Euclidean distances, row by row of the upper triangle, as scipy takes them."""
    count = len(features)
    centred = features - features.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    distances = np.empty(count * (count - 1) // 2)
    filled = 0
    for start in range(0, count, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        block = squares[rows, None] + squares[None] - 2 * centred[rows] @ centred.T
        for offset, row in enumerate(np.sqrt(np.maximum(block, 0, out=block), out=block), start=start + 1):
            distances[filled : filled + count - offset] = row[offset:]
            filled += count - offset
    return distances


def grid_edges(grid: Size) -> list[tuple[int, int]]:
    """Every cell with the one to its right and the one below."""
    cells = np.arange(grid[0] * grid[1]).reshape(grid)
    across = np.stack([cells[:, :-1], cells[:, 1:]], axis=-1).reshape(-1, 2)
    down = np.stack([cells[:-1], cells[1:]], axis=-1).reshape(-1, 2)
    return [(low, high) for low, high in np.concatenate([across, down]).tolist()]


@dataclass(frozen=True)
class Clusters:
    """of_cell: cluster of each cell; means, sizes: of each cluster; edges: which of them touch, None where all may
    merge with all."""

    of_cell: NDArray[np.int64]
    means: Features
    sizes: NDArray[np.int64]
    edges: Sequence[tuple[int, int]] | None

    @classmethod
    def of(
        cls, features: Features, of_cell: NDArray[np.int64], cell_edges: Sequence[tuple[int, int]] | None
    ) -> Clusters:
        sizes = np.bincount(of_cell)
        means = np.stack([features[of_cell == cluster].mean(axis=0) for cluster in range(len(sizes))])
        return cls(of_cell, means, sizes, None if cell_edges is None else _renamed(cell_edges, of_cell.tolist()))

    def without_twins(self, same: float) -> Clusters:
        """The two clusters with the most alike means become one, as long as their cosine is at least `same`."""
        clusters = self
        while len(clusters.means) > 1:
            unit = _unit(clusters.means)
            cosines = np.triu(unit @ unit.T, k=1) - 2 * np.tri(len(unit))
            if clusters.edges is not None:
                touching = np.zeros(cosines.shape, dtype=bool)
                touching[tuple(np.array(clusters.edges).T)] = True
                cosines = np.where(touching, cosines, -2.0)
            low, high = np.unravel_index(cosines.argmax(), cosines.shape)
            if cosines[low, high] < same:
                break
            clusters = clusters._joined(int(low), int(high))
        return clusters

    def _joined(self, low: int, high: int) -> Clusters:
        """`high` goes into `low`; those behind it move up."""
        names = [low if index == high else index - (index > high) for index in range(len(self.means))]
        means, sizes = self.means.copy(), self.sizes.copy()
        means[low] = (sizes[low] * means[low] + sizes[high] * means[high]) / (sizes[low] + sizes[high])
        sizes[low] += sizes[high]
        return Clusters(
            np.array(names)[self.of_cell],
            np.delete(means, high, axis=0),
            np.delete(sizes, high),
            None if self.edges is None else _renamed(self.edges, names),
        )

    def only(self, kept: list[int]) -> Clusters:
        """Those clusters, renumbered. With edges, what a lost one touched touches each other."""
        if len(kept) == len(self.means):
            return self
        edges = set(self.edges or ())
        for gone in set(range(len(self.means))) - set(kept):
            near = sorted({low + high - gone for low, high in edges if gone in (low, high)})
            edges = {pair for pair in edges if gone not in pair} | set(pairwise(near))
        names = {old: new for new, old in enumerate(kept)}
        renamed = [(names[low], names[high]) for low, high in sorted(edges)]
        return replace(
            self,
            means=self.means[kept],
            sizes=self.sizes[kept],
            edges=None if self.edges is None else renamed,
        )

    def tree(self) -> MergeTree:
        """On by Ward's criterion, down to one."""
        return ward(self.means, self.sizes, self.edges)


def _renamed(edges: Sequence[tuple[int, int]], names: Sequence[int]) -> list[tuple[int, int]]:
    pairs = {(min(names[a], names[b]), max(names[a], names[b])) for a, b in edges}
    return sorted((low, high) for low, high in pairs if low != high)


def _to_photo(
    cells: Tensor, canvas: Tensor, size: Size, patch: int, stride: int, refined: bool
) -> tuple[Labels, Tensor]:
    """h x w clusters of cells -> those of the photo's pixels and of the canvas's: nearest, or drawn to its edges."""
    rows, columns = (
        ((torch.arange(length) - (patch - 1) / 2) / stride).round().long().clamp(0, most - 1)
        for length, most in zip(canvas.shape[1:], cells.shape, strict=True)
    )  # of each pixel, the patch with the nearest centre
    on_canvas = cells[rows][:, columns].to(canvas.device)
    if not refined:
        nearest = F.interpolate(on_canvas[None, None].float(), size=size, mode="nearest-exact")[0, 0]
        return nearest.cpu().numpy().astype(np.int32), on_canvas
    one_hot = F.one_hot(on_canvas).permute(2, 0, 1).float()
    soft = refine(canvas, one_hot)
    winners = upsampled_winners(lambda chosen: soft[chosen], soft.amax(dim=(1, 2)), size)
    return winners.best, soft.argmax(dim=0)
