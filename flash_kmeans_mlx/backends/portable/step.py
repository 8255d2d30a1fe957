"""One E-step of a tile of rows and its sums, as graphs of MLX operations.

Sums are made by sorting, never by atomics, so that they have the same bits every time.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...frame import Frame

__all__ = ["best", "scored_once", "step_tile"]

PIECE = 256  # rows that are summed in one chain of float32 additions


def best(x: mx.array, c: mx.array, bias: mx.array) -> mx.array:
    """Return the best centroid (B, T) uint32 of rows x (B, T, D)."""
    return mx.argmax(mx.addmm(bias[:, None], x, c.swapaxes(1, 2)), axis=-1)


def step_tile(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    origin: mx.array,
    weights: mx.array,
    old: mx.array,
    running: mx.array,
) -> tuple[mx.array, ...]:
    """Label a tile and sum it by cluster.

    Args:
        x: (B, T, D) rows.
        c: (B, K, D) centroids.
        bias: (B, K) float32.
        origin: (B, K, D), subtracted from the rows of each cluster before they are summed.
        weights: (B, T) float32.
        old: (B, T) uint32 labels before.
        running: (B, 1) bool; other batch elements keep their labels.

    Returns:
        Labels (B, T), sums (B, K, D), their weights (B, K), points of positive weight (B, K), and
        the number (B,) of labels that changed.
    """
    n_batch, t, d = x.shape
    k = c.shape[1]
    labels = mx.where(running, best(x, c, bias), old)
    # Rows are sorted by batch element and cluster, and cut at the ends of clusters and of pieces.
    # Pieces are summed first, then the pieces of a cluster.
    element = mx.arange(n_batch, dtype=mx.int32)[:, None]
    key = (labels.astype(mx.int32) + element * k).reshape(-1)
    order = mx.argsort(key)
    clusters = mx.arange(n_batch * k, dtype=mx.int32)
    ends = mx.searchsorted(key[order], clusters, side="right").astype(mx.int32)
    starts = mx.concatenate([mx.zeros((1,), mx.int32), ends[:-1]])
    pieces = mx.arange(PIECE, t, PIECE, dtype=mx.int32) + element * t
    cuts = mx.sort(mx.concatenate([ends, pieces.reshape(-1)]))
    last = mx.searchsorted(cuts, ends, side="right").astype(mx.int32)
    w = weights.reshape(-1)[order]
    x = x.reshape(-1, d)[order] - origin.reshape(-1, d)[key[order]]
    x = mx.concatenate([x, mx.ones((w.size, 1))], axis=1)  # the last column sums the weights
    parts = mx.segmented_mm(w[None], x, _segments(cuts))[:, 0]
    sums = mx.segmented_mm(mx.ones((1, len(parts))), parts, _segments(last))[:, 0]
    counted = mx.concatenate([mx.zeros((1,), mx.int32), mx.cumsum((w > 0).astype(mx.int32))])
    counts = counted[ends] - counted[starts]
    changed = (labels != old).sum(axis=1)
    shape = (n_batch, k)
    return (
        labels,
        sums[:, :d].reshape(*shape, d),
        sums[:, d].reshape(shape),
        counts.reshape(shape),
        changed,
    )


def _segments(ends: mx.array) -> mx.array:
    """Return (S, 2) uint32 starts and ends of ranges that follow one another."""
    starts = mx.concatenate([mx.zeros((1,), ends.dtype), ends[:-1]])
    return mx.stack([starts, ends], axis=1).astype(mx.uint32)


def scored_once(frame: Frame, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `Frame.scored` of centroids (B, K, D), with a bias of -inf for repeated ones.

    A matrix product may round equal columns differently; without the copies, ties still go to the
    lowest index.
    """
    c, bias = frame.scored(centroids)
    key = np.einsum("bkd,d->bk", c, np.cos(np.arange(c.shape[2])), dtype=np.float64)
    order = np.argsort(key, axis=1, kind="stable")
    ranked = np.take_along_axis(key, order, axis=1)
    for b, i in zip(*np.nonzero(ranked[:, 1:] == ranked[:, :-1]), strict=True):
        if np.array_equal(c[b, order[b, i]], c[b, order[b, i + 1]]):
            bias[b, order[b, i + 1]] = -np.inf
    return c, bias
