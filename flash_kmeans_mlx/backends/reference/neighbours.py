"""All distances in float64, one query at a time: the oracle that other searches are judged by."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...validation import check_magnitude, to_numpy
from ..neighbours import NOTHING, Found, Neighbours, largest

__all__ = ["ReferenceNeighbours"]


class ReferenceNeighbours(Neighbours):
    """All distances of one query at a time, by their definition in float64, and a stable sort."""

    backend = "reference"

    def nearest(self, data: Any, offset: int, before: Found | None) -> Found:
        b, q, d = self.request.queries.shape
        n = data.shape[1]
        m = min(self.request.k, n)
        self.request.check_cap(
            16 * b * q * m + 8 * n * (4 * d + 8) + (1 << 18), "on the reference backend"
        )
        check_magnitude(largest(data), tuple(data.shape), "data")
        distances, indices = np.empty((b, q, m)), np.empty((b, q, m), np.int64)
        skipped = self.skipped(offset, n)
        for j in range(b):
            rows = to_numpy(data[j]).astype(np.float64)
            for i in range(q):
                query = to_numpy(self.request.queries[j, i]).astype(np.float64)
                value = self.request.proximity.distances(query, rows)
                order = np.argsort(value, kind="stable")[: m + 1]
                order = order[order != skipped[i]][:m]
                distances[j, i], indices[j, i] = np.inf, NOTHING
                distances[j, i, : len(order)], indices[j, i, : len(order)] = value[order], order
        return distances, indices
