"""The Metal kernels as functions of arrays: each chooses its launch, builds its kernel once and calls it.

Points are x (B, N, D) in float32, float16 or bfloat16. With `shift` (B, D) and `factor` (B,) they are read as
``(x - shift) * factor``; give both or neither. Kernels take their sizes from shapes: only dtypes, tiles and flags are
template arguments, so that the number of pipelines is bounded however many shapes there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from . import launch as launches
from .device import SIMD, Device, Launch
from .launch import PointTiles, Tiles
from .sources import BEST_TYPES, call

__all__ = [
    "Order",
    "Sums",
    "accumulate",
    "argmax",
    "assign",
    "counting_sort",
    "frame_inputs",
    "move_centroids",
    "tile_arguments",
    "top_of_rows",
    "topk",
]


class Order(NamedTuple):
    """Rows sorted by label.

    Attributes:
        order: (B, N) uint32, undefined beyond the last offset.
        offsets: (B, K + 1) uint32, where each cluster begins in it; the last is the number of rows in it.
    """

    order: mx.array
    offsets: mx.array


class Sums(NamedTuple):
    """Per cluster: sums (B, K, D) float32, the weights in them (B, K) float32 and the rows in them (B, K) uint32."""

    sums: mx.array
    weight_sum: mx.array
    counts: mx.array


def assign(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    shift: mx.array | None = None,
    factor: mx.array | None = None,
    config: Tiles | PointTiles | None = None,
    device: Device | None = None,
) -> tuple[mx.array, mx.array]:
    """Labels (B, N) uint32 and scores (B, N) float32 of the best centroid: argmax over K of <x, c> + bias.

    Ties go to the lowest index. A row of NaN gets label 0 and score -inf.
    """
    b, n, d = x.shape
    config = config or launches.assign_configs(d)[0]
    launch = launches.assign_launch(config, b, n, c.shape[1], device or Device())
    parts = launch.grid[2]
    if isinstance(config, PointTiles):
        name, tiles = "assign_points", {"D": config.d, "PT": config.points, "BN": config.centroids}
    else:
        name, tiles = "assign_rows", tile_arguments(config)
    label, score = call(
        name,
        [x, c, bias, *frame_inputs(shift, factor, c)],
        launch,
        [(parts, b, n)] * 2,
        BEST_TYPES,
        T=x.dtype,
        **tiles,
        FRAMED=shift is not None,
    )
    if parts == 1:
        return label[0], score[0]
    best = mx.argmax(score, axis=0, keepdims=True)  # the first of equals: the lowest centroids
    return mx.take_along_axis(label, best, axis=0)[0], mx.take_along_axis(score, best, axis=0)[0]


def argmax(scores: mx.array) -> tuple[mx.array, mx.array]:
    """Index (R,) uint32 and value (R,) float32 of the best of each row of scores (R, K); ties to the lowest index."""
    r, k = scores.shape
    rows = launches.argmax_rows(r, k, scores.dtype.size)
    label, score = call(
        "argmax",
        [scores],
        rows.launch,
        [(r,)] * 2,
        BEST_TYPES,
        T=scores.dtype,
        LANES=rows.lanes,
        W=rows.width,
    )
    return label, score


def counting_sort(labels: mx.array, n_clusters: int) -> Order:
    """The rows of labels (B, N) uint32 in the stable order of their labels; labels >= n_clusters are left out."""
    b, n = labels.shape
    plan = launches.sort(b, n, n_clusters)
    order = limits = starts = labels  # unread until there is an order
    for i, digit in enumerate(plan.digits):
        buckets = digit[0]
        sizes = mx.array([n_clusters, *digit, plan.chunk], mx.uint32)
        flags = {"INDEXED": i > 0, "TABLE": plan.table}
        cells = (b, plan.chunks, buckets)
        (counts,) = call(
            "sort_chunk",
            [labels, order, limits, labels, sizes],
            plan.launch,
            [cells],
            [mx.uint32],
            PLACE=False,
            **flags,
        )
        upto = mx.cumsum(counts, axis=1)
        totals = upto[:, -1]
        ends = mx.cumsum(totals, axis=1)
        starts = ends - totals
        base = upto - counts + starts[:, None]
        (order,) = call(
            "sort_chunk",
            [labels, order, limits, base, sizes],
            plan.launch,
            [(b, n)],
            [mx.uint32],
            PLACE=True,
            **flags,
        )
        limits = ends[:, -1]
    if len(plan.digits) == 1:
        return Order(order, mx.concatenate([starts, limits[:, None]], axis=1))
    grid = Launch((n + 1, b, 1), (256, 1, 1))
    sizes = mx.array([n_clusters], mx.uint32)
    (offsets,) = call(
        "find_offsets", [labels, order, limits, sizes], grid, [(b, n_clusters + 1)], [mx.uint32]
    )
    return Order(order, offsets)


def accumulate(
    x: mx.array,
    labels: mx.array,
    n_clusters: int,
    weights: mx.array | None = None,
    shift: mx.array | None = None,
    factor: mx.array | None = None,
) -> Sums:
    """Sums of the points of each cluster by labels (B, N) uint32, the same bits every time.

    Labels >= n_clusters are left out, and so are points whose weight (B, N) isn't positive: they don't count.
    """
    if weights is not None:
        labels = mx.where(weights > 0, labels, mx.array(n_clusters, mx.uint32))
    if n_clusters <= launches.DENSE_CLUSTERS:
        return _accumulate_dense(x, labels, n_clusters, weights, shift, factor)
    b, n, d = x.shape
    order, offsets = counting_sort(labels, n_clusters)
    plan = launches.segments(b, n, n_clusters, d, narrow=x.size < 8)
    # `partial` has at least 2 * 8 elements unless D is so small that loads are of one element anyway.
    rows = [x, x if weights is None else weights, *frame_inputs(shift, factor, x)]
    sizes = mx.array([plan.chunk, plan.whole], mx.uint32)
    flags = {"T": x.dtype, "LANES": plan.lanes, "W": plan.width, "NSG": plan.nsg}
    flags |= {"WEIGHTED": weights is not None, "FRAMED": shift is not None}
    (partial,) = call(
        "sum_chunks",
        [*rows, labels, order, offsets, sizes],
        plan.sum_chunks,
        [(b, plan.chunks, 2, d + (weights is not None))],
        [mx.float32],
        **flags,
    )
    sums, weight_sum = call(
        "sum_clusters",
        [*rows, order, offsets, partial, sizes],
        plan.sum_clusters,
        [(b, n_clusters, d), (b, n_clusters)],
        [mx.float32] * 2,
        **flags,
    )
    return Sums(sums, weight_sum, offsets[:, 1:] - offsets[:, :-1])


def _accumulate_dense(
    x: mx.array,
    labels: mx.array,
    k: int,
    weights: mx.array | None,
    shift: mx.array | None,
    factor: mx.array | None,
) -> Sums:
    b, n, d = x.shape
    plan = launches.dense_launch(b, n, k, d)
    cells = (b, plan.chunks, k)
    partial, weight_sum, counts = call(
        "sum_dense",
        [
            x,
            x if weights is None else weights,
            *frame_inputs(shift, factor, x),
            labels,
            mx.array([k, plan.chunk], mx.uint32),
        ],
        plan.launch,
        [(*cells, d), cells, cells],
        [mx.float32, mx.float32, mx.uint32],
        T=x.dtype,
        LANES=plan.lanes,
        NSG=plan.nsg,
        TABLE=plan.table,
        WEIGHTED=weights is not None,
        FRAMED=shift is not None,
    )
    number = counts.sum(axis=1)
    return Sums(
        partial.sum(axis=1),
        number.astype(mx.float32) if weights is None else weight_sum.sum(axis=1),
        number,
    )


def move_centroids(
    sums: mx.array,
    weight_sum: mx.array,
    old: mx.array,
    going: mx.array,
    shift: mx.array | None = None,
    scale: mx.array | None = None,
    *,
    spherical: bool,
) -> tuple[mx.array, ...]:
    """The M-step for batch elements going (B,): centroids, the same in the frame, bias (B, K) and squared moves (B, K).

    Sums are in the frame, `old` centroids in the user's coordinates. A batch element at rest keeps its centroids.
    """
    b, k, d = sums.shape
    return tuple(
        call(
            "move_centroids",
            [
                sums,
                weight_sum,
                old,
                *frame_inputs(shift, scale, weight_sum),
                going.astype(mx.uint32),
            ],
            Launch((k * SIMD, b, 1), (SIMD, 1, 1)),
            [(b, k, d), (b, k, d), (b, k), (b, k)],
            [mx.float32] * 4,
            SPHERICAL=spherical,
            FRAMED=shift is not None,
        )
    )


def tile_arguments(tiles: Tiles) -> dict[str, int]:
    """Template arguments of Scores."""
    return {
        "NSG": tiles.nsg,
        "RB": tiles.rb,
        "CB": tiles.cb,
        "BK": tiles.bk,
        "RES": tiles.res,
        "VEC": tiles.vec,
    }


def frame_inputs(
    shift: mx.array | None, factor: mx.array | None, unread: mx.array
) -> list[mx.array]:
    """The inputs shift and factor, or an array at hand in their place: without FRAMED kernels don't read them."""
    return [unread if shift is None else shift, unread if factor is None else factor]


def topk(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    k: int,
    shift: mx.array | None = None,
    factor: mx.array | None = None,
    device: Device | None = None,
) -> tuple[mx.array, mx.array]:
    """The k best centroids of each point, best first: (B, N, k) uint32 and their scores (B, N, k) float32.

    Ties go to the lowest index; NaN counts as -inf. Every 32 of k take one more pass over the scores, which are computed
    anew: none is ever stored.
    """
    b, n, d = x.shape
    framed = shift is not None
    narrow = min(x.size, c.size, c.size if shift is None else shift.size) < 8
    config = launches.topk_config(d, narrow=narrow)
    launch = launches.topk_launch(config, b, n, c.shape[1], device or Device())
    parts = launch.grid[2]
    points = [x, c, bias, *frame_inputs(shift, factor, c)]

    def some(count: int, after: list[mx.array] | None) -> tuple[mx.array, mx.array]:
        label, score = call(
            "top_rows",
            [*points, *(after or [bias, bias]), mx.array([count], mx.uint32)],
            launch,
            [(parts, b, n, count)] * 2,
            BEST_TYPES,
            T=x.dtype,
            **tile_arguments(config),
            FRAMED=framed,
            AFTER=after is not None,
        )
        if parts == 1:
            return label[0], score[0]
        flat = (b * n, parts * count)
        label, score = (a.transpose(1, 2, 0, 3).reshape(flat) for a in (label, score))
        label, score = _top_of_rows(score, count, label, None)
        return label.reshape(b, n, count), score.reshape(b, n, count)

    return _in_rounds(k, some)


def top_of_rows(scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """The k best of each row of scores (R, M), best first: (R, k) uint32 and (R, k) float32; ties to the lowest index."""
    return _in_rounds(k, lambda count, after: _top_of_rows(scores, count, None, after))


def _top_of_rows(
    scores: mx.array, k: int, index: mx.array | None, after: list[mx.array] | None
) -> tuple[mx.array, mx.array]:
    r, m = scores.shape
    rows = launches.topk_rows_launch(r, m)
    label, score = call(
        "top_of_rows",
        [
            scores,
            scores if index is None else index,
            *(after or [scores, scores]),
            mx.array([k], mx.uint32),
        ],
        rows.launch,
        [(r, k)] * 2,
        BEST_TYPES,
        T=scores.dtype,
        W=rows.width,
        INDEXED=index is not None,
        AFTER=after is not None,
    )
    return label, score


def _in_rounds(k: int, some: Any) -> tuple[mx.array, mx.array]:
    """k entries, 32 at a time; every round looks beyond the last entry of the one before."""
    labels, scores, after = [], [], None
    for done in range(0, k, launches.FUSED_K):
        label, score = some(min(launches.FUSED_K, k - done), after)
        labels.append(label)
        scores.append(score)
        after = [score[..., -1], label[..., -1]]
    if len(labels) == 1:
        return labels[0], scores[0]
    return mx.concatenate(labels, axis=-1), mx.concatenate(scores, axis=-1)
