"""The bilateral solver (Barron & Poole, ECCV 2016): draws a coarse map to the edges of its photo.

It minimises  lambda / 2 sum_ij W_ij (x_i - x_j)^2 + sum_i c_i (x_i - t_i)^2  (Eq. 1), where W is bistochastic and links
pixels that are close in place and colour. Pixels of one cell of the bilateral grid share one value y, x = S^T y, which
leaves the small sparse system A y = b:

    A = lambda (D_m - D_n B D_n) + diag(S c),   b = S (c t)                                                  (Eq. 4-6)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg

Pixels = NDArray[np.uint8]
Map = NDArray[np.float64]

RGB_TO_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
BISTOCHASTIC_STEPS = 20


@dataclass(frozen=True)
class BilateralOptions:
    """Cell sizes in pixels and gray levels (0 to 255), and how the solver weighs and stops.

    smoothness: lambda of Eq. 1.
    confidence: c, how much every pixel of the target is trusted.
    """

    spatial: float = 16.0
    luma: float = 16.0
    chroma: float = 8.0
    smoothness: float = 256.0
    confidence: float = 0.999
    iterations: int = 25
    tolerance: float = 1e-5


DEFAULTS = BilateralOptions()


class BilateralSolver:
    """Of one photo, H x W x 3 RGB; any number of maps can be drawn to its edges."""

    def __init__(self, image: Pixels, options: BilateralOptions = DEFAULTS) -> None:
        self.shape: tuple[int, int] = (image.shape[0], image.shape[1])
        self._options = options
        cells, self._cell_of = _occupied_cells(image, options)
        blur = _blur(cells)
        self._pixels = np.bincount(self._cell_of, minlength=len(cells)).astype(np.float64)  # m = S 1
        n = np.ones(len(cells))
        for _ in range(BISTOCHASTIC_STEPS):
            n = np.sqrt(n * self._pixels / (blur @ n))
        d_n = sparse.diags(n)
        self._laplacian = sparse.diags(n * (blur @ n)) - d_n @ blur @ d_n  # D_m - D_n B D_n, its rows sum to 0

    def solve(self, target: NDArray[np.floating] | NDArray[np.bool_]) -> Map:
        """target: H x W in [0, 1] -> H x W in [0, 1], smooth where the photo is and with edges where it has edges."""
        if target.shape != self.shape:
            raise ValueError(f"Expected a target of the photo's size {self.shape}, but got {target.shape}")
        o = self._options
        flat = target.astype(np.float64).ravel()
        trust = o.confidence * self._pixels  # S c
        b = o.confidence * np.bincount(self._cell_of, weights=flat, minlength=len(trust))
        a = (o.smoothness * self._laplacian + sparse.diags(trust)).tocsr()
        diagonal = a.diagonal()
        jacobi = LinearOperator(a.shape, matvec=lambda x: x / diagonal)
        y, _ = cg(a, b, x0=b / trust, rtol=o.tolerance, maxiter=o.iterations, M=jacobi)
        return np.clip(y, 0.0, 1.0)[self._cell_of].reshape(self.shape)


def _occupied_cells(image: Pixels, options: BilateralOptions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """-> cells x 5 coordinates (row, column, luma, two of chroma) that hold a pixel, and the cell of every pixel."""
    height, width = image.shape[:2]
    colour = image.reshape(-1, 3) @ RGB_TO_YUV.T + (0, 128, 128)
    rows, columns = np.divmod(np.arange(height * width), width)
    sizes = (options.spatial, options.spatial, options.luma, options.chroma, options.chroma)
    coordinates = np.rint(np.column_stack([rows, columns, colour]) / sizes).astype(np.int64)
    extent = tuple(coordinates.max(axis=0) + 1)
    keys, cell_of = np.unique(np.ravel_multi_index(tuple(coordinates.T), extent), return_inverse=True)
    return np.column_stack(np.unravel_index(keys, extent)), cell_of


def _blur(cells: NDArray[np.int64]) -> sparse.csr_array:
    """B: [1 2 1] along each of the dimensions, over the occupied cells; symmetric."""
    count, dimensions = cells.shape
    extent = cells.max(axis=0) + 3  # room for a neighbour on either side
    strides = np.cumprod([1, *extent[:0:-1]])[::-1]
    keys = (cells + 1) @ strides
    order = np.argsort(keys)
    total = sparse.csr_array(sparse.identity(count) * 2.0 * dimensions)
    for stride in strides:
        at = np.searchsorted(keys, keys + stride, sorter=order).clip(max=count - 1)
        neighbour = order[at]
        here = np.flatnonzero(keys[neighbour] == keys + stride)
        links = sparse.csr_array((np.ones(len(here)), (here, neighbour[here])), shape=(count, count))
        total = total + links + links.T
    return sparse.csr_array(total)
