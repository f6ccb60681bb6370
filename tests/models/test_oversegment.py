"""Over-segments: DINO's keys on overlapping patches, clusters, and pixels; against references and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import networks, zeroguide
from reference.devices import take_float64_away
from scipy.cluster.hierarchy import linkage
from scipy.ndimage import label as connected_parts
from scipy.spatial.distance import pdist
from torch import Tensor, nn

from annotator.errors import ConfigError
from annotator.models import oversegment as module
from annotator.models.dino import Dino
from annotator.models.merge_tree import MergeTree
from annotator.models.oversegment import (
    Clusters,
    OversegmentOptions,
    Oversegments,
    Segmentation,
    canvas_size,
    full_ward,
    grid_edges,
    oversegment,
    published_segments,
    stride_of,
    strided_keys,
)
from annotator.models.refine import refine


class Stem(nn.Module):
    """A patch embedding that is no plain convolution."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images).tanh()


def dino(stem: bool = False) -> Dino:
    vit = networks.timm_vit().float()  # patches of 8
    if stem:
        vit.patch_embed.proj = Stem(vit.patch_embed.proj)
    return Dino(vit)


def canvas(height: int, width: int) -> np.ndarray:
    return networks.photo(height, width) / 255


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).float().permute(2, 0, 1)


def segments_of(photo: np.ndarray, size: tuple[int, int] | None = None, **options: object) -> Oversegments:
    given = OversegmentOptions(**{"patches": 4, "segments": 6, "same": 2.0, **options})
    return oversegment(dino(), photo, size or photo.shape[:2], given)


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_overlapping_patches_equal_the_reference(stride: int) -> None:
    image = canvas(16, 24)
    expected, grid = zeroguide.overlapping_keys(image, networks.dino_of(networks.timm_vit()), stride)
    found = strided_keys(dino(), as_tensor(image), stride)
    assert found.shape[1:] == grid == ((16 - 8) // stride + 1, (24 - 8) // stride + 1)
    np.testing.assert_allclose(found.flatten(1).T, expected, rtol=0, atol=1e-4)


def test_the_network_stays_as_it_was() -> None:
    network = dino()
    before = network.last_attention(torch.ones(1, 3, 32, 32)).keys
    strided_keys(network, as_tensor(canvas(32, 32)), 2)
    assert network.vit.patch_embed.proj.stride == (8, 8)
    assert torch.equal(network.last_attention(torch.ones(1, 3, 32, 32)).keys, before)


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_other_patch_embedding_sees_shifted_copies(stride: int, batch: int) -> None:
    """The cell at (y, x) is that of the photo cut off above y mod 8 and left of x mod 8, its border repeated."""
    network, image = dino(stem=True), canvas(24, 32)
    found = strided_keys(network, as_tensor(image), stride, batch)
    assert found.shape == (24, (24 - 8) // stride + 1, (32 - 8) // stride + 1)
    for y in range(0, 24 - 8 + 1, stride):
        for x in range(0, 32 - 8 + 1, stride):
            top, left = y % 8, x % 8
            shifted = np.pad(image, ((0, top), (0, left), (0, 0)), mode="edge")[top:, left:]
            attention = network.last_attention(as_tensor(shifted)[None])
            expected = attention.as_map(attention.keys)[0, :, y // 8, x // 8]
            torch.testing.assert_close(found[:, y // stride, x // stride], expected, rtol=0, atol=1e-5)


def test_without_a_choice_patches_overlap_as_in_the_paper() -> None:
    """A stem's are shifted copies, of which there would be 16."""
    assert (stride_of(dino(), None), stride_of(dino(stem=True), None)) == (2, 4)
    assert (stride_of(dino(), 1), stride_of(dino(stem=True), 8)) == (8, 1)


@pytest.mark.parametrize("overlap", [3, 16])
def test_an_overlap_that_does_not_fit_is_refused(overlap: int) -> None:
    with pytest.raises(ConfigError, match=f"divisor of DINO's patch side, 8 px, but got {overlap}"):
        segments_of(networks.photo(16, 16), overlap=overlap)
    with pytest.raises(ConfigError, match="overlap: expected at least 1, but got 0"):
        OversegmentOptions(overlap=0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (224, 296)),
        ((640, 480), (296, 224)),
        ((1, 1), (224, 224)),
        ((100, 1000), (88, 896)),  # 4 x 224
        ((3, 9000), (8, 896)),
        ((1000, 3000), (160, 488)),  # 163.3 x 489.9 px have 20,000 cells of 2 x 2 px
    ],
)
def test_canvas(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert canvas_size(size, patches=28, patch=8, stride=2) == expected


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
def test_distances_are_scipys(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
    data = np.random.default_rng(0).normal(size=(30, 8)) + 5
    np.testing.assert_allclose(module._condensed_distances(data), pdist(data), rtol=0, atol=1e-12)
    assert full_ward(data).merges == MergeTree.from_linkage(linkage(data, "ward")).merges


def test_over_segments_are_the_cut_of_scipys_tree() -> None:
    """Keys -> linkage -> 6 clusters, each pixel that of the patch with the nearest centre, and on from there."""
    photo = networks.photo(32, 48)
    found = segments_of(photo)
    keys = strided_keys(dino(), as_tensor(photo / 255), 2).flatten(1).T.double().numpy()
    matrix = linkage(keys, "ward")
    cells = MergeTree.from_linkage(matrix).cut(6).reshape(13, 21)
    for y in range(32):
        for x in range(48):
            row = min(range(13), key=lambda r: abs(2 * r + 3.5 - y))
            column = min(range(21), key=lambda c: abs(2 * c + 3.5 - x))
            near = {cells[min(row + dy, 12), min(column + dx, 20)] for dy in (0, 1) for dx in (0, 1)}
            assert found.labels[y, x] in (near if y % 2 == 0 or x % 2 == 0 else {cells[row, column]})
    np.testing.assert_allclose(found.tree.heights, matrix[-5:, 2], rtol=1e-6)
    assert torch.equal(found.masks.argmax(dim=0).int(), torch.from_numpy(found.labels))
    assert torch.equal(found.masks.sum(dim=0), torch.ones(32, 48))


def test_clusters_of_nearly_the_same_mean_are_one() -> None:
    """Unit vectors at 0, 20, 50 and 180 degrees with 1, 1, 3 and 1 cells. 0 and 20 are the most alike; their mean at 10
    has cosine cos 40 = 0.77 with the third, too little for 0.8, though 20 and 50 alone had cos 30 = 0.87."""
    angles = np.deg2rad([0, 20, 50, 50, 50, 180])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    start = Clusters.of(features, np.array([0, 1, 2, 2, 2, 3]), None)
    merged = start.without_twins(0.8)
    assert merged.of_cell.tolist() == [0, 0, 1, 1, 1, 2]
    assert merged.sizes.tolist() == [2, 3, 1]
    np.testing.assert_allclose(merged.means[0], np.array([np.cos(np.pi / 18), np.sin(np.pi / 18)]) * np.cos(np.pi / 18))
    assert start.without_twins(0.76).of_cell.tolist() == [0, 0, 0, 0, 0, 1]
    assert start.without_twins(0.95).of_cell.tolist() == [0, 1, 2, 2, 2, 3]
    assert start.without_twins(-1.0).of_cell.tolist() == [0] * 6


def test_twins_that_do_not_touch_stay_two_among_neighbours() -> None:
    """A row of cells a b a: with neighbours only, both a stay; b, once gone, leaves them touching."""
    features = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    cells = np.array([0, 1, 2])
    assert Clusters.of(features, cells, None).without_twins(0.9).of_cell.tolist() == [0, 1, 0]
    apart = Clusters.of(features, cells, grid_edges((1, 3))).without_twins(0.9)
    assert apart.of_cell.tolist() == [0, 1, 2]
    assert apart.tree().merges == ((0, 1), (2, 3))
    assert apart.only([0, 2]).edges == [(0, 1)]
    assert apart.only([0, 2]).tree().merges == ((0, 1),)


def test_neighbours_only_gives_connected_segments() -> None:
    photo = networks.photo(48, 64)
    connected = segments_of(photo, neighbours_only=True, patches=6)
    assert [connected_parts(connected.labels == index)[1] for index in range(6)] == [1] * 6
    free = segments_of(photo, patches=6)
    assert max(connected_parts(free.labels == index)[1] for index in range(6)) > 1
    for node in connected.tree.inner:  # and so are all unions up the tree
        assert connected_parts(np.isin(connected.labels, connected.tree.leaves_below(node)))[1] == 1


@pytest.mark.parametrize(("patch", "stride"), [(4, 4), (5, 3), (8, 3)])
def test_a_pixel_is_of_the_patch_with_the_nearest_centre(patch: int, stride: int) -> None:
    cells = torch.arange(20).reshape(4, 5)
    height, width = (patch + stride * (count - 1) for count in cells.shape)
    found, _ = module._to_photo(cells, torch.zeros(3, height, width), (height, width), patch, stride, refined=False)
    centres = [np.arange(count) * stride + (patch - 1) / 2 for count in cells.shape]
    for row in range(height):
        for column in range(width):
            away = [np.abs(centre - at) for centre, at in zip(centres, (row, column), strict=True)]
            near = [np.flatnonzero(each == each.min()) for each in away]  # two where it lies between them
            assert found[row, column] in cells[near[0]][:, near[1]]


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("neighbours_only", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 200), (57, 33)])
def test_any_size(size: tuple[int, int], neighbours_only: bool, refined: bool) -> None:
    found = segments_of(networks.photo(*size), neighbours_only=neighbours_only, refine=refined)
    count = int(found.labels.max()) + 1
    assert found.labels.shape == size
    assert found.labels.dtype == np.int32
    assert np.unique(found.labels).tolist() == list(range(count))
    assert found.tree.leaves == len(found.masks) == count


def test_a_photo_of_one_colour_is_one_segment() -> None:
    """Positions alone tell its patches apart, and not by much."""
    network = dino()
    torch.nn.init.zeros_(network.vit.pos_embed)
    options = OversegmentOptions(patches=4, segments=6)
    found = oversegment(network, np.full((20, 30, 3), 90, np.uint8), (20, 30), options)
    assert (found.labels == 0).all()
    assert found.tree == MergeTree(1)


def test_a_shrunk_photo_gets_the_size_asked_for() -> None:
    found = segments_of(networks.photo(40, 60), (120, 180))
    assert found.labels.shape == (120, 180)
    assert found.tree == segments_of(networks.photo(40, 60)).tree  # the canvas is that of the ratio


def test_refinement_equals_the_reference() -> None:
    image = canvas(9, 12)
    image[:, :4] = 0.5  # an even part: its deviation is 0
    masks = np.random.default_rng(0).dirichlet(np.ones(3), size=(9, 12))
    expected = zeroguide.refined(image, masks, 3, (1, 2))
    found = refine(as_tensor(image), torch.from_numpy(masks).permute(2, 0, 1).float(), 3, (1, 2))
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, rtol=0, atol=1e-5)


def test_refinement_draws_to_an_edge() -> None:
    """Black left, white right; a mask that runs three pixels over the edge comes back to it."""
    image = torch.zeros(3, 40, 40)
    image[:, :, 20:] = 1
    image += 0.02 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    left = torch.zeros(40, 40)
    left[:, :23] = 1
    found = refine(image, torch.stack([left, 1 - left])).argmax(dim=0)
    assert found[:, :20].float().mean() < 0.01
    assert found[:, 20:].float().mean() > 0.99


def cells_of(found: Segmentation) -> list[list[int]]:
    """Of each segment."""
    return [np.flatnonzero(found.of_cell == segment).tolist() for segment in range(found.of_cell.max() + 1)]


def unions(tree: MergeTree, cells: list[list[int]]) -> set[tuple[int, ...]]:
    """The cells below every inner node."""
    return {tuple(sorted(cell for leaf in tree.leaves_below(node) for cell in cells[leaf])) for node in tree.inner}


@pytest.mark.parametrize("segments", [20, 7, 1])
@pytest.mark.parametrize("same", [0.9, 0.4, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_published_way_equals_the_reference(segments: int, same: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    keys = np.repeat(random.normal(size=(6, 8)), 6, axis=0) * random.uniform(0.1, 9, size=(36, 1))
    keys += random.normal(size=keys.shape)
    found = published_segments(keys, None, OversegmentOptions(segments=segments, same=same))
    whole, split = zeroguide.published_segments(keys, same, segments)
    cells = cells_of(found)
    assert cells == [part.cells for part in whole]
    tree = found.tree_over(list(range(len(cells))))
    assert unions(tree, cells) == {tuple(part.cells) for part in split}
    assert sorted(tree.heights) == pytest.approx(sorted(part.distance for part in split))
    assert len(cells) == 1 + (segments + 1) // 2 or same < 2


def test_twenty_segments_of_the_published_way_are_eleven_at_most() -> None:
    keys = np.random.default_rng(0).normal(size=(60, 4))
    eleven = published_segments(keys, None, OversegmentOptions(segments=20, same=2.0))
    assert len(cells_of(eleven)) == 11
    assert len(cells_of(published_segments(keys, None, OversegmentOptions(segments=20, same=-2.0)))) == 1


def test_the_published_way_by_hand() -> None:
    """Keys at 0, 10, 90, 100 and 190 degrees, of any length. Ward joins 0 with 10 and 90 with 100, then 95 with 190
    (sqrt(4 / 3) * 1.47 = 1.70 against sqrt(2) * 1.41 = 1.99 for 5 with 95), then all. Below cosine 0 only the last two
    joins are undone: cos 95 < 0 between 95 and 190, and 5 lies more than 90 degrees from the mean of the three."""
    angles = np.deg2rad([0, 90, 10, 190, 100])
    keys = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([[1], [5], [0.2], [3], [1]])

    def segments(same: float, at_most: int = 20) -> list[list[int]]:
        return cells_of(published_segments(keys, None, OversegmentOptions(segments=at_most, same=same)))

    assert segments(0.0) == [[0, 2], [1, 4], [3]]
    assert segments(0.0, at_most=1) == [[0, 2], [1, 3, 4]]  # the widest is split first
    assert segments(0.99) == [[0], [1], [2], [3], [4]]  # cos 10 = 0.985
    assert segments(0.98) == [[0, 2], [1, 4], [3]]


def test_the_published_tree_leaves_out_what_a_photo_lost() -> None:
    """Segments a, b, c, d with merges (a b), (c d) and the whole: without b, (c d) and a with them."""
    keys = np.array([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.4, 0.9]])
    found = published_segments(keys, None, OversegmentOptions(segments=20, same=2.0))
    assert found.tree_over([0, 1, 2, 3]).merges in [((2, 3), (0, 1), (4, 5)), ((0, 1), (2, 3), (4, 5))]
    assert found.tree_over([0, 2, 3]).merges == ((1, 2), (0, 3))
    assert found.tree_over([1]) == MergeTree(1)


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("neighbours_only", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 200), (57, 33)])
def test_any_size_the_published_way(size: tuple[int, int], neighbours_only: bool, refined: bool) -> None:
    found = segments_of(networks.photo(*size), neighbours_only=neighbours_only, refine=refined, way="published")
    count = int(found.labels.max()) + 1
    assert found.labels.shape == size
    assert np.unique(found.labels).tolist() == list(range(count))
    assert found.tree.leaves == len(found.masks) == count <= 4


def test_a_photo_of_one_colour_is_one_segment_the_published_way() -> None:
    network = dino()
    torch.nn.init.zeros_(network.vit.pos_embed)
    options = OversegmentOptions(patches=4, segments=6, way="published")
    found = oversegment(network, np.full((20, 30, 3), 90, np.uint8), (20, 30), options)
    assert found.tree == MergeTree(1)


@pytest.mark.parametrize("way", [{}, {"way": "published"}])
def test_segments_need_no_float64_of_the_device(way: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = dino(), OversegmentOptions(patches=4, segments=6, same=2.0, **way)
    photo = networks.photo(32, 48)
    expected = oversegment(network, photo, (32, 48), options)
    take_float64_away(monkeypatch)
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2).double()
    found = oversegment(network, photo, (32, 48), options)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.tree == expected.tree
