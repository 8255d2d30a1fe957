"""Initial centroids: random rows, greedy k-means++, k-means||. Decisions are made here, distances by the backend.

Every member of a batch draws from the same stream, so that a stack of fits equals the fits of the stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import validation

if TYPE_CHECKING:
    from .backends.base import Points

__all__ = ["INITS", "draw_points", "initial_centroids"]

INITS = ("random", "k-means++", "k-means||")
OVERSAMPLING = 2.0  # candidates per round of k-means||, in units of K (Bahmani et al. 2012)
ROUNDS = 5


def initial_centroids(
    points: Points, init: Any, data: validation.Data, n_clusters: int, rng: np.random.Generator, check_finite: bool
) -> np.ndarray:
    """Centroids (B, K, D) float32 by name, array or callable `init(x, n_clusters, rng)`."""
    if not isinstance(init, str):
        name = "init" if not callable(init) else "init(x, n_clusters, rng)"
        if callable(init):
            init = init(data.x if data.batched else data.x[0], n_clusters, rng)
        return validation.centroids(init, points.shape, n_clusters, name, check_finite)
    choose = {"random": random_rows, "k-means++": kmeans_plusplus, "k-means||": kmeans_parallel}[init]
    index = choose(points, n_clusters, rng)
    return np.stack([points.rows(b, index[b]) for b in range(len(index))]).astype(np.float32)


def random_rows(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """(B, K) distinct rows, drawn in proportion to their weights."""
    b, n, _ = points.shape
    if points.point_weights is None:
        return np.broadcast_to(rng.choice(n, n_clusters, replace=False), (b, n_clusters))
    # The K smallest of Exp(1) / weight: a weighted draw without replacement (Efraimidis and Spirakis, 2006).
    noise = rng.standard_exponential(n, np.float32)
    with np.errstate(divide="ignore"):
        return np.stack([_smallest(noise / w, n_clusters) for w in points.point_weights])


def _smallest(keys: np.ndarray, k: int) -> np.ndarray:
    some = np.argpartition(keys, k - 1)[:k]
    return some[np.argsort(keys[some], kind="stable")]


def kmeans_plusplus(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """(B, K) rows by greedy k-means++ (Arthur and Vassilvitskii, 2007): each round keeps the best of 2 + log K draws."""
    b, n, _ = points.shape
    trials = 2 + int(np.log(n_clusters))
    first, uniforms = rng.random(), rng.random((n_clusters, trials))
    chosen = np.empty((b, n_clusters), np.int64)
    if points.point_weights is None:
        chosen[:, 0] = int(first * n)
    else:
        chosen[:, 0] = [draw_points(w, np.array([first]))[0] for w in points.point_weights]
    state = points.seeding(chosen[:, 0], trials)
    for k in range(1, n_clusters):
        candidates = state.draw(uniforms[k])
        spent = candidates[:, 0] < 0
        for i in np.flatnonzero(spent):  # fewer distinct points than clusters: any unused row will do
            candidates[i] = np.setdiff1d(np.arange(min(n, k + 1)), chosen[i, :k])[0]
        best = state.totals(candidates).argmin(axis=1)
        state.take(best)
        chosen[:, k] = candidates[np.arange(b), best]
    return chosen


def kmeans_parallel(points: Points, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """(B, K) rows by k-means|| (Bahmani et al., 2012): a few rounds that draw many rows each, then k-means++ among them."""
    state = rng.bit_generator.state
    chosen = []
    for b in range(points.shape[0]):
        rng.bit_generator.state = state  # the same stream for every member
        chosen.append(_parallel_member(points, b, n_clusters, rng))
    points.reset()
    return np.stack(chosen)


def _parallel_member(points: Points, b: int, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    n_members, n, _ = points.shape
    weight = np.ones(n, np.float32) if points.point_weights is None else points.point_weights[b]
    only = np.arange(n_members) == b
    candidates = fresh = draw_points(weight, rng.random(1))
    cost = np.full(n, np.inf, np.float32)
    owner = np.zeros(n, np.uint32)
    for _ in range(ROUNDS):
        _nearest(points, b, only, fresh, cost, owner, len(candidates) - len(fresh))
        potential = weight * cost
        whole = potential.sum(dtype=np.float64)
        if whole <= 0:
            break
        draw = rng.random(n, np.float32) * whole < OVERSAMPLING * n_clusters * potential
        draw[candidates] = False
        fresh = np.flatnonzero(draw)
        candidates = np.concatenate([candidates, fresh])
    else:
        _nearest(points, b, only, fresh, cost, owner, len(candidates) - len(fresh))
    if len(candidates) < n_clusters:
        unused = np.setdiff1d(np.arange(n), candidates)
        missing = rng.choice(unused, n_clusters - len(candidates), replace=False)
        return np.concatenate([candidates, missing])
    mass = np.bincount(owner, weights=weight, minlength=len(candidates)).astype(np.float32)
    with points.like(points.rows(b, candidates)[None], mass[None]) as few:
        return candidates[kmeans_plusplus(few, n_clusters, rng)[0]]


def _nearest(
    points: Points, b: int, only: np.ndarray, fresh: np.ndarray, cost: np.ndarray, owner: np.ndarray, offset: int
) -> None:
    """Lower `cost` and `owner` where one of the rows `fresh`, numbered from `offset`, is nearer."""
    if not len(fresh):
        return
    centres = points.metric.start(points.rows(b, fresh)).astype(np.float32)
    centres = np.broadcast_to(centres, (len(only), *centres.shape))
    points.assign(centres, only)
    new = np.maximum(points.costs(centres, b), 0)
    nearer = new < cost
    cost[nearer] = new[nearer]
    owner[nearer] = points.labels()[b, nearer] + np.uint32(offset)


def draw_points(potential: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Indices at uniforms (L,) in [0, 1) of the cumulative potential (N,), or -1 where there is none."""
    total = np.cumsum(potential, dtype=np.float64)
    if total[-1] <= 0:
        return np.full(len(uniforms), -1, np.int64)
    last = len(potential) - 1 - int((potential[::-1] > 0).argmax())  # rounding must not draw beyond it
    return np.minimum(np.searchsorted(total, uniforms * total[-1], side="right"), last)
