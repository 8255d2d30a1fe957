"""Points as scikit-learn's validation passes them, as the core takes them: float32 around an origin, or CSR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from scipy.sparse import issparse
from sklearn.utils.sparsefuncs import mean_variance_axis

from ..backends import Problem
from ..backends.sparse import SparsePoints, SparseRows, cluster_sums
from ..kmeans.api import assigned
from ..metrics import EUCLIDEAN
from ..validation import Data

__all__ = [
    "Prepared",
    "content_order",
    "distances",
    "from_mlx",
    "inertia_of",
    "like",
    "nearest",
    "prepare",
    "sums_of",
]

TILE = 1 << 16  # values in float64 at a time
CANCELLED = 1e-6  # squared distances below this share of the squared norms have lost digits
LARGE, SMALL = 2.0**100, 2.0**-100


@dataclass(frozen=True)
class Prepared:
    """What one fit reads.

    Attributes:
        given: (N, D), dense or CSR, as it was validated.
        data: the same for the core: ``(given - origin) / unit`` in float32, rows in `order`; CSR keeps its values.
        order: (N,) the place in `given` of every row of `data`.
        origin: (D,) float64, the mean; 0 for CSR.
        unit: a power of two; 1 unless squares would leave float32's range.
        variance: the mean of the columns' variances.
    """

    given: Any
    data: Data
    order: np.ndarray
    origin: np.ndarray
    unit: float
    variance: float

    def to_frame(self, c: np.ndarray) -> np.ndarray:
        """Centroids (K, D) in the core's coordinates."""
        return (c - self.origin) / self.unit

    def from_frame(self, c: np.ndarray) -> np.ndarray:
        """Centroids (K, D) of the core, float64, in the user's coordinates."""
        return c.astype(np.float64) * self.unit + self.origin

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """(N,) int32 of the rows as given."""
        out = np.empty(len(labels), np.int32)
        out[self.order] = labels
        return out

    def means(self, weights: np.ndarray, labels: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Means (1, K, D) by labels (1, N) in the core's coordinates, float64; c (1, K, D) where a cluster has no weight."""
        sums, weight_sum = sums_of(
            self.given, weights, self.labels(labels[0]), c.shape[1], self.origin
        )
        some = weight_sum[:, None] > 0
        return np.where(some, sums / np.where(some, weight_sum[:, None], 1.0) / self.unit, c[0])[
            None
        ]


def prepare(x: Any, *, by_content: bool) -> Prepared:
    """Points for one fit.

    Args:
        x: (N, D) float32 or float64, dense or CSR.
        by_content: sort the rows by their values, so that what is drawn along them depends neither on their order nor on
            whether a row is repeated or weighs more.
    """
    n, d = x.shape
    order = content_order(x) if by_content else np.arange(n)
    if issparse(x):
        data = Data(SparseRows(x[order] if by_content else x), mlx=False, batched=False)
        return Prepared(x, data, order, np.zeros(d), 1.0, float(np.mean(_column_variances(x))))
    origin = x.mean(axis=0, dtype=np.float64)
    squares, largest = 0.0, 0.0
    for _, tile in _tiles(x, origin):
        squares += np.einsum("nd,nd->", tile, tile)
        largest = max(largest, tile.max(), -tile.min())
    unit = _unit(largest)
    out = np.empty((n, d), np.float32)
    for rows in _slices(n, d):
        tile = x[order[rows]] - origin
        out[rows] = tile if unit == 1 else tile / unit
    return Prepared(
        x, Data(out[None], mlx=False, batched=False), order, origin, unit, squares / x.size
    )


def from_mlx(x: Any) -> Any:
    """An `mx.array` as NumPy, 16-bit floats as float32; anything else as it is."""
    if not isinstance(x, mx.array):
        return x
    return np.array(x.astype(mx.float32) if x.dtype in (mx.float16, mx.bfloat16) else x)


def like(x: Any, value: Any) -> Any:
    """A result as the caller of x gets it: `mx.array` if x is one."""
    return mx.array(value) if isinstance(x, mx.array) and isinstance(value, np.ndarray) else value


def content_order(x: Any) -> np.ndarray:
    """(N,) indices that sort rows x (N, D) by their projection on one direction: equal rows become neighbours."""
    direction: Any = np.random.default_rng(0).standard_normal(x.shape[1])
    if issparse(x):
        return np.argsort(x @ direction, kind="stable")
    key = np.empty(len(x))
    for rows, tile in _tiles(x, 0.0):
        key[rows] = np.einsum("nd,d->n", tile, direction)
    return np.argsort(key, kind="stable")


def nearest(x: Any, centers: np.ndarray, backend: str | None) -> np.ndarray:
    """(N,) int32 labels of x (N, D), dense or CSR, by centers (K, D)."""
    if issparse(x):
        return _assign(Data(SparseRows(x), mlx=False, batched=False), centers, backend)
    origin = centers.mean(axis=0, dtype=np.float64)
    gap = centers - origin
    out = np.empty(len(x), np.int32)
    for rows in _slices(len(x), x.shape[1], 16 * TILE):
        tile = x[rows] - origin
        unit = _unit(max(np.abs(gap).max(), tile.max(), -tile.min()))
        tile = (tile / unit).astype(np.float32)
        out[rows] = _assign(Data(tile[None], mlx=False, batched=False), gap / unit, backend)
    return out


def _assign(data: Data, centers: np.ndarray, backend: str | None) -> np.ndarray:
    with assigned(data, centers, "euclidean", None, 0.0, backend, check_finite=False) as (
        _,
        points,
        _,
    ):
        return points.labels()[0].astype(np.int32)


def inertia_of(x: Any, centers: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Weighted sum of the squared distances of x (N, D) to centers (K, D) by label, in float64; from differences if dense."""
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
    """(N, K) Euclidean distances of x (N, D) to centers in x's dtype, relatively accurate where they are tiny too."""
    out = np.empty((x.shape[0], len(centers)), x.dtype)
    origin = np.zeros(x.shape[1]) if issparse(x) else centers.mean(axis=0, dtype=np.float64)
    c = centers - origin
    square = np.square(c).sum(1)
    for rows in _slices(x.shape[0], max(len(c), 1 if issparse(x) else x.shape[1])):
        tile = x[rows] if issparse(x) else x[rows] - origin
        own = (
            np.asarray(tile.multiply(tile).sum(1)).reshape(-1)
            if issparse(x)
            else np.einsum("nd,nd->n", tile, tile)
        )
        scale = own[:, None] + square
        found = scale - 2.0 * (tile @ c.T)
        i, k = np.nonzero(found < CANCELLED * scale)
        for some in _slices(len(i), x.shape[1]):
            near = tile[i[some]]
            found[i[some], k[some]] = np.square(
                (near.toarray() if issparse(x) else near) - c[k[some]]
            ).sum(1)
        out[rows] = np.sqrt(found)
    return out


def sums_of(
    x: Any, weights: np.ndarray, labels: np.ndarray, k: int, origin: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums (K, D) of x - origin by label and the weights (K,) in them, float64. CSR has no origin."""
    if issparse(x):
        return cluster_sums(x, weights, labels, k)
    sums, weight_sum = np.zeros((k, x.shape[1])), np.zeros(k)
    for rows, tile in _tiles(x, origin):
        more = cluster_sums(tile, weights[rows], labels[rows], k)
        sums += more[0]
        weight_sum += more[1]
    return sums, weight_sum


def _column_variances(x: Any) -> Any:
    moments: Any = mean_variance_axis(x, axis=0)
    return moments[1]


def _unit(largest: float) -> float:
    return (
        float(np.exp2(np.floor(np.log2(largest))))
        if largest > LARGE or 0 < largest < SMALL
        else 1.0
    )


def _slices(n: int, d: int, values: int = TILE) -> Iterator[slice]:
    step = max(1, values // d)
    for lo in range(0, n, step):
        yield slice(lo, lo + step)


def _tiles(x: Any, origin: np.ndarray | float) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, x[rows] - origin in float64), one tile at a time."""
    for rows in _slices(*x.shape):
        yield rows, x[rows] - np.asarray(origin, np.float64)
