"""Clusters that go on with new points, beside what is known of the old ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import validation
from ..backends.points import Points
from ..backends.sparse import cluster_sums
from ..backends.stream import RowStream
from ..metrics import Metric, unit_rows

__all__ = ["Past", "cluster_weights", "go_on", "move", "past_of", "tiles"]

TILE_VALUES = 1 << 16  # in float64 at a time


class Past(NamedTuple):
    """The points that clusters have had.

    Attributes:
        sums: (B, K, D) float64, weighted sums of points, of unit rows for cosine.
        counts: (B, K) float64, their weights.
    """

    sums: np.ndarray
    counts: np.ndarray

    def means(self, metric: Metric, before: np.ndarray) -> np.ndarray:
        """Return centroids (B, K, D) float32; those of clusters without points stay as before."""
        return metric.finalize(self.sums, self.counts, before).astype(np.float32)


def past_of(model: Any, data: validation.Data) -> tuple[np.ndarray, Past]:
    """Return the centroids (B, K, D) of a `FlashKMeans`, and its past, for new points.

    Raises:
        ValueError: The points have other dimensions, or the model no weights of clusters.
    """
    c = np.array(model.centroids, np.float32)
    if len(data.lead) != c.ndim - 2:
        raise ValueError(
            f"x must have {c.ndim} dimensions like the points of fit (x.shape={data.given_shape})"
        )
    if model.counts_ is None:
        raise ValueError(
            "this model was saved by a version that kept no weights of clusters: set counts_ to"
            f" those of its points, shape {c.shape[:-1]}, or fit it again"
        )
    c = c.reshape(-1, *c.shape[-2:])
    counts = np.asarray(model.counts_, np.float64).reshape(c.shape[:2])
    if model._sums is not None:
        return c, Past(model._sums.reshape(c.shape), counts)
    inertia = np.asarray(model.inertia_, np.float64).reshape(-1)
    return c, _past_of_fit(validation.metric(model.metric), c, counts, inertia)


def _past_of_fit(
    metric: Metric, centroids: np.ndarray, counts: np.ndarray, inertia: np.ndarray
) -> Past:
    """Return the past of a fit.

    Unit vectors of spherical metrics do not tell how long the sums were: together they are as long
    as the inertia says, each in proportion to its weight.

    Args:
        metric: The metric.
        centroids: (B, K, D).
        counts: (B, K) float64, the weights of the clusters.
        inertia: (B,) float64.
    """
    size = counts
    if metric.spherical:
        total = counts.sum(1)
        products = (total if metric.unit_points else 0.0) - inertia
        size = (
            counts * np.divide(products, total, out=np.zeros_like(total), where=total > 0)[:, None]
        )
    return Past(size[..., None] * centroids.astype(np.float64), counts)


def move(
    data: validation.Data, points: Points, past: Past, before: np.ndarray
) -> tuple[Past, np.ndarray]:
    """Add the points under their labels to the past; return it, and its centroids (B, K, D)."""
    sums = past.sums.copy()
    counts = past.counts.copy()
    b, _, d = data.shape
    k = counts.shape[1]
    unit = points.metric.unit_points
    for i in range(b):
        weights = None if points.point_weights is None else points.point_weights[i]
        for lo, rows in tiles(data.x, i, max(1, TILE_VALUES // d)):
            part = slice(lo, lo + len(rows))
            own = np.ones(len(rows)) if weights is None else weights[part].astype(np.float64)
            if unit:
                own = own * rows.any(1)  # rows of zeros count nowhere
            summed = unit_rows(rows) if unit else rows
            new, weight_sum = cluster_sums(summed, own, points.labels()[i, part], k)
            sums[i] += new
            counts[i] += weight_sum
    after = Past(sums, counts)
    return after, after.means(points.metric, before)


def go_on(
    data: validation.Data, points: Points, past: Past, c: np.ndarray, niter: int, tol: float
) -> tuple[Past, np.ndarray, int]:
    """Run Lloyd's loop from centroids c (B, K, D), which the points are labelled by, with the past.

    Returns:
        The past with these points in it, centroids (B, K, D) which the points are labelled by, and
        the number of iterations.
    """
    running = np.ones(len(c), bool)
    after, new = move(data, points, past, c)
    done = 0
    while running.any() and done < niter:
        done += 1
        points.problem.progress.phase("iteration", done, niter)
        shift = np.sqrt(np.square(new - c.astype(np.float64)).sum(-1)).max(-1)
        c = np.where(running[:, None, None], new, c)
        if (moved := running & (shift > 0)).any():
            points.assign(c, moved)
        running &= shift > tol
        after, new = move(data, points, past, c)
    return after, c, done


def cluster_weights(labels: Any, weights: np.ndarray | None, k: int) -> np.ndarray:
    """Return (B, K) float64, the weights (B, N) of the points of each cluster, by labels (B, N)."""
    labels = np.asarray(labels)
    out = np.zeros((len(labels), k))
    for b, own in enumerate(labels):
        for lo in range(0, len(own), TILE_VALUES):
            part = slice(lo, lo + TILE_VALUES)
            out[b] += np.bincount(own[part], None if weights is None else weights[b, part], k)
    return out


def tiles(x: Any, b: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, rows) of batch element b of points (B, N, D), `step` rows at a time."""
    n = x.shape[1]
    if not isinstance(x, RowStream):
        for lo in range(0, n, step):
            yield lo, validation.to_numpy(x[b, lo : lo + step])
        return
    with x.rows.cursor() as cursor:
        for lo in range(0, n, step):
            yield lo, cursor.read(lo, min(lo + step, n))
