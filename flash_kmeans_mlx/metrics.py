"""The three metrics, as data: the only module that knows them.

Every assignment is the best of ``<x, c> + bias(c)``; every centroid comes from weighted sums of points:

========= ======================= ==================== =========================================================
metric    bias(c)                 weight of x in sums  centroid
========= ======================= ==================== =========================================================
euclidean ``-||c||^2 / 2``        1                    sum / weight
cosine    0                       ``1 / ||x||``        sum / ``||sum||`` (Dhillon and Modha, 2001)
dot       0                       1                    sum / ``||sum||``: with it the objective never gets worse
========= ======================= ==================== =========================================================

Scaling a row never changes which centroid is best for it, so cosine needs no normalised copy of x.
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
    "unit_rows",
]


@dataclass(frozen=True)
class Metric:
    """A metric as backends see it: what centroids are, and what a point weighs.

    Attributes:
        name: the public name.
        spherical: centroids are unit vectors and the bias is zero; otherwise means, with the bias ``-||c||^2 / 2``.
        unit_points: points count by their direction only.
    """

    name: str
    spherical: bool
    unit_points: bool

    def bias(self, c: np.ndarray) -> np.ndarray:
        """(..., K) float32, what is added to ``<x, c>`` for centroids c (..., K, D)."""
        if self.spherical:
            return np.zeros(c.shape[:-1], np.float32)
        return (-0.5 * np.einsum("...kd,...kd->...k", c, c, dtype=np.float64)).astype(np.float32)

    def start(self, c: np.ndarray) -> np.ndarray:
        """Centroids (..., K, D) as the loop may start from: unit rows where centroids are unit vectors."""
        return unit_rows(c) if self.spherical else c

    def distances(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        """(N, K) from rows x (N, D) to centroids c (K, D), float64: Euclidean, not squared; ``1 - cos``; ``-dot``."""
        if self.unit_points:
            x, c = unit_rows(x), unit_rows(c)
            plain = np.outer(
                x.any(1), c.any(1)
            )  # 1 - cos is half the square of the difference of unit rows
            return np.where(plain, _squares(x, c) / 2, 1.0)
        return -(x @ c.T) if self.spherical else np.sqrt(_squares(x, c))

    def finalize(
        self, sums: np.ndarray, weight_sum: np.ndarray, previous: np.ndarray
    ) -> np.ndarray:
        """Centroids (..., K, D) float64 from sums (..., K, D) and weights (..., K); `previous` where a cluster has none."""
        size = np.sqrt(np.einsum("...d,...d->...", sums, sums)) if self.spherical else weight_sum
        some = size > 0
        return np.where(some[..., None], sums / np.where(some, size, 1.0)[..., None], previous)


def _squares(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """(N, K) float64 squared distances of rows x (N, D) and c (K, D)."""
    shift = c.mean(axis=0)  # distances do not care where the origin is, their expansion does
    x, c = x - shift, c - shift
    return np.maximum(np.square(x).sum(1)[:, None] + np.square(c).sum(1) - 2.0 * x @ c.T, 0.0)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows divided by their norms, in float64; zero rows stay zero."""
    x = np.asarray(x, np.float64)
    largest = np.abs(x).max(-1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1.0)
    norm = np.sqrt(np.einsum("...d,...d->...", x, x))[..., None]
    return x / np.where(norm > 0, norm, 1.0)


EUCLIDEAN = Metric("euclidean", spherical=False, unit_points=False)
COSINE = Metric("cosine", spherical=True, unit_points=True)
DOT = Metric("dot", spherical=True, unit_points=False)
METRICS = {m.name: m for m in (EUCLIDEAN, COSINE, DOT)}


NEAR = (
    2.0**-20
)  # 1 - cos below which it is computed from differences; above, ties of whole numbers stay ties


@dataclass(frozen=True)
class Proximity:
    """A distance as backends see it; what is largest for the nearest row, the dot product, is a distance with its sign changed.

    Attributes:
        name: the public name.
        product: found by ``<q, x>``; otherwise by differences.
        unit: rows count by their direction only.
        similarity: callers get minus the distance.
    """

    name: str
    product: bool = False
    unit: bool = False
    similarity: bool = False

    def distances(self, q: np.ndarray, x: np.ndarray) -> np.ndarray:
        """(..., M) float64 from queries (..., D) to rows (..., M, D) of their own, or (M, D) for all alike; both float64.

        Squared Euclidean, ``1 - cos`` (1 where a row is zero, 0 where float64 sees no angle), minus the dot product, l1 or
        linf.
        """
        if self.unit:
            return _angles(q, x)
        if self.product:
            return -np.einsum("...d,...md->...m", q, x)
        gap = np.abs(q[..., None, :] - x)
        if self.name == "euclidean":
            return np.square(gap).sum(-1)
        return gap.sum(-1) if self.name == "l1" else gap.max(-1)


def _angles(q: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``1 - cos`` as `Proximity.distances` has it: by differences of unit rows where it is small."""
    q, x = _near_one(q), _near_one(x)
    a, b = np.square(q).sum(-1)[..., None], np.square(x).sum(-1)
    product = np.einsum("...d,...md->...m", q, x)
    some = a * b > 0
    out = np.where(some, 1.0 - product / np.sqrt(np.where(some, a * b, 1.0)), 1.0)
    near = np.nonzero(out < NEAR)
    if len(near[0]):
        rounding = (x.shape[-1] + 8) * 2.0**-52
        rows = x[near[-1]] if x.ndim == 2 else x[near]
        square = np.square(unit_rows(q[near[:-1]]) - unit_rows(rows)).sum(-1)
        out[near] = np.where(square > rounding**2, 0.5 * square, 0.0)
    return out


def _near_one(x: np.ndarray) -> np.ndarray:
    """Rows times a power of two that brings their largest magnitudes to 1, so that their squares are numbers."""
    return np.ldexp(x, -np.frexp(np.abs(x).max(-1, keepdims=True))[1])


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
