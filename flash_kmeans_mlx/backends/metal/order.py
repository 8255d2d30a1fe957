"""The labels of an E-step, and rows sorted by label.

Batch elements that aren't running keep their labels; their order is undefined.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from . import sums_launch as launches
from .device import SIMD, Launch, ceil_div
from .kernels import Found
from .sources import call

__all__ = ["Order", "counting_sort", "sort_labels", "take_labels"]


class Order(NamedTuple):
    """Rows sorted by label.

    Attributes:
        labels: (B, N) uint32.
        changed: (B, chunks) uint32, whether a label of the chunk changed.
        order: (B, N) uint32, undefined beyond the last offset.
        offsets: (B, K + 1) uint32, where each cluster begins in `order`; the last is the number of
            rows in it.
    """

    labels: mx.array
    changed: mx.array
    order: mx.array
    offsets: mx.array


def take_labels(found: Found, old: mx.array, running: mx.array) -> tuple[mx.array, mx.array]:
    """Return labels (B, N), the old ones where nothing runs, and whether any changed.

    The latter are (B, N / 32) uint32: a flag for every 32 rows.
    """
    b, n = old.shape
    simdgroups = ceil_div(n, SIMD)
    labels, changed = call(
        "take_labels",
        inputs=[*found, old, running],
        launch=Launch((simdgroups * SIMD, b, 1), (256, 1, 1)),
        shapes=[(b, n), (b, simdgroups)],
        dtypes=[mx.uint32] * 2,
    )
    return labels, changed


def counting_sort(labels: mx.array, n_clusters: int) -> Order:
    """Return the rows of labels (B, N) uint32 in the stable order of their labels.

    Labels >= n_clusters are left out.
    """
    running = mx.ones((len(labels),), mx.uint32)
    return sort_labels(Found(labels[None], labels[None]), labels, None, running, n_clusters)


def sort_labels(
    found: Found,
    old: mx.array,
    weights: mx.array | None,
    running: mx.array,
    n_clusters: int,
) -> Order:
    """Take the labels of an E-step, and sort the rows by them.

    Labels >= n_clusters are left out, and so are rows whose weight isn't positive.

    Args:
        found: The outcome of the E-step.
        old: (B, N) uint32, labels of the iteration before.
        weights: (B, N) float32, or None for ones.
        running: (B,) uint32, 0 for batch elements that keep their labels.
        n_clusters: Number of clusters.
    """
    b, n = old.shape
    sort = launches.sort_launch(b, n, n_clusters)
    sizes = [mx.array([n_clusters, *digit, sort.chunk_rows], mx.uint32) for digit in sort.digits]
    weight = old if weights is None else weights
    labels, changed, counts = call(
        "count_labels",
        inputs=[*found, old, weight, running, sizes[0]],
        launch=sort.launch,
        shapes=[(b, n), (b, sort.chunks), (b, sort.chunks, sort.digits[0].buckets)],
        dtypes=[mx.uint32] * 3,
        TABLE=sort.table,
        WEIGHTED=weights is not None,
    )

    def sort_chunks(
        order: mx.array, before: mx.array, base: mx.array, shape: tuple[int, ...], **flags: bool
    ) -> mx.array:
        (out,) = call(
            "sort_chunk",
            inputs=[labels, weight, order, before, base, running, sizes[flags["INDEXED"]]],
            launch=sort.launch,
            shapes=[shape],
            dtypes=[mx.uint32],
            TABLE=sort.table,
            **flags,
        )
        return out

    unread = labels
    base, starts = _scan(counts, running)
    weighted = weights is not None
    order = sort_chunks(unread, unread, base, (b, n), PLACE=True, INDEXED=False, WEIGHTED=weighted)
    if len(sort.digits) == 1:
        return Order(labels, changed, order, starts)
    flags = {"INDEXED": True, "WEIGHTED": False}
    shape = (b, sort.chunks, sort.digits[1].buckets)
    counts = sort_chunks(order, starts, unread, shape, PLACE=False, **flags)
    base, _ = _scan(counts, running)
    order = sort_chunks(order, starts, base, (b, n), PLACE=True, **flags)
    (offsets,) = call(
        "find_offsets",
        inputs=[labels, order, starts, running, sizes[1]],
        launch=Launch((n + 1, b, 1), (256, 1, 1)),
        shapes=[(b, n_clusters + 1)],
        dtypes=[mx.uint32],
    )
    return Order(labels, changed, order, offsets)


def _scan(counts: mx.array, running: mx.array) -> tuple[mx.array, mx.array]:
    """Return where each chunk and bucket (B, chunks, buckets) goes, and starts (B, buckets + 1)."""
    b, _, buckets = counts.shape
    base, starts = call(
        "scan_counts",
        inputs=[counts, running],
        launch=launches.scan_launch(b),
        shapes=[counts.shape, (b, buckets + 1)],
        dtypes=[mx.uint32] * 2,
        NSG=launches.SCAN_SIMDGROUPS,
    )
    return base, starts
