"""Initial centroids: random rows, greedy k-means++, k-means||. Decisions are made here, distances by the backend.

Every batch element of a batch draws from the same stream, so that a stack of fits equals the fits of the stack.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import validation
from ..backends import spawn
from ..backends.draws import OVERSAMPLING, ROUNDS, chunks, draw_points
from ..backends.points import Points

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
    """Centroids (B, K, D) float32 by name, array or callable `init(x, n_clusters, rng)`."""
    if not isinstance(init, str):
        name = "init" if not callable(init) else "init(x, n_clusters, rng)"
        if callable(init):
            init = init(data.x if data.batched else data.x[0], n_clusters, rng)
        return validation.centroids(init, data, n_clusters, name, check_finite)
    choose = {"random": random_rows, "k-means++": kmeans_plusplus, "k-means||": kmeans_parallel}[
        init
    ]
    index = choose(points, n_clusters, rng)
    return np.stack([points.rows(b, index[b]) for b in range(len(index))]).astype(np.float32)


def random_rows(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """(B, K) distinct rows, drawn in proportion to their weights."""
    b, n, _ = points.shape
    plain = rng.choice(n, n_clusters, replace=False)
    state = rng.bit_generator.state
    chosen = np.empty((b, n_clusters), np.int64)
    for element in range(b):
        rng.bit_generator.state = state  # the same stream for every batch element
        weights = points.draw_weights(element)
        chosen[element] = plain if weights is None else _weighted_rows(weights, n_clusters, rng)
    return chosen


def _weighted_rows(weights: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """The k smallest of Exp(1) / weight: a weighted draw without replacement (Efraimidis and Spirakis, 2006)."""
    keys = rng.standard_exponential(len(weights), np.float32)
    with np.errstate(divide="ignore"):
        keys /= weights
    some = np.flatnonzero(keys <= np.partition(keys, k - 1)[k - 1])
    return some[np.argsort(keys[some], kind="stable")][:k]


def kmeans_plusplus(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """(B, K) rows by greedy k-means++ (Arthur and Vassilvitskii, 2007): each round keeps the best of 2 + log K draws."""
    n = points.shape[1]
    trials = min(2 + int(np.log(n_clusters)), MOST_TRIALS)
    first, uniforms = rng.random(), rng.random((n_clusters, trials))
    starts = np.array(
        [_first(points.draw_weights(element), n, first) for element in range(points.shape[0])]
    )
    chosen = points.kmeans_plusplus(starts, uniforms)
    for element in chosen:  # fewer distinct points than clusters: any unused rows will do
        left = int((element < 0).sum())
        if left:
            element[-left:] = np.setdiff1d(np.arange(min(n, 2 * n_clusters)), element[:-left])[
                :left
            ]
    return chosen


def kmeans_parallel(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """(B, K) rows by k-means|| (Bahmani et al., 2012): a few rounds that draw many rows each, then k-means++ among them."""
    state = rng.bit_generator.state
    chosen = []
    for b in range(points.shape[0]):
        rng.bit_generator.state = state  # the same stream for every batch element
        chosen.append(_parallel_element(points, b, n_clusters, rng))
    points.reset()
    return np.stack(chosen)


def _parallel_element(
    points: Points, b: int, n_clusters: int, rng: np.random.Generator
) -> np.ndarray:
    n_batch, n, _ = points.shape
    weights = points.draw_weights(b)
    only = np.arange(n_batch) == b
    candidates = fresh = np.array([_first(weights, n, rng.random())])
    cost = np.zeros(0)
    owner = np.zeros(n, np.uint32)
    for last in [False] * ROUNDS + [True]:
        if len(fresh):
            centres = points.metric.start(points.rows(b, fresh)).astype(np.float32)
            centres = np.broadcast_to(centres, (n_batch, *centres.shape))
            points.reset()  # labels of a round before this one are not these centres'
            points.assign(centres, only)
            new = points.excess(centres, b)
            cost = cost if cost.size else np.full_like(new, np.inf)
            np.add(
                points.labels()[b],
                np.uint32(len(candidates) - len(fresh)),
                out=owner,
                where=new < cost,
            )
            np.minimum(cost, new, out=cost)
        if not last:
            fresh = np.setdiff1d(_oversample(cost, weights, n_clusters, rng), candidates)
            candidates = np.concatenate([candidates, fresh])
    if len(candidates) < n_clusters:
        unused = np.setdiff1d(np.arange(n), candidates)
        return np.concatenate(
            [candidates, rng.choice(unused, n_clusters - len(candidates), replace=False)]
        )
    weight_sum = np.zeros(len(candidates))
    for c in chunks(n):
        weight_sum += np.bincount(
            owner[c], weights=None if weights is None else weights[c], minlength=len(candidates)
        )
    with spawn(
        points, points.rows(b, candidates)[None], weight_sum[None].astype(np.float32)
    ) as few:
        return candidates[kmeans_plusplus(few, n_clusters, rng)[0]]


def _oversample(
    cost: np.ndarray, weights: np.ndarray | None, k: int, rng: np.random.Generator
) -> np.ndarray:
    """Points drawn independently, about OVERSAMPLING * k of them, by weight times cost."""
    parts = chunks(len(cost))

    def potential(c: slice) -> np.ndarray:
        return cost[c] * (np.float64(1) if weights is None else weights[c].astype(np.float64))

    whole = sum(potential(c).sum() for c in parts)
    share = OVERSAMPLING * k / whole if whole > 0 else 0.0
    drawn = (
        np.flatnonzero(rng.random(len(cost[c])) < share * potential(c)) + c.start for c in parts
    )
    return np.concatenate(list(drawn))


def _first(weights: np.ndarray | None, n: int, uniform: float) -> int:
    return (
        int(uniform * n) if weights is None else int(draw_points(weights, np.array([uniform]))[0])
    )
