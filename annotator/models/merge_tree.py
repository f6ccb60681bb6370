"""A binary merge tree over segments: grown by Ward's criterion, then walked from the leaves up to join siblings."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]
Edges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class MergeTree:
    """Which two nodes became one, in the order in which it happened, down to a single node.

    Nodes 0 ... leaves - 1 are the leaves; merge i makes node leaves + i, as in scipy's linkage.

    merges:  the two children, the lower one first, per inner node.
    heights: Ward distance of the two children, sqrt(2ab / (a + b)) |mean - mean| for a and b members.
    """

    leaves: int
    merges: tuple[tuple[int, int], ...] = ()
    heights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        used = sorted(child for pair in self.merges for child in pair)
        earlier = all(low < high < self.leaves + index for index, (low, high) in enumerate(self.merges))
        if self.leaves < 1 or used != list(range(2 * self.leaves - 2)) or not earlier:
            raise ValueError(f"Expected {self.leaves} leaves merged to one, each once, but got {self.merges}")
        if len(self.heights) != len(self.merges):
            raise ValueError(f"Expected {len(self.merges)} heights, but got {len(self.heights)}")

    @classmethod
    def from_linkage(cls, linkage: NDArray[np.float64]) -> MergeTree:
        """scipy's (n - 1) x 4 linkage matrix."""
        pairs = np.sort(linkage[:, :2].astype(np.int64), axis=1).tolist()
        return cls(len(linkage) + 1, tuple((low, high) for low, high in pairs), tuple(linkage[:, 2].tolist()))

    @property
    def inner(self) -> range:
        """All nodes that are no leaves, children before parents."""
        return range(self.leaves, self.leaves + len(self.merges))

    @property
    def root(self) -> int:
        return self.leaves + len(self.merges) - 1

    def children(self, node: int) -> tuple[int, int]:
        """Of an inner node."""
        return self.merges[node - self.leaves]

    def leaves_below(self, node: int) -> list[int]:
        """In increasing order; of a leaf, itself."""
        found, open_nodes = [], [node]
        while open_nodes:
            each = open_nodes.pop()
            if each < self.leaves:
                found.append(each)
            else:
                open_nodes.extend(self.children(each))
        return sorted(found)

    def cut(self, clusters: int) -> NDArray[np.int64]:
        """The cluster of every leaf when merging stops at that many; numbered by their lowest leaf."""
        group = np.arange(self.leaves + len(self.merges))
        for node in range(self.leaves, 2 * self.leaves - min(clusters, self.leaves)):
            group[list(self.merges[node - self.leaves])] = node
        for node in range(len(group) - 1, -1, -1):  # parents first
            group[node] = group[group[node]]
        _, first, inverse = np.unique(group[: self.leaves], return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        numbered: NDArray[np.int64] = rank[inverse]
        return numbered

    def above(self, nodes: Sequence[int]) -> MergeTree:
        """The tree over these nodes, none of which lies below another, as leaves 0, 1, ... in that order.

        Where not all leaves lie below them, the rest is left out: a node with one child left is that child.
        """
        name = {node: leaf for leaf, node in enumerate(nodes)}
        merges: list[tuple[int, int]] = []
        heights: list[float] = []
        for node, height in zip(self.inner, self.heights, strict=True):
            left = sorted(name[child] for child in self.children(node) if child in name)
            if len(left) == 2:
                name[node] = len(nodes) + len(merges)
                merges.append((left[0], left[1]))
                heights.append(height)
            elif left:
                name[node] = left[0]
        return MergeTree(len(nodes), tuple(merges), tuple(heights))


def ward(means: Features, sizes: NDArray[np.integer], edges: Edges | None = None) -> MergeTree:
    """Always merges the two clusters whose union adds the least variance.

    means: n x d; sizes: members of each.
    edges: pairs of neighbours; only neighbours merge, and what they become keeps all their neighbours. They must
           connect everything. None: all are neighbours, which costs n x n.
    """
    count = len(means)
    centres = np.concatenate([means, np.zeros((count - 1, means.shape[1]))])
    members = np.concatenate([sizes.astype(np.float64), np.zeros(count - 1)])
    pairs = list(combinations(range(count), 2)) if edges is None else sorted({(min(e), max(e)) for e in edges})
    near: list[set[int]] = [set() for _ in range(2 * count - 1)]
    for low, high in pairs:
        near[low].add(high)
        near[high].add(low)
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    first = _ward_distance(centres, members, ends[:, 0], ends[:, 1])
    heap = [(distance, low, high) for distance, (low, high) in zip(first.tolist(), pairs, strict=True)]
    heapq.heapify(heap)

    alive = np.append(np.ones(count, dtype=bool), np.zeros(count - 1, dtype=bool))
    merges: list[tuple[int, int]] = []
    heights: list[float] = []
    while len(merges) < count - 1:
        if not heap:
            raise ValueError(f"Expected neighbours that connect all {count}, but got {count - len(merges)} parts")
        distance, low, high = heapq.heappop(heap)
        if not (alive[low] and alive[high]):
            continue
        node = count + len(merges)
        merges.append((low, high))
        heights.append(distance)
        alive[[low, high, node]] = False, False, True
        members[node] = members[low] + members[high]
        centres[node] = (members[low] * centres[low] + members[high] * centres[high]) / members[node]
        near[node] = (near[low] | near[high]) - {low, high}
        others = sorted(near[node])
        for other in others:
            near[other] -= {low, high}
            near[other].add(node)
        for distance, other in zip(_ward_distance(centres, members, others, node).tolist(), others, strict=True):
            heapq.heappush(heap, (distance, other, node))
    return MergeTree(count, tuple(merges), tuple(heights))


def _ward_distance(
    centres: Features, members: Features, ones: NDArray[np.int64] | list[int], others: NDArray[np.int64] | int
) -> Features:
    factor = 2 * members[ones] * members[others] / (members[ones] + members[others])
    distances: Features = np.sqrt(factor * ((centres[ones] - centres[others]) ** 2).sum(axis=1))
    return distances


def join_siblings(
    tree: MergeTree, score: Callable[[int, int], float], joined: Callable[[list[int]], None], threshold: float
) -> dict[int, float]:
    """Joins siblings that are alike, from the leaves up; a parent is tried only when both children are whole.

    score:  of two siblings.
    joined: told which parents were joined in a round, before the next round asks for scores of theirs.

    Returns the score of every parent that was tried; those at or above the threshold were joined.
    """
    whole = set(range(tree.leaves))
    tried: dict[int, float] = {}
    while ready := [node for node in tree.inner if node not in tried and whole.issuperset(tree.children(node))]:
        for node in ready:
            tried[node] = score(*tree.children(node))
        winners = [node for node in ready if tried[node] >= threshold]
        if winners:
            joined(winners)
        whole.update(winners)
    return tried
