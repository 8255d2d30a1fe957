"""All distances: `Metric` for k-means, `Proximity` for neighbours; each has a float64 definition.

Backends and kernels see a metric through its flags, which are defined here. Under k-means, every
assignment is the best of ``<x, c> + bias(c)``, and centroids come from weighted sums of points:

========= ======================= ==================== =================================
metric    bias(c)                 weight of x in sums  centroid
========= ======================= ==================== =================================
euclidean ``-||c||^2 / 2``        1                    sum / weight
cosine    0                       ``1 / ||x||``        sum / ``||sum||``
dot       0                       1                    sum / ``||sum||``
========= ======================= ==================== =================================

Cosine is spherical k-means (Dhillon and Modha, 2001). Dot normalises sums too: with plain means the
objective may get worse. Scaling a row never changes which centroid is best for it, so cosine needs
no normalised copy of x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "COSINE",
    "DOT",
    "EUCLIDEAN",
    "METRICS",
    "PROXIMITIES",
    "Metric",
    "Proximity",
    "directional_costs",
    "unit_rows",
]

# 1 - cos below which it is computed from differences. Above, ties of whole numbers stay ties.
NEAR = 2.0**-20


@dataclass(frozen=True)
class Metric:
    """A metric of k-means.

    Attributes:
        name: The public name.
        spherical: Whether centroids are unit vectors and the bias is zero; otherwise they are
            means, with the bias ``-||c||^2 / 2``.
        unit_points: Whether points count by their direction only.
    """

    name: str
    spherical: bool
    unit_points: bool

    def bias(self, c: np.ndarray) -> np.ndarray:
        """Return (..., K) float32, added to ``<x, c>`` for centroids c (..., K, D)."""
        if self.spherical:
            return np.zeros(c.shape[:-1], np.float32)
        squares = np.einsum("...kd,...kd->...k", c, c, dtype=np.float64)
        return (-0.5 * squares).astype(np.float32)

    def start(self, c: np.ndarray) -> np.ndarray:
        """Return centroids (..., K, D) to start from: unit rows where `spherical`."""
        return unit_rows(c) if self.spherical else c

    def costs(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return the costs (N, K) of points under centroids, from their definition.

        Squared Euclidean distances, ``1 - cos``, or ``-<x, c>``.

        Args:
            x: (N, D) float64; of norm 1 or 0 where `unit_points`.
            c: (K, D) float64.
        """
        if self.unit_points:
            return directional_costs(x, c)
        if self.spherical:
            return -x @ c.T
        return np.stack([np.square(x - row).sum(axis=1) for row in c], axis=1)

    def distances(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return the distances (N, K) float64 from rows x (N, D) to centroids c (K, D).

        Euclidean distances, not squared; ``1 - cos``; ``-<x, c>``.
        """
        if self.unit_points:
            x = unit_rows(x)
            c = unit_rows(c)
            has_direction = np.outer(x.any(1), c.any(1))
            return np.where(has_direction, _squares(x, c) / 2, 1.0)
        return -(x @ c.T) if self.spherical else np.sqrt(_squares(x, c))

    def finalize(
        self, sums: np.ndarray, weight_sum: np.ndarray, previous: np.ndarray
    ) -> np.ndarray:
        """Return centroids (..., K, D) float64.

        Args:
            sums: (..., K, D) weighted sums of points.
            weight_sum: (..., K) the weights in them.
            previous: (..., K, D) centroids, kept where a cluster has no weight.
        """
        size = weight_sum
        if self.spherical:
            size = np.sqrt(np.einsum("...d,...d->...", sums, sums))
        has_size = size > 0
        divisor = np.where(has_size, size, 1.0)
        return np.where(has_size[..., None], sums / divisor[..., None], previous)


@dataclass(frozen=True)
class Proximity:
    """A distance between queries and rows.

    The dot product, which is largest for the nearest row, is a distance with its sign changed.

    Attributes:
        name: The public name.
        product: Whether rows are found by ``<q, x>``; otherwise by differences.
        unit: Whether rows count by their direction only.
        similarity: Whether callers get minus the distance.
    """

    name: str
    product: bool = False
    unit: bool = False
    similarity: bool = False

    def distances(self, q: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return distances (..., M) float64.

        Squared Euclidean, ``1 - cos`` (1 where a row is zero, 0 where float64 sees no angle), minus
        the dot product, l1 or linf.

        Args:
            q: (..., D) float64 queries.
            x: (..., M, D) float64 rows of each query, or (M, D) for all of them.
        """
        if self.unit:
            return _angles(q, x)
        if self.product:
            return -np.einsum("...d,...md->...m", q, x)
        gap = np.abs(q[..., None, :] - x)
        if self.name == "euclidean":
            return np.square(gap).sum(-1)
        return gap.sum(-1) if self.name == "l1" else gap.max(-1)


def directional_costs(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return (N, K) 1 - cos, half the squared differences of unit rows; 1 without a direction.

    Args:
        x: (N, D) float64 rows of norm 1 or 0.
        c: (K, D) float64.
    """
    half = np.stack([np.square(x - row).sum(axis=1) / 2 for row in unit_rows(c)], axis=1)
    return np.where(np.outer(x.any(1), c.any(1)), half, 1.0)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Return rows divided by their norms, in float64; zero rows stay zero."""
    x = np.asarray(x, np.float64)
    largest = np.abs(x).max(-1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1.0)
    norm = np.sqrt(np.einsum("...d,...d->...", x, x))[..., None]
    return x / np.where(norm > 0, norm, 1.0)


def _squares(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return squared distances (N, K) float64 of rows x (N, D) and c (K, D)."""
    shift = c.mean(axis=0)  # near the data, the expansion of distances rounds less
    x = x - shift
    c = c - shift
    squares = np.square(x).sum(1)[:, None] + np.square(c).sum(1) - 2.0 * x @ c.T
    return np.maximum(squares, 0.0)


def _angles(q: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return ``1 - cos`` as `Proximity.distances` does: by differences where it is small."""
    q = _scaled_to_one(q)
    x = _scaled_to_one(x)
    norms = np.square(q).sum(-1)[..., None] * np.square(x).sum(-1)
    products = np.einsum("...d,...md->...m", q, x)
    has_direction = norms > 0
    out = np.where(
        has_direction, 1.0 - products / np.sqrt(np.where(has_direction, norms, 1.0)), 1.0
    )
    near = np.nonzero(out < NEAR)
    if len(near[0]):
        rounding = (x.shape[-1] + 8) * 2.0**-52
        rows = x[near[-1]] if x.ndim == 2 else x[near]
        square = np.square(unit_rows(q[near[:-1]]) - unit_rows(rows)).sum(-1)
        out[near] = np.where(square > rounding**2, 0.5 * square, 0.0)
    return out


def _scaled_to_one(x: np.ndarray) -> np.ndarray:
    """Return rows times powers of two, of magnitude about 1: their squares stay in range."""
    return np.ldexp(x, -np.frexp(np.abs(x).max(-1, keepdims=True))[1])


EUCLIDEAN = Metric("euclidean", spherical=False, unit_points=False)
COSINE = Metric("cosine", spherical=True, unit_points=True)
DOT = Metric("dot", spherical=True, unit_points=False)
METRICS = {m.name: m for m in (EUCLIDEAN, COSINE, DOT)}
PROXIMITIES = {
    p.name: p
    for p in (
        Proximity("euclidean"),
        Proximity("cosine", product=True, unit=True),
        Proximity("dot", product=True, similarity=True),
        Proximity("l1"),
        Proximity("linf"),
    )
}
