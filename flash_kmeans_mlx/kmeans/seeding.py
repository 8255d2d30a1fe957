"""Initial centroids: random rows, greedy k-means++, k-means||.

Rows are chosen here; distances are computed by the backend. Every batch element draws from the same
stream of random numbers, so a batched fit gives the same results as separate fits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import validation
from ..backends import spawn
from ..backends.draws import OVERSAMPLING, ROUNDS, SEED_ROWS, chunks, draw_points
from ..backends.points import Points
from ..backends.stream import RowStream
from . import arguments

__all__ = ["INITS", "initial_centroids"]

INITS = ("random", "k-means++", "k-means||")
MOST_TRIALS = 16  # reached by a million clusters


def initial_centroids(
    points: Points,
    init: Any,
    data: validation.Data,
    n_clusters: int,
    rng: np.random.Generator,
    check_finite: bool,
) -> np.ndarray:
    """Return centroids (B, K, D) float32 by name or callable `init(x, n_clusters, rng)`."""
    if callable(init):
        is_stream = isinstance(data.x, RowStream)
        given = data.x.rows if is_stream else data.x if data.batched else data.x[0]
        given = given.reshape(data.given_shape) if data.heads else given
        init = init(given, n_clusters, rng)
        name = "init(x, n_clusters, rng)"
        return arguments.centroids(init, data, n_clusters, name, check_finite)
    plusplus = sampled_plusplus if points.sampled_seeds else kmeans_plusplus
    methods = {"random": random_rows, "k-means++": plusplus, "k-means||": kmeans_parallel}
    index = methods[init](points, n_clusters, rng)
    return np.stack([points.rows(b, index[b]) for b in range(len(index))]).astype(np.float32)


def random_rows(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return (B, K) distinct rows, drawn in proportion to their weights."""
    n_batch, n, _ = points.shape
    unweighted = rng.choice(n, n_clusters, replace=False)
    state = rng.bit_generator.state
    chosen = np.empty((n_batch, n_clusters), np.int64)
    for b in range(n_batch):
        rng.bit_generator.state = state
        weights = points.draw_weights(b)
        chosen[b] = unweighted if weights is None else _weighted_rows(weights, n_clusters, rng)
    return chosen


def _weighted_rows(weights: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return k distinct rows: of the smallest Exp(1) / weight (Efraimidis, Spirakis, 2006)."""
    keys = rng.standard_exponential(len(weights), np.float32)
    with np.errstate(divide="ignore"):
        keys /= weights
    smallest = np.flatnonzero(keys <= np.partition(keys, k - 1)[k - 1])
    return smallest[np.argsort(keys[smallest], kind="stable")][:k]


def kmeans_plusplus(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return (B, K) rows by greedy k-means++ (Arthur and Vassilvitskii, 2007).

    Each round keeps the best of 2 + log K draws.
    """
    n_batch, n, _ = points.shape
    trials = min(2 + int(np.log(n_clusters)), MOST_TRIALS)
    uniform = rng.random()
    uniforms = rng.random((n_clusters, trials))
    first = np.array([_first(points.draw_weights(b), n, uniform) for b in range(n_batch)])
    chosen = points.kmeans_plusplus(first, uniforms)
    for rows in chosen:
        missing = int((rows < 0).sum())
        if missing:  # fewer distinct points than clusters: any unused rows will do
            unused = np.setdiff1d(np.arange(min(n, 2 * n_clusters)), rows[:-missing])
            rows[-missing:] = unused[:missing]
    return chosen


def sampled_plusplus(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return (1, K) rows by greedy k-means++ on a sample of SEED_ROWS rows per cluster.

    A sample of weighted rows is drawn by weight, and its rows then count alike.
    """
    n = points.shape[1]
    size = min(n, SEED_ROWS * n_clusters)
    weights = None if points.point_weights is None else points.point_weights[0]
    if size == n:
        index = np.arange(n)
    elif weights is None:
        index = rng.choice(n, size, replace=False)
    else:
        index = _weighted_rows(weights, size, rng)
        if np.count_nonzero(weights) >= size:
            weights = None
    index = np.sort(index)
    few_weights = None if weights is None else weights[None, index]
    rows = points.sample(index)[None]
    bytes_in_use = points.bytes_in_use() + rows.nbytes + 2 * index.nbytes
    with spawn(points, rows, few_weights, bytes_in_use) as few:
        return index[kmeans_plusplus(few, n_clusters, rng)]


def kmeans_parallel(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return (B, K) rows by k-means|| (Bahmani et al., 2012).

    A few rounds draw many candidates each; k-means++ chooses among them.
    """
    state = rng.bit_generator.state
    chosen = []
    for b in range(points.shape[0]):
        rng.bit_generator.state = state
        chosen.append(_parallel_rows(points, b, n_clusters, rng))
    points.reset()
    return np.stack(chosen)


def _parallel_rows(points: Points, b: int, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return (K,) rows of batch element b by k-means||."""
    n_batch, n, _ = points.shape
    weights = points.draw_weights(b)
    only_b = np.arange(n_batch) == b
    candidates = np.array([_first(weights, n, rng.random())])
    new = candidates
    cost = np.zeros(0)
    owner = np.zeros(n, np.uint32)
    for is_last in [False] * ROUNDS + [True]:
        if len(new):
            centroids = points.metric.start(points.rows(b, new)).astype(np.float32)
            centroids = np.broadcast_to(centroids, (n_batch, *centroids.shape))
            points.reset()  # the labels of the last round belong to other centroids
            points.assign(centroids, only_b)
            new_cost = points.excess(centroids, b)
            cost = cost if cost.size else np.full_like(new_cost, np.inf)
            offset = np.uint32(len(candidates) - len(new))
            np.add(points.labels()[b], offset, out=owner, where=new_cost < cost)
            np.minimum(cost, new_cost, out=cost)
        if not is_last:
            new = np.setdiff1d(_oversample(cost, weights, n_clusters, rng), candidates)
            candidates = np.concatenate([candidates, new])
    missing = n_clusters - len(candidates)
    if missing > 0:
        unused = np.setdiff1d(np.arange(n), candidates)
        return np.concatenate([candidates, rng.choice(unused, missing, replace=False)])
    weight_sum = np.zeros(len(candidates))
    for part in chunks(n):
        part_weights = None if weights is None else weights[part]
        weight_sum += np.bincount(owner[part], part_weights, minlength=len(candidates))
    rows = points.rows(b, candidates)[None]
    with spawn(points, rows, weight_sum[None].astype(np.float32)) as few:
        return candidates[kmeans_plusplus(few, n_clusters, rng)[0]]


def _oversample(
    cost: np.ndarray, weights: np.ndarray | None, k: int, rng: np.random.Generator
) -> np.ndarray:
    """Return points drawn independently, about OVERSAMPLING * k of them, by weight times cost."""
    parts = chunks(len(cost))

    def potential(part: slice) -> np.ndarray:
        weight = np.float64(1) if weights is None else weights[part].astype(np.float64)
        return cost[part] * weight

    total = sum(potential(part).sum() for part in parts)
    share = OVERSAMPLING * k / total if total > 0 else 0.0
    drawn = [
        np.flatnonzero(rng.random(len(cost[part])) < share * potential(part)) + part.start
        for part in parts
    ]
    return np.concatenate(drawn)


def _first(weights: np.ndarray | None, n: int, uniform: float) -> int:
    """Return the row of n at `uniform` in [0, 1) of the cumulative weights."""
    if weights is None:
        return int(uniform * n)
    return int(draw_points(weights, np.array([uniform]))[0])
