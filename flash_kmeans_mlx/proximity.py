"""What neighbours are near by: five distances, as data, each with its definition in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .metrics import unit_rows

__all__ = ["PROXIMITIES", "Proximity"]

NEAR = 2.0**-20  # 1 - cos below which it is computed from differences; above, ties of whole numbers stay ties


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
