"""The kernels of k-means as functions of arrays: the E-step, sums of clusters and the M-step.

Each function chooses its launch, builds its kernel once and calls it. Points are x (B, N, D) in
float32, float16 or bfloat16. Kernels take their sizes from shapes: only dtypes, tiles and flags are
template arguments, so the number of pipelines is bounded however many shapes there are.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from . import launch as launches
from .device import SIMD, Device, Launch
from .launch import Digit, PointTiles, SortLaunch, Tiles
from .sources import BEST_TYPES, call

__all__ = [
    "Normalisation",
    "Order",
    "Sums",
    "accumulate",
    "argmax",
    "assign",
    "counting_sort",
    "move_centroids",
    "normalisation_inputs",
    "tile_arguments",
]


class Normalisation(NamedTuple):
    """Kernels read points as ``(x - shift) * factor``.

    Attributes:
        shift: (B, D) float32.
        factor: (B,) float32.
    """

    shift: mx.array
    factor: mx.array


class Order(NamedTuple):
    """Rows sorted by label.

    Attributes:
        order: (B, N) uint32, undefined beyond the last offset.
        offsets: (B, K + 1) uint32, where each cluster begins in `order`; the last is the number of
            rows in it.
    """

    order: mx.array
    offsets: mx.array


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


def assign(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    normalisation: Normalisation | None = None,
    *,
    tiles: Tiles | PointTiles | None = None,
    device: Device | None = None,
) -> tuple[mx.array, mx.array]:
    """Return the best centroid of each point: argmax over K of <x, c> + bias.

    Ties go to the lowest index. A row of NaN gets label 0 and score -inf.

    Args:
        x: (B, N, D) points.
        c: (B, K, D) float32 centroids.
        bias: (B, K) float32.
        normalisation: Normalisation of points, or None to read them as they are.
        tiles: Tiles of the kernel, or None for the first candidate.
        device: The GPU, or None for the smallest of its kind.

    Returns:
        Labels (B, N) uint32 and their scores (B, N) float32.
    """
    b, n, d = x.shape
    tiles = tiles or launches.assign_tiles(d)[0]
    launch = launches.assign_launch(tiles, b, n, c.shape[1], device or Device())
    parts = launch.grid[2]
    if isinstance(tiles, PointTiles):
        name = "assign_points"
        template = {"D": tiles.d, "PT": tiles.points, "BN": tiles.centroids}
    else:
        name = "assign_rows"
        template = tile_arguments(tiles)
    label, score = call(
        name,
        inputs=[x, c, bias, *normalisation_inputs(normalisation, c)],
        launch=launch,
        shapes=[(parts, b, n)] * 2,
        dtypes=BEST_TYPES,
        T=x.dtype,
        **template,
        FRAMED=normalisation is not None,
    )
    if parts == 1:
        return label[0], score[0]
    best = mx.argmax(score, axis=0, keepdims=True)  # the first of equals: the lowest centroids
    return mx.take_along_axis(label, best, axis=0)[0], mx.take_along_axis(score, best, axis=0)[0]


def argmax(scores: mx.array) -> tuple[mx.array, mx.array]:
    """Return index (R,) uint32 and value (R,) float32 of the best of each row of scores (R, K).

    Ties go to the lowest index.
    """
    r, k = scores.shape
    rows = launches.argmax_launch(r, k, scores.dtype.size)
    label, score = call(
        "argmax",
        inputs=[scores],
        launch=rows.launch,
        shapes=[(r,)] * 2,
        dtypes=BEST_TYPES,
        T=scores.dtype,
        LANES=rows.lanes,
        W=rows.width,
    )
    return label, score


def counting_sort(labels: mx.array, n_clusters: int) -> Order:
    """Return the rows of labels (B, N) uint32 in the stable order of their labels.

    Labels >= n_clusters are left out.
    """
    b, n = labels.shape
    sort = launches.sort_launch(b, n, n_clusters)
    order = limits = starts = labels  # unread until there is an order
    for i, digit in enumerate(sort.digits):
        order, starts, limits = _sort_by_digit(
            [labels, order, limits], n_clusters, sort, digit, indexed=i > 0
        )
    if len(sort.digits) == 1:
        return Order(order, mx.concatenate([starts, limits[:, None]], axis=1))
    (offsets,) = call(
        "find_offsets",
        inputs=[labels, order, limits, mx.array([n_clusters], mx.uint32)],
        launch=Launch((n + 1, b, 1), (256, 1, 1)),
        shapes=[(b, n_clusters + 1)],
        dtypes=[mx.uint32],
    )
    return Order(order, offsets)


def _sort_by_digit(
    rows: list[mx.array], n_clusters: int, sort: SortLaunch, digit: Digit, *, indexed: bool
) -> tuple[mx.array, mx.array, mx.array]:
    """Return the order (B, N), where each bucket begins in it (B, buckets), and its length (B,).

    `rows` are labels (B, N) and, if `indexed`, the order and its length by the digits before.
    """
    b, n = rows[0].shape
    sizes = mx.array([n_clusters, *digit, sort.chunk_rows], mx.uint32)
    flags = {"INDEXED": indexed, "TABLE": sort.table}
    (counts,) = call(
        "sort_chunk",
        inputs=[*rows, rows[0], sizes],
        launch=sort.launch,
        shapes=[(b, sort.chunks, digit.buckets)],
        dtypes=[mx.uint32],
        PLACE=False,
        **flags,
    )
    counts_so_far = mx.cumsum(counts, axis=1)
    totals = counts_so_far[:, -1]
    ends = mx.cumsum(totals, axis=1)
    starts = ends - totals
    base = counts_so_far - counts + starts[:, None]
    (order,) = call(
        "sort_chunk",
        inputs=[*rows, base, sizes],
        launch=sort.launch,
        shapes=[(b, n)],
        dtypes=[mx.uint32],
        PLACE=True,
        **flags,
    )
    return order, starts, ends[:, -1]


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
    if weights is not None:
        labels = mx.where(weights > 0, labels, mx.array(n_clusters, mx.uint32))
    rows = [x, x if weights is None else weights, *normalisation_inputs(normalisation, x)]
    flags = {"T": x.dtype, "WEIGHTED": weights is not None, "FRAMED": normalisation is not None}
    if n_clusters <= launches.DENSE_CLUSTERS:
        return _sum_dense(rows, labels, n_clusters, flags)
    return _sum_sorted(rows, labels, n_clusters, flags)


def _sum_sorted(
    rows: list[mx.array], labels: mx.array, n_clusters: int, flags: dict[str, object]
) -> Sums:
    x = rows[0]
    b, n, d = x.shape
    order, offsets = counting_sort(labels, n_clusters)
    launch = launches.sorted_sums_launch(b, n, n_clusters, d, narrow=x.size < 8)
    sizes = mx.array([launch.chunk_rows, launch.whole_rows], mx.uint32)
    template = {**flags, "LANES": launch.lanes, "W": launch.width, "NSG": launch.nsg}
    # `partial` has at least 2 * 8 elements unless D is so small that loads are of one element.
    (partial,) = call(
        "sum_chunks",
        inputs=[*rows, labels, order, offsets, sizes],
        launch=launch.sum_chunks,
        shapes=[(b, launch.chunks, 2, d + bool(flags["WEIGHTED"]))],
        dtypes=[mx.float32],
        **template,
    )
    sums, weight_sum = call(
        "sum_clusters",
        inputs=[*rows, order, offsets, partial, sizes],
        launch=launch.sum_clusters,
        shapes=[(b, n_clusters, d), (b, n_clusters)],
        dtypes=[mx.float32] * 2,
        **template,
    )
    return Sums(sums, weight_sum, offsets[:, 1:] - offsets[:, :-1])


def _sum_dense(
    rows: list[mx.array], labels: mx.array, n_clusters: int, flags: dict[str, object]
) -> Sums:
    b, n, d = rows[0].shape
    launch = launches.dense_sums_launch(b, n, n_clusters, d)
    cells = (b, launch.chunks, n_clusters)
    partial, weight_sum, counts = call(
        "sum_dense",
        inputs=[*rows, labels, mx.array([n_clusters, launch.chunk_rows], mx.uint32)],
        launch=launch.launch,
        shapes=[(*cells, d), cells, cells],
        dtypes=[mx.float32, mx.float32, mx.uint32],
        LANES=launch.lanes,
        NSG=launch.nsg,
        TABLE=launch.table,
        **flags,
    )
    total = counts.sum(axis=1)
    weighted = bool(flags["WEIGHTED"])
    return Sums(
        sums=partial.sum(axis=1),
        weight_sum=weight_sum.sum(axis=1) if weighted else total.astype(mx.float32),
        counts=total,
    )


def move_centroids(
    *,
    sums: mx.array,
    weight_sum: mx.array,
    old: mx.array,
    active: mx.array,
    spherical: bool,
    shift: mx.array | None = None,
    scale: mx.array | None = None,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Do the M-step.

    Args:
        sums: (B, K, D) float32, in normalised coordinates.
        weight_sum: (B, K) float32.
        old: (B, K, D) float32, centroids in the user's coordinates.
        active: (B,) bool; the other batch elements keep their centroids.
        spherical: Whether centroids are directions.
        shift: (B, D) float32, `Frame.shift`, or None where both coordinates are the same.
        scale: (B,) float32, `Frame.scale`, or None likewise.

    Returns:
        Centroids (B, K, D), the same in normalised coordinates, bias (B, K) and squared moves
        (B, K).
    """
    b, k, d = sums.shape
    unread = weight_sum
    centroids, normalised, bias, squares = call(
        "move_centroids",
        inputs=[
            sums,
            weight_sum,
            old,
            unread if shift is None else shift,
            unread if scale is None else scale,
            active.astype(mx.uint32),
        ],
        launch=Launch((k * SIMD, b, 1), (SIMD, 1, 1)),
        shapes=[(b, k, d), (b, k, d), (b, k), (b, k)],
        dtypes=[mx.float32] * 4,
        SPHERICAL=spherical,
        FRAMED=shift is not None,
    )
    return centroids, normalised, bias, squares


def tile_arguments(tiles: Tiles) -> dict[str, int]:
    """Return the template arguments of Scores."""
    return {
        "NSG": tiles.nsg,
        "RB": tiles.rb,
        "CB": tiles.cb,
        "BK": tiles.bk,
        "RES": tiles.res,
        "VEC": tiles.vec,
    }


def normalisation_inputs(normalisation: Normalisation | None, unread: mx.array) -> list[mx.array]:
    """Return shift and factor, or `unread` twice: without FRAMED kernels don't read them."""
    return [unread, unread] if normalisation is None else list(normalisation)
