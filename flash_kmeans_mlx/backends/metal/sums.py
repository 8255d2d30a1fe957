"""The reduction of an E-step: new labels, sums of clusters, and whether a batch element stops.

Up to 64 clusters sums are taken from rows as they come, beyond from sorted rows. Every
function leaves batch elements that aren't running as they were, without reading their points.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ..points import STABLE
from . import sums_launch as launches
from .device import SIMD, Launch
from .kernels import Found, Normalisation, normalisation_inputs
from .order import sort_labels, take_labels
from .sources import call

__all__ = ["Progress", "Reduced", "Rows", "Sums", "accumulate", "reduce"]


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
    """The state that the stop rules read and write.

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
    return step(rows, found, old_labels, old, progress, keep_empty)


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
    progress = Progress(*(mx.ones((b,), dtype) for dtype in (mx.uint32, mx.int32, mx.int32)))
    return reduce(rows, Found(labels[None], labels[None]), labels, old, progress).sums


def _reduce_dense(
    rows: Rows,
    found: Found,
    old_labels: mx.array,
    old: Sums,
    progress: Progress,
    keep_empty: bool,
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
        inputs=[*progress, changed, sums.counts, mx.array([keep_empty], mx.uint32)],
        launch=Launch((SIMD, b, 1), (SIMD, 1, 1)),
        shapes=[(b,)] * 3,
        dtypes=[mx.uint32, mx.int32, mx.int32],
        STABLE=STABLE,
    )
    return Reduced(labels, sums, Progress(*checked))


def _reduce_sorted(
    rows: Rows,
    found: Found,
    old_labels: mx.array,
    old: Sums,
    progress: Progress,
    keep_empty: bool,
) -> Reduced:
    b, n, d = rows.x.shape
    k = old.counts.shape[1]
    labels, changed, order, offsets = sort_labels(
        found, old_labels, rows.weights, progress.running, k
    )
    launch = launches.sorted_sums_launch(b, n, k, d, narrow=rows.x.size < 8)
    sizes = mx.array([launch.chunk_rows, launch.whole_rows, keep_empty], mx.uint32)
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
        STABLE=STABLE,
        **template,
    )
    return Reduced(labels, Sums(*sums), Progress(active, remaining, status))
