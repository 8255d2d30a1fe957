"""Results of searches: padded to k where too few were found, and collected within a radius."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

__all__ = ["Found", "as_float32", "no_results", "padded", "to_caller", "within_radius"]

# Distances (Q, k) float32 and ids (Q, k) int64, nearest first.
Found = tuple[np.ndarray, np.ndarray]

FIRST_K = 128  # neighbours of a query that a range search ranks at first
RANKED_AT_ONCE = 1 << 22  # results of all queries together


def no_results(shape: tuple[int, int], metric: str) -> Found:
    """Return results (Q, k) that stand for no vector: distances inf (-inf for "dot"), ids -1."""
    worst = -np.inf if metric == "dot" else np.inf
    return np.full(shape, worst, np.float32), np.full(shape, -1, np.int64)


def as_float32(distances: np.ndarray, metric: str) -> np.ndarray:
    """Return distances in float64 as callers get them: float32, similarities for "dot"."""
    if metric == "dot":
        distances = -distances
    with np.errstate(over="ignore", under="ignore"):
        return distances.astype(np.float32)


def padded(found: Found, k: int, metric: str) -> Found:
    """Return results (Q, k) that begin with the found ones (Q, fewer than k)."""
    distances, ids = found
    no_distances, no_ids = no_results((len(ids), k - ids.shape[1]), metric)
    return np.concatenate([distances, no_distances], 1), np.concatenate([ids, no_ids], 1)


def to_caller(results: tuple[np.ndarray, ...], is_mlx: bool) -> Any:
    """Return the results as a tuple of `mx.array` if the queries were one, or as they are."""
    return tuple(map(mx.array, results)) if is_mlx else results


def within_radius(
    search: Callable[[np.ndarray, int], Found],
    queries: np.ndarray,
    n_vectors: int,
    radius: float,
    metric: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all vectors within a radius of queries (Q, D), found by searches for the k nearest.

    Args:
        search: Returns distances and ids (Q, k) for some of the queries and k.
        queries: (Q, D).
        n_vectors: Vectors in the index, the largest k.
        radius: In the units of the distances, a lower bound for "dot".
        metric: Of the distances.

    Returns:
        ``lims (Q + 1,) int64, distances, ids``: Those of query i are ``lims[i]:lims[i + 1]``.
    """
    sign = -1 if metric == "dot" else 1
    found = [(np.zeros(0, np.float32), np.zeros(0, np.int64))] * len(queries)
    unfinished = np.arange(len(queries) if n_vectors else 0)
    k = FIRST_K
    while len(unfinished):
        k = min(k, n_vectors)
        all_inside = []
        for part in np.array_split(unfinished, -(-len(unfinished) * k // RANKED_AT_ONCE)):
            distances, ids = search(queries[part], k)
            n_inside = ((sign * distances < sign * radius) & (ids >= 0)).sum(1)
            for i, query in enumerate(part):
                found[query] = distances[i, : n_inside[i]], ids[i, : n_inside[i]]
            all_inside.append(part[(n_inside == k) & (k < n_vectors)])
        # Where all of the k nearest are inside, there may be more.
        unfinished = np.concatenate(all_inside)
        k *= 8
    lims = np.cumsum([0] + [len(ids) for _, ids in found])
    distances = np.concatenate([distances for distances, _ in found])
    return lims, distances, np.concatenate([ids for _, ids in found])
