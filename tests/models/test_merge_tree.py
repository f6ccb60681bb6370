"""Merge trees against scipy and scikit-learn, and joining siblings on trees made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from annotator.models.merge_tree import MergeTree, join_siblings, ward

CHAIN = MergeTree(4, ((0, 1), (2, 4), (3, 5)), (1.0, 2.0, 3.0))
#        9
#     8     7
#   6   2  3  4      and leaf 5 beside it all
#  0 1
BALANCED = MergeTree(5, ((0, 1), (3, 4), (2, 5), (6, 7)), (1.0, 2.0, 3.0, 4.0))


def points(count: int, width: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


def members(tree: MergeTree) -> list[frozenset[int]]:
    return [frozenset(tree.leaves_below(node)) for node in tree.inner]


@pytest.mark.parametrize("count", [2, 3, 40])
def test_ward_is_scipys(count: int) -> None:
    data = points(count)
    theirs = MergeTree.from_linkage(linkage(data, method="ward"))
    ours = ward(data, np.ones(count, np.int64))
    assert ours.merges == theirs.merges
    np.testing.assert_allclose(ours.heights, theirs.heights, rtol=1e-9)


@pytest.mark.parametrize("clusters", [1, 2, 7, 40, 99])
def test_cuts_are_scipys(clusters: int) -> None:
    matrix = linkage(points(40), method="ward")
    ours = MergeTree.from_linkage(matrix).cut(clusters)
    theirs = fcluster(matrix, clusters, "maxclust")
    assert ours.max() + 1 == len(set(theirs)) == min(clusters, 40)
    assert len(set(zip(ours.tolist(), theirs.tolist(), strict=True))) == min(clusters, 40)  # one to one
    _, first = np.unique(ours, return_index=True)
    assert (np.diff(first) > 0).all()  # numbered in the order of their lowest leaves


def test_going_on_from_clusters_is_the_top_of_the_whole_tree() -> None:
    """Ward needs only the mean and the size of a cluster."""
    data = points(60)
    matrix = linkage(data, method="ward")
    group = MergeTree.from_linkage(matrix).cut(9)
    means = np.stack([data[group == cluster].mean(axis=0) for cluster in range(9)])
    top = ward(means, np.bincount(group))
    np.testing.assert_allclose(top.heights, matrix[-8:, 2], rtol=1e-9)
    expected = members(MergeTree.from_linkage(matrix))[-8:]
    assert [frozenset(np.flatnonzero(np.isin(group, list(each)))) for each in members(top)] == expected


def test_ward_of_neighbours_is_scikit_learns() -> None:
    from sklearn.cluster import ward_tree
    from sklearn.feature_extraction.image import grid_to_graph

    data = points(48)
    grid = np.arange(48).reshape(6, 8)
    edges = [*zip(grid[:, :-1].flat, grid[:, 1:].flat, strict=True), *zip(grid[:-1].flat, grid[1:].flat, strict=True)]
    ours = ward(data, np.ones(48, np.int64), edges)
    children, _, _, _, distances = ward_tree(data, connectivity=grid_to_graph(6, 8), return_distance=True)
    assert ours.merges == tuple((min(pair), max(pair)) for pair in children.tolist())
    np.testing.assert_allclose(ours.heights, distances, rtol=1e-9)
    assert ours.merges != ward(data, np.ones(48, np.int64)).merges


def test_neighbours_that_do_not_connect_are_an_error() -> None:
    with pytest.raises(ValueError, match="neighbours that connect all 4, but got 2 parts"):
        ward(points(4), np.ones(4, np.int64), [(0, 1), (2, 3)])


def test_equal_points_merge_in_order() -> None:
    tree = ward(np.zeros((4, 2)), np.ones(4, np.int64))
    assert tree.merges == ((0, 1), (2, 3), (4, 5))
    assert tree.heights == (0.0, 0.0, 0.0)


def test_one_leaf_is_a_tree() -> None:
    tree = ward(points(1), np.array([7]))
    assert (tree.root, list(tree.inner), tree.leaves_below(0), tree.cut(3).tolist()) == (0, [], [0], [0])


def test_nodes_by_hand() -> None:
    assert (BALANCED.root, BALANCED.children(8), BALANCED.children(7)) == (8, (6, 7), (2, 5))
    assert [BALANCED.leaves_below(node) for node in range(9)] == [
        *([leaf] for leaf in range(5)), [0, 1], [3, 4], [0, 1, 2], [0, 1, 2, 3, 4],
    ]  # fmt: skip
    assert BALANCED.cut(3).tolist() == [0, 0, 1, 2, 2]
    assert BALANCED.cut(2).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("leaves", "merges", "heights"),
    [
        (0, (), ()),
        (2, (), ()),  # not down to one
        (3, ((0, 1), (0, 2)), (1.0, 2.0)),  # 0 twice
        (3, ((0, 4), (1, 2)), (1.0, 2.0)),  # before it was made
        (3, ((1, 0), (2, 3)), (1.0, 2.0)),
        (3, ((0, 1), (2, 3)), (1.0,)),
    ],
)
def test_what_is_no_tree(leaves: int, merges: tuple, heights: tuple) -> None:
    with pytest.raises(ValueError, match="Expected"):
        MergeTree(leaves, merges, heights)


def joined_of(tree: MergeTree, scores: dict[int, float], threshold: float) -> tuple[list[list[int]], dict[int, float]]:
    """The rounds of joins, and what was tried, when parents have these scores."""
    rounds: list[list[int]] = []
    parent_of = {tree.children(node): node for node in tree.inner}
    tried = join_siblings(tree, lambda low, high: scores[parent_of[low, high]], rounds.append, threshold)
    return rounds, tried


@pytest.mark.parametrize(
    ("scores", "rounds", "tried"),
    [
        ({5: 0.9, 6: 0.9, 7: 0.9, 8: 0.9}, [[5, 6], [7], [8]], {5, 6, 7, 8}),
        ({5: 0.8, 6: 0.79, 7: 0.8, 8: 1.0}, [[5], [7]], {5, 6, 7}),  # 8 is alike, but 6 did not survive whole
        ({5: 0.7, 6: 0.9, 7: 1.0, 8: 1.0}, [[6]], {5, 6}),
        ({5: 0.1, 6: 0.1, 7: 1.0, 8: 1.0}, [], {5, 6}),
        ({5: 0.9, 6: 0.9, 7: 0.2, 8: 1.0}, [[5, 6]], {5, 6, 7}),
    ],
)
def test_joins_by_hand(scores: dict[int, float], rounds: list[list[int]], tried: set[int]) -> None:
    """A score of exactly the threshold joins."""
    assert joined_of(BALANCED, scores, 0.8) == (rounds, {node: scores[node] for node in sorted(tried)})


def test_a_chain_stops_where_it_breaks() -> None:
    assert joined_of(CHAIN, {4: 0.9, 5: 0.3, 6: 0.9}, 0.8) == ([[4]], {4: 0.9, 5: 0.3})


def test_a_round_is_told_before_the_next_asks() -> None:
    log: list[object] = []

    def score(low: int, high: int) -> float:
        log.append((low, high))
        return 1.0

    join_siblings(BALANCED, score, log.append, 0.8)
    assert log == [(0, 1), (3, 4), [5, 6], (2, 5), [7], (6, 7), [8]]


@given(st.integers(1, 25), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_only_whole_siblings_are_tried(leaves: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = ward(rng.normal(size=(leaves, 3)), np.ones(leaves, np.int64))
    scores = dict(zip(tree.inner, rng.random(leaves - 1), strict=True))
    rounds, tried = joined_of(tree, scores, 0.4)
    joined = [node for each in rounds for node in each]
    whole = {*range(leaves), *joined}
    assert set(joined) == {node for node, score in tried.items() if score >= 0.4}
    assert set(tried) == {node for node in tree.inner if set(tree.children(node)) <= whole}
    place = {node: index for index, each in enumerate(rounds) for node in each}
    for node in joined:
        assert all(place.get(child, -1) < place[node] for child in tree.children(node))


def test_the_tree_above_some_nodes_by_hand() -> None:
    """Leaves 0 to 4; 5 = (0 1), 6 = (2 3), 7 = (5 6), 8 = (4 7)."""
    tree = MergeTree(5, ((0, 1), (2, 3), (5, 6), (4, 7)), (1.0, 2.0, 3.0, 4.0))
    assert tree.above([0, 1, 2, 3, 4]) == tree
    assert tree.above([5, 6, 4]) == MergeTree(3, ((0, 1), (2, 3)), (3.0, 4.0))
    assert tree.above([4, 6, 0]) == MergeTree(3, ((1, 2), (0, 3)), (3.0, 4.0))  # without 1, 5 is 0
    assert tree.above([0, 3]) == MergeTree(2, ((0, 1),), (3.0,))
    assert tree.above([8]) == tree.above([2]) == MergeTree(1)
