"""What follows an E-step: the new labels, sums of clusters, and whether a batch element stops.

Up to 64 clusters sums are taken from rows as they come, beyond from sorted rows. Every
function leaves batch elements that aren't running as they were, without reading their points.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ..points import STABLE
from . import launch as launches
from .device import SIMD, Launch, ceil_div
from .kernels import Found, Normalisation, normalisation_inputs
from .launch import Digit, SortLaunch
from .sources import call

__all__ = [
    "Order",
    "Progress",
    "Reduced",
    "Rows",
    "Sums",
    "accumulate",
    "counting_sort",
    "reduce",
    "take_labels",
]


class Rows(NamedTuple):
    """The points that are summed.

    Attributes:
        x: (B, N, D) points.
        weights: (B, N) float32, or None for ones. Points whose weight isn't positive are left out.
        normalisation: Normalisation of points, or None to read them as they are.
    """

    x: mx.array
    weights: mx.array | None = None
    normalisation: Normalisation | None = None

    @property
    def inputs(self) -> list[mx.array]:
        """The points, weights, shift and factor as kernels take them."""
        weights = self.x if self.weights is None else self.weights
        return [self.x, weights, *normalisation_inputs(self.normalisation, self.x)]

    @property
    def flags(self) -> dict[str, object]:
        return {
            "T": self.x.dtype,
            "WEIGHTED": self.weights is not None,
            "FRAMED": self.normalisation is not None,
        }


class Sums(NamedTuple):
    """Sums of each cluster.

    Attributes:
        sums: (B, K, D) float32.
        weight_sum: (B, K) float32, the weights in `sums`.
        counts: (B, K) uint32, the rows in `sums`.
    """

    sums: mx.array
    weight_sum: mx.array
    counts: mx.array


class Progress(NamedTuple):
    """What the stop rules read and write.

    Attributes:
        running: (B,) uint32, 0 where a batch element has stopped.
        remaining: (B,) int32, E-steps to the limit.
        status: (B,) int32, PENDING, STABLE or SETTLED.
    """

    running: mx.array
    remaining: mx.array
    status: mx.array


class Reduced(NamedTuple):
    """The outcome of an E-step.

    Attributes:
        labels: (B, N) uint32.
        sums: The sums of clusters.
        progress: The state after the E-step; `running` says whose centroids move.
    """

    labels: mx.array
    sums: Sums
    progress: Progress


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


def reduce(
    rows: Rows,
    found: Found,
    old_labels: mx.array,
    old: Sums,
    progress: Progress,
    *,
    keep_empty: bool = False,
) -> Reduced:
    """Return labels, sums and the state after an E-step.

    Args:
        rows: The points.
        found: The outcome of the E-step.
        old_labels: (B, N) uint32, of the iteration before. Labels that are not below K are left out
            of the sums.
        old: Sums of the iteration before.
        progress: The state before the E-step.
        keep_empty: Whether a batch element goes on though a cluster has no rows.
    """
    step = _reduce_dense if old.counts.shape[1] <= launches.DENSE_CLUSTERS else _reduce_sorted
    return step(
        rows, found, old_labels, old, progress, {"KEEP_EMPTY": keep_empty, "STABLE": STABLE}
    )


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


def accumulate(
    x: mx.array,
    labels: mx.array,
    n_clusters: int,
    weights: mx.array | None = None,
    normalisation: Normalisation | None = None,
) -> Sums:
    """Return the sums of the points of each cluster, the same bits every time.

    Labels >= n_clusters are left out, and so are points whose weight isn't positive.

    Args:
        x: (B, N, D) points.
        labels: (B, N) uint32.
        n_clusters: Number of clusters.
        weights: (B, N) float32, or None for ones.
        normalisation: Normalisation of points, or None to read them as they are.
    """
    b, _, d = x.shape
    cells = (b, n_clusters)
    old = Sums(mx.zeros((*cells, d)), mx.zeros(cells), mx.zeros(cells, mx.uint32))
    rows = Rows(x, weights, normalisation)
    return reduce(rows, _as_found(labels), labels, old, _started(b)).sums


def counting_sort(labels: mx.array, n_clusters: int) -> Order:
    """Return the rows of labels (B, N) uint32 in the stable order of their labels.

    Labels >= n_clusters are left out.
    """
    running = _started(len(labels)).running
    return _sort(_as_found(labels), labels, None, running, n_clusters)


def _as_found(labels: mx.array) -> Found:
    return Found(labels[None], labels[None])


def _started(b: int) -> Progress:
    return Progress(*(mx.ones((b,), dtype) for dtype in (mx.uint32, mx.int32, mx.int32)))


def _reduce_dense(
    rows: Rows,
    found: Found,
    old_labels: mx.array,
    old: Sums,
    progress: Progress,
    flags: dict[str, object],
) -> Reduced:
    b, n, d = rows.x.shape
    k = old.counts.shape[1]
    labels, changed = take_labels(found, old_labels, progress.running)
    launch = launches.dense_sums_launch(b, n, k, d)
    cells = (b, launch.chunks, k)
    sizes = mx.array([k, launch.chunk_rows], mx.uint32)
    partial = call(
        "sum_dense",
        inputs=[*rows.inputs, labels, progress.running, sizes],
        launch=launch.sum_dense,
        shapes=[(*cells, d), cells, cells],
        dtypes=[mx.float32, mx.float32, mx.uint32],
        LANES=launch.lanes,
        NSG=launch.nsg,
        TABLE=launch.table,
        **rows.flags,
    )
    sums = Sums(
        *call(
            "join_dense",
            inputs=[*partial, *old, progress.running],
            launch=launch.join_dense,
            shapes=[a.shape for a in old],
            dtypes=[a.dtype for a in old],
            LANES=launch.lanes,
            NSG=launches.JOIN_SIMDGROUPS,
            WEIGHTED=rows.weights is not None,
        )
    )
    checked = call(
        "check_labels",
        inputs=[*progress, changed, sums.counts],
        launch=Launch((SIMD, b, 1), (SIMD, 1, 1)),
        shapes=[(b,)] * 3,
        dtypes=[mx.uint32, mx.int32, mx.int32],
        **flags,
    )
    return Reduced(labels, sums, Progress(*checked))


def _reduce_sorted(
    rows: Rows,
    found: Found,
    old_labels: mx.array,
    old: Sums,
    progress: Progress,
    flags: dict[str, object],
) -> Reduced:
    b, n, d = rows.x.shape
    k = old.counts.shape[1]
    labels, changed, order, offsets = _sort(found, old_labels, rows.weights, progress.running, k)
    launch = launches.sorted_sums_launch(b, n, k, d, narrow=rows.x.size < 8)
    sizes = mx.array([launch.chunk_rows, launch.whole_rows], mx.uint32)
    template = {**rows.flags, "LANES": launch.lanes, "W": launch.width, "NSG": launch.nsg}
    # `partial` has at least 2 * 8 elements unless D is so small that loads are of one element.
    (partial,) = call(
        "sum_chunks",
        inputs=[*rows.inputs, labels, order, offsets, progress.running, sizes],
        launch=launch.sum_chunks,
        shapes=[(b, launch.chunks, 2, d + (rows.weights is not None))],
        dtypes=[mx.float32],
        **template,
    )
    *sums, active, remaining, status = call(
        "sum_clusters",
        inputs=[*rows.inputs, order, offsets, partial, *old, *progress, changed, sizes],
        launch=launch.sum_clusters,
        shapes=[*(a.shape for a in old), *[(b,)] * 3],
        dtypes=[*(a.dtype for a in old), mx.uint32, mx.int32, mx.int32],
        **template,
        **flags,
    )
    return Reduced(labels, Sums(*sums), Progress(active, remaining, status))


def _sort(
    found: Found,
    old_labels: mx.array,
    weights: mx.array | None,
    running: mx.array,
    n_clusters: int,
) -> Order:
    """Take the labels of an E-step, and sort the rows by them."""
    b, n = old_labels.shape
    sort = launches.sort_launch(b, n, n_clusters)
    sizes = _sizes(sort, sort.digits[0], n_clusters)
    weight = old_labels if weights is None else weights
    labels, changed, counts = call(
        "count_labels",
        inputs=[*found, old_labels, weight, running, sizes],
        launch=sort.launch,
        shapes=[(b, n), (b, sort.chunks), (b, sort.chunks, sort.digits[0].buckets)],
        dtypes=[mx.uint32] * 3,
        TABLE=sort.table,
        WEIGHTED=weights is not None,
    )
    base, starts = _scan(counts, running)
    rows = [labels, weight, labels, labels]  # without an order and starts of a digit before
    order = _sort_chunks(rows, base, running, sort, sizes, WEIGHTED=weights is not None)
    if len(sort.digits) == 1:
        return Order(labels, changed, order, starts)
    rows = [labels, weight, order, starts]
    sizes = _sizes(sort, sort.digits[1], n_clusters)
    buckets = sort.digits[1].buckets
    counts = _sort_chunks(rows, None, running, sort, sizes, INDEXED=True, buckets=buckets)
    base, _ = _scan(counts, running)
    order = _sort_chunks(rows, base, running, sort, sizes, INDEXED=True)
    (offsets,) = call(
        "find_offsets",
        inputs=[labels, order, starts, running, sizes],
        launch=Launch((n + 1, b, 1), (256, 1, 1)),
        shapes=[(b, n_clusters + 1)],
        dtypes=[mx.uint32],
    )
    return Order(labels, changed, order, offsets)


def _sizes(sort: SortLaunch, digit: Digit, n_clusters: int) -> mx.array:
    return mx.array([n_clusters, *digit, sort.chunk_rows], mx.uint32)


def _sort_chunks(
    rows: list[mx.array],
    base: mx.array | None,
    running: mx.array,
    sort: SortLaunch,
    sizes: mx.array,
    *,
    buckets: int = 0,
    INDEXED: bool = False,
    WEIGHTED: bool = False,
) -> mx.array:
    """Return the order (B, N) by a digit, or without `base` counts (B, chunks, buckets)."""
    b, n = rows[0].shape
    (out,) = call(
        "sort_chunk",
        inputs=[*rows, rows[0] if base is None else base, running, sizes],
        launch=sort.launch,
        shapes=[(b, sort.chunks, buckets) if base is None else (b, n)],
        dtypes=[mx.uint32],
        PLACE=base is not None,
        INDEXED=INDEXED,
        WEIGHTED=WEIGHTED,
        TABLE=sort.table,
    )
    return out


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
