"""Exact search for a few queries, where that is faster than queries as SIMD lanes."""

from __future__ import annotations

import numpy as np

from ...metrics import Proximity
from ..neighbours import Found
from . import kernels
from .team import CALL
from .workers import Workers

__all__ = ["few_are_faster", "nearest_of_few"]

# Lanes are as fast from some 5 queries on, but take a quarter of a millisecond to begin. To score a
# row takes as long as ROW_PRODUCTS more products.
MAX_QUERIES = 4
MAX_PRODUCTS, ROW_PRODUCTS = 3_500_000, 40
MAX_NEIGHBOURS = 128  # those of a query are kept in order
METRICS = {"euclidean", "cosine", "dot", "l1"}  # that the kernel has


def few_are_faster(q: int, n: int, d: int, k: int, proximity: Proximity) -> bool:
    """Return whether it is faster to score n rows for one of q queries at a time."""
    is_few = q <= MAX_QUERIES or q * n * (d + ROW_PRODUCTS) < MAX_PRODUCTS
    return is_few and k <= MAX_NEIGHBOURS and proximity.name in METRICS


def nearest_of_few(
    op: int, queries: np.ndarray, data: np.ndarray, skip: int, out: Found, workers: Workers
) -> bool:
    """Search by several threads; see `nearest_rows` of kernels/cpu/few.py.

    Args:
        op: The distance.
        queries: (Q, D) float32.
        data: (N, D) float32.
        skip: Query i never gets row skip + i.
        out: Distances and indices (Q, k) to fill.
        workers: Threads.

    Returns:
        Whether all scores are finite.
    """
    n, d = data.shape
    q, k = out[0].shape
    shards = min(n, max(workers.n, -(-q * n * d // CALL)))
    distances, indices = np.empty((shards, q, k)), np.empty((shards, q, k), np.int64)
    finite = np.empty(shards, np.bool_)

    def search(_slot: int, i: int) -> None:
        first = n * i // shards
        rows = data[first : n * (i + 1) // shards]
        finite[i] = kernels.few.nearest_rows(
            op, queries, rows, first, skip, distances[i], indices[i]
        )

    workers.run(search, shards, work=n)
    for i in range(1, shards):
        kernels.finish.merge_lists(distances[0], indices[0], distances[i], indices[i])
    out[0][:], out[1][:] = distances[0], indices[0]
    return bool(finite.all())
