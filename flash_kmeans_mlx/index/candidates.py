"""Candidates of a search, ranked by their distances from the queries."""

from __future__ import annotations

import numpy as np

from .. import backends
from ..metrics import PROXIMITIES
from .results import Found, as_float32

__all__ = ["nearest_of"]


def nearest_of(
    queries: np.ndarray,
    rows: np.ndarray,
    places: np.ndarray,
    ids: np.ndarray,
    k: int,
    metric: str,
    backend: str | None,
) -> Found:
    """Return the k nearest of some rows for each query, equal distances by id.

    Args:
        queries: (Q, D) float32.
        rows: (N, D) float32, of which only the candidates are read.
        places: (Q, M >= k) int64, the candidates of each query.
        ids: (Q, M) int64, their ids; -1 for none, whatever its place.
        k: Neighbours of every query.
        metric: The distance.
        backend: As in `Index`.

    Returns:
        (Q, k) distances and ids; inf (-inf for "dot") and -1 where there are fewer candidates.
    """
    distances = backends.measure_rows(
        backends.resolve(backend),
        PROXIMITIES[metric],
        queries,
        rows,
        np.where(ids < 0, -1, places),
    )
    order = np.lexsort((ids, distances))[:, :k]
    nearest = np.take_along_axis(distances, order, 1)
    return as_float32(nearest, metric), np.take_along_axis(ids, order, 1)
