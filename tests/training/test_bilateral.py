"""The bilateral solver against its quadratic, written out over pixels, and on photos whose answer is plain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from annotator.training.bilateral import BilateralOptions, BilateralSolver

OPTIONS = BilateralOptions(
    spatial=2, luma=40, chroma=20, smoothness=3.0, confidence=0.7, iterations=400, tolerance=1e-12
)


def cells_of(image: np.ndarray, options: BilateralOptions) -> list[tuple[int, ...]]:
    """The cell of the bilateral grid that each pixel falls into, pixel by pixel."""
    found = []
    for y, x in itertools.product(*map(range, image.shape[:2])):
        r, g, b = image[y, x].astype(float)
        luma = 0.299 * r + 0.587 * g + 0.114 * b  # BT.601
        blue, red = 128 + 0.564 * (b - luma), 128 + 0.713 * (r - luma)
        place, colour = (y / options.spatial, x / options.spatial), (blue / options.chroma, red / options.chroma)
        found.append(tuple(int(np.rint(v)) for v in (*place, luma / options.luma, *colour)))
    return found


def bistochastic_weights(cells: list[tuple[int, ...]]) -> np.ndarray:
    """W over pixels: pixels of one cell, or of cells one step apart, are linked; rows and columns then sum to 1.

    The blur [1 2 1] along five axes gives a cell 10 times the weight of a neighbour's 1.
    """
    weights = np.zeros((len(cells), len(cells)))
    for i, j in itertools.product(range(len(cells)), repeat=2):
        apart = sum(abs(a - b) for a, b in zip(cells[i], cells[j], strict=True))
        weights[i, j] = {0: 10.0, 1: 1.0}.get(apart, 0.0)
    for _ in range(5000):
        scale = 1 / np.sqrt(weights.sum(axis=1))
        weights = scale[:, None] * weights * scale
    return weights


def minimiser(image: np.ndarray, target: np.ndarray, options: BilateralOptions) -> np.ndarray:
    """Of Eq. 1 over maps that are constant within a cell, by its normal equations over all pixels."""
    cells = cells_of(image, options)
    names = sorted(set(cells))
    splat = np.array([[float(cell == name) for name in names] for cell in cells])  # pixels x cells
    weights = bistochastic_weights(cells)
    smooth = options.smoothness * (np.diag(weights.sum(axis=1)) - weights)
    hessian = splat.T @ (smooth + options.confidence * np.eye(len(cells))) @ splat
    y = np.linalg.solve(hessian, splat.T @ (options.confidence * target.ravel()))
    return (splat @ y).reshape(target.shape)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_dense_minimiser(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = (rng.integers(0, 3, (7, 9, 1)) * 80 + rng.integers(0, 60, (7, 9, 3))).astype(np.uint8)
    target = rng.random((7, 9))
    expected = minimiser(image, target, OPTIONS)
    assert 2 < len(set(cells_of(image, OPTIONS))) < 63
    found = BilateralSolver(image, OPTIONS).solve(target)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)  # bistochastic in 20 steps there, to the end here
    assert np.abs(expected - target).max() > 0.2


def test_keeps_a_constant() -> None:
    """W is bistochastic: a constant target costs nothing as it is."""
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    np.testing.assert_allclose(BilateralSolver(image).solve(np.full((40, 30), 0.3)), 0.3, atol=1e-6)


def test_draws_a_coarse_mask_to_the_edges() -> None:
    """A disc on another colour, and a mask of blocks of 16 pixels that overlaps it roughly."""
    y, x = np.mgrid[:128, :128]
    disc = (y - 60) ** 2 + (x - 70) ** 2 < 35**2
    image = np.where(disc[..., None], (200, 60, 40), (40, 120, 60)).astype(np.uint8)
    blocks = disc.reshape(8, 16, 8, 16).mean(axis=(1, 3)) > 0.3
    coarse = blocks.repeat(16, axis=0).repeat(16, axis=1)
    before = (coarse & disc).sum() / (coarse | disc).sum()
    sharp = BilateralSolver(image).solve(coarse) > 0.5
    after = (sharp & disc).sum() / (sharp | disc).sum()
    assert before < 0.85
    assert after > 0.99


def test_refuses_another_size() -> None:
    with pytest.raises(ValueError, match=r"Expected a target of the photo's size \(4, 5\), but got \(5, 4\)"):
        BilateralSolver(np.zeros((4, 5, 3), np.uint8)).solve(np.zeros((5, 4)))
