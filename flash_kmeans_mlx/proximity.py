"""What neighbours are near by: five distances, as data, each with its definition in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .metrics import unit_rows

__all__ = ["PROXIMITIES", "Proximity"]


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

        Squared Euclidean, ``1 - cos`` (1 where a row is zero), minus the dot product, l1 or linf.
        """
        if self.product:
            if self.unit:
                q, x = unit_rows(q), unit_rows(x)
            product = np.einsum("...d,...md->...m", q, x)
            return np.maximum(1.0 - product, 0.0) if self.unit else -product
        gap = np.abs(q[..., None, :] - x)
        if self.name == "euclidean":
            return np.square(gap).sum(-1)
        return gap.sum(-1) if self.name == "l1" else gap.max(-1)


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
