"""Rows that scikit-learn's validation returned, converted for the core.

Dense rows become float32 around an origin, in a copy or while they are read; sparse rows stay CSR.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from scipy.sparse import issparse
from sklearn.utils.sparsefuncs import mean_variance_axis

from ..backends import Problem
from ..backends.draws import SEED_ROWS
from ..backends.sparse import SparsePoints, SparseRows, cluster_sums
from ..backends.stream import RowStream
from ..kmeans.assign import assigned
from ..metrics import EUCLIDEAN
from ..progress import open_progress
from ..validation import Data
from .sources import ArraySource

__all__ = [
    "FitInput",
    "content_order",
    "distances",
    "fit_input",
    "from_mlx",
    "inertia_of",
    "match_type",
    "nearest",
    "sums_of",
    "variance_of",
]

TILE = 1 << 16  # values in float64 at a time
CANCELLED = 1e-6  # squared distances below this share of the squared norms have lost digits
LARGE, SMALL = 2.0**100, 2.0**-100  # rows of larger or smaller magnitudes are scaled
ROOM = 8 << 20  # bytes that a fit in place may take to save time
COPIED = 1 << 21  # values in a copy that is made though rows should be read in place


@dataclass(frozen=True)
class FitInput:
    """The rows of one fit in normalised coordinates.

    Attributes:
        given: (N, D), dense or CSR, as it was validated.
        data: The rows for the core: ``(given - origin) / unit`` in float32, rows in `order`, copied
            or read in place; CSR keeps its values.
        order: (N,) the place in `given` of every row of `data`, or a slice of all.
        origin: (D,) float64, the mean; 0 for CSR.
        unit: A power of two; 1 unless squares would leave the range of float32.
        variance: The mean of the variances of the columns.
    """

    given: Any
    data: Data
    order: Any
    origin: np.ndarray
    unit: float
    variance: float

    def max_mem_gb(self, n_clusters: int, n_init: int, weighted: bool) -> float:
        """Return a cap on the memory of a fit that reads rows in place; 0 (none) for a copy.

        There is room for what such a fit needs, not for all rows as bytes, which would save time.
        """
        if not isinstance(self.data.x, RowStream):
            return 0.0
        n, d = self.given.shape
        labels = 4 * n * (1 + 5 * weighted + (n_init > 1))
        tables = 160 * n_clusters * d
        sample = min(n, SEED_ROWS * n_clusters) * (4 * d + 64)
        tiles = ((os.cpu_count() or 1) + 1) * (3 << 20) + 8192 * d
        return (labels + tables + sample + tiles + ROOM) / 1e9

    def to_frame(self, c: np.ndarray) -> np.ndarray:
        """Return the user's centroids (K, D) in normalised coordinates."""
        return (c - self.origin) / self.unit

    def from_frame(self, c: np.ndarray) -> np.ndarray:
        """Return centroids (K, D) of the core in the user's coordinates, float64."""
        return c.astype(np.float64) * self.unit + self.origin

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Return labels (N,) int32 in the order of the rows as given."""
        out = np.empty(len(labels), np.int32)
        out[self.order] = labels
        return out

    def means(self, weights: np.ndarray, labels: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return the means (1, K, D) of clusters in normalised coordinates, float64.

        Args:
            weights: (N,) of the rows as given.
            labels: (1, N) of the rows of `data`.
            c: (1, K, D) centroids, which stay where a cluster has no weight.
        """
        sums, weight_sum = sums_of(
            self.given, weights, self.labels(labels[0]), c.shape[1], self.origin
        )
        weight_sum = weight_sum[:, None]
        filled = weight_sum > 0
        means = sums / np.where(filled, weight_sum, 1.0) / self.unit
        return np.where(filled, means, c[0])[None]


def fit_input(x: Any, *, by_content: bool, in_place: bool = False) -> FitInput:
    """Return the input of one fit.

    Args:
        x: (N, D) float32 or float64, dense or CSR.
        by_content: Sort the rows by their values. Then draws along the rows depend neither on their
            order nor on whether a row is repeated or has more weight.
        in_place: Read dense rows where they are, in their own order, unless a copy is small.
    """
    n, d = x.shape
    in_place = in_place and not issparse(x) and x.size > COPIED
    order: Any = slice(None) if in_place else content_order(x) if by_content else np.arange(n)
    if issparse(x):
        data = Data(SparseRows(x[order] if by_content else x), mlx=False, batched=False)
        variance = float(np.mean(_column_variances(x)))
        return FitInput(x, data, order, origin=np.zeros(d), unit=1.0, variance=variance)
    origin = x.mean(axis=0, dtype=np.float64)
    squares = 0.0
    largest = 0.0
    for _, tile in _tiles(x, origin):
        squares += np.einsum("nd,nd->", tile, tile)
        largest = max(largest, tile.max(), -tile.min())
    unit = _unit(largest)
    variance = squares / x.size
    if in_place:
        rows = RowStream(ArraySource(x, origin, unit, largest / unit))
        data = Data(rows, mlx=False, batched=False)
        return FitInput(x, data, order, origin=origin, unit=unit, variance=variance)
    out = np.empty((n, d), np.float32)
    for rows in _slices(n, d):
        tile = x[order[rows]] - origin
        out[rows] = tile if unit == 1 else tile / unit
    data = Data(out[None], mlx=False, batched=False)
    return FitInput(x, data, order, origin=origin, unit=unit, variance=variance)


def from_mlx(x: Any) -> Any:
    """Return an `mx.array` as NumPy, 16-bit floats as float32; anything else as it is."""
    if not isinstance(x, mx.array):
        return x
    return np.array(x.astype(mx.float32) if x.dtype in (mx.float16, mx.bfloat16) else x)


def match_type(x: Any, value: Any) -> Any:
    """Return a result as `mx.array` if x is one."""
    return mx.array(value) if isinstance(x, mx.array) and isinstance(value, np.ndarray) else value


def content_order(x: Any) -> np.ndarray:
    """Return (N,) indices that sort rows x (N, D) by their projection on one direction.

    Equal rows are next to each other in this order.
    """
    direction: Any = np.random.default_rng(0).standard_normal(x.shape[1])
    if issparse(x):
        return np.argsort(x @ direction, kind="stable")
    key = np.empty(len(x))
    with open_progress() as progress:
        progress.phase("reading")
        progress.begin(len(x))
        for rows, tile in _tiles(x, 0.0):
            key[rows] = np.einsum("nd,d->n", tile, direction)
            progress.advance(len(tile))
    return np.argsort(key, kind="stable")


def nearest(x: Any, centers: np.ndarray, backend: str | None) -> np.ndarray:
    """Return (N,) int32, the nearest of centers (K, D) for rows x (N, D), dense or CSR."""
    if issparse(x):
        return _assign(Data(SparseRows(x), mlx=False, batched=False), centers, backend)
    origin = centers.mean(axis=0, dtype=np.float64)
    gap = centers - origin
    out = np.empty(len(x), np.int32)
    with open_progress() as progress:
        progress.phase("labelling")
        progress.begin(len(x))
        for rows in _slices(len(x), x.shape[1], 16 * TILE):
            tile = x[rows] - origin
            unit = _unit(max(np.abs(gap).max(), tile.max(), -tile.min()))
            tile = (tile / unit).astype(np.float32)
            out[rows] = _assign(Data(tile[None], mlx=False, batched=False), gap / unit, backend)
            progress.advance(len(tile))
    return out


def _assign(data: Data, centers: np.ndarray, backend: str | None) -> np.ndarray:
    with assigned(data, centers, "euclidean", None, 0.0, backend, check_finite=False) as (
        _,
        points,
        _,
    ):
        return points.labels()[0].astype(np.int32)


def inertia_of(x: Any, centers: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted sum of squared distances of x (N, D) to their centers (K, D), in float64.

    For dense x it is computed from differences.
    """
    if issparse(x):
        points = SparsePoints(Problem(SparseRows(x), len(centers), EUCLIDEAN, x.shape))
        points.labels()[0] = labels
        return float(weights @ points.costs(centers[None], 0))
    total = 0.0
    for rows, tile in _tiles(x, 0.0):
        gap = tile - centers[labels[rows]]
        total += weights[rows] @ np.einsum("nd,nd->n", gap, gap)
    return float(total)


def distances(x: Any, centers: np.ndarray) -> np.ndarray:
    """Return Euclidean distances (N, K) of x (N, D) to centers in x's dtype.

    Their relative error is small for tiny distances too.
    """
    out = np.empty((x.shape[0], len(centers)), x.dtype)
    origin = np.zeros(x.shape[1]) if issparse(x) else centers.mean(axis=0, dtype=np.float64)
    c = centers - origin
    square = np.square(c).sum(1)
    for rows in _slices(x.shape[0], max(len(c), 1 if issparse(x) else x.shape[1])):
        tile = x[rows] if issparse(x) else x[rows] - origin
        tile_square = (
            np.asarray(tile.multiply(tile).sum(1)).reshape(-1)
            if issparse(x)
            else np.einsum("nd,nd->n", tile, tile)
        )
        scale = tile_square[:, None] + square
        squared = scale - 2.0 * (tile @ c.T)
        i, k = np.nonzero(squared < CANCELLED * scale)
        for pairs in _slices(len(i), x.shape[1]):
            near = tile[i[pairs]]
            gap = (near.toarray() if issparse(x) else near) - c[k[pairs]]
            squared[i[pairs], k[pairs]] = np.square(gap).sum(1)
        out[rows] = np.sqrt(squared)
    return out


def sums_of(
    x: Any, weights: np.ndarray, labels: np.ndarray, k: int, origin: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return weighted sums (K, D) of x - origin by label, and the sums of weights (K,), float64.

    CSR has no origin.
    """
    if issparse(x):
        return cluster_sums(x, weights, labels, k)
    sums = np.zeros((k, x.shape[1]))
    weight_sum = np.zeros(k)
    for rows, tile in _tiles(x, origin):
        tile_sums, tile_weight_sum = cluster_sums(tile, weights[rows], labels[rows], k)
        sums += tile_sums
        weight_sum += tile_weight_sum
    return sums, weight_sum


def variance_of(x: Any) -> float:
    """Return the mean of the variances of the columns of rows x (N, D)."""
    n, d = x.shape
    origin = np.zeros(d)
    for _, tile in _tiles(x, 0.0):
        origin += tile.sum(0)
    origin /= n
    return sum(float(np.einsum("nd,nd->", tile, tile)) for _, tile in _tiles(x, origin)) / (n * d)


def _column_variances(x: Any) -> Any:
    moments: Any = mean_variance_axis(x, axis=0)
    return moments[1]


def _unit(largest: float) -> float:
    """Return the power of two that values up to this magnitude are divided by."""
    if 0 < largest < SMALL or largest > LARGE:
        return float(np.exp2(np.floor(np.log2(largest))))
    return 1.0


def _slices(n: int, d: int, values: int = TILE) -> Iterator[slice]:
    step = max(1, values // d)
    for lo in range(0, n, step):
        yield slice(lo, lo + step)


def _tiles(x: Any, origin: np.ndarray | float) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, x[rows] - origin in float64), one tile at a time."""
    for rows in _slices(*x.shape):
        yield rows, x[rows] - np.asarray(origin, np.float64)
