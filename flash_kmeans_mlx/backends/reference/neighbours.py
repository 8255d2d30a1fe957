"""Exact search in float64: the oracle that other backends are judged by."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...metrics import Proximity
from ...validation import check_magnitude, to_numpy
from ..neighbours import NOTHING, Found, Neighbours, largest

__all__ = ["ReferenceNeighbours", "measure_rows"]

MEASURED = 1 << 16  # values of rows that are in float64 together


class ReferenceNeighbours(Neighbours):
    """All distances of one query at a time, by their definition, and a stable sort."""

    backend = "reference"

    def nearest(self, data: Any, offset: int, before: Found | None) -> Found:
        n_batch, n_queries, d = self.request.queries.shape
        n = data.shape[1]
        m = min(self.request.k, n)
        need = 16 * n_batch * n_queries * m + 8 * n * (4 * d + 8) + (1 << 18)
        self.request.check_cap(need, f"on the {self.backend} backend")
        check_magnitude(largest(data), tuple(data.shape), "data")
        distances = np.full((n_batch, n_queries, m), np.inf)
        indices = np.full((n_batch, n_queries, m), NOTHING)
        skipped = self.skipped(offset, n)
        for b in range(n_batch):
            rows = to_numpy(data[b]).astype(np.float64)
            for q in range(n_queries):
                query = to_numpy(self.request.queries[b, q]).astype(np.float64)
                values = self.request.proximity.distances(query, rows)
                order = np.argsort(values, kind="stable")[: m + 1]
                order = order[order != skipped[q]][:m]
                distances[b, q, : len(order)] = values[order]
                indices[b, q, : len(order)] = order
        return distances, indices


def measure_rows(
    proximity: Proximity, queries: np.ndarray, rows: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Return the distances of queries from some of the rows; see `backends.measure_rows`."""
    distances = np.full(places.shape, np.inf)
    step = max(1, MEASURED // max(1, places.shape[1] * rows.shape[1]))
    for lo in range(0, len(queries), step):
        part = slice(lo, lo + step)
        values = proximity.distances(
            queries[part].astype(np.float64), rows[places[part]].astype(np.float64)
        )
        np.copyto(distances[part], values, where=places[part] >= 0)
    return distances
