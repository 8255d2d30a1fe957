"""The kernels of k-means as functions of arrays: the E-step and the M-step.

Each function chooses its launch, builds its kernel once and calls it. Points are x (B, N, D) in
float32, float16 or bfloat16. Kernels take their sizes from shapes: only dtypes, tiles and flags are
template arguments, so the number of pipelines is bounded however many shapes there are.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ..points import SETTLED
from . import launch as launches
from .device import SIMD, Device, Launch
from .launch import PointTiles, Tiles
from .sources import BEST_TYPES, call

__all__ = [
    "Found",
    "Moved",
    "Normalisation",
    "argmax",
    "assign",
    "check_moves",
    "find",
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


class Found(NamedTuple):
    """The outcome of an E-step over parts of K: the best of each part, lower centroids first.

    Attributes:
        label: (parts, B, N) uint32.
        score: (parts, B, N) float32; of any type, as it isn't read, if there is one part.
    """

    label: mx.array
    score: mx.array


class Moved(NamedTuple):
    """The outcome of an M-step.

    Attributes:
        centroids: (B, K, D) float32 in the user's coordinates.
        normalised: (B, K, D) float32, the same in normalised coordinates.
        bias: (B, K) float32.
        squares: (B, K) float32, squared moves in units of scale^2, unless spherical.
        still: (B, K) uint32, 1 where a centroid is where it was.
    """

    centroids: mx.array
    normalised: mx.array
    bias: mx.array
    squares: mx.array
    still: mx.array


def assign(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    normalisation: Normalisation | None = None,
    running: mx.array | None = None,
    *,
    tiles: Tiles | PointTiles | None = None,
    device: Device | None = None,
) -> tuple[mx.array, mx.array]:
    """Return the best centroid of each point: argmax over K of <x, c> + bias.

    Ties go to the lowest index. A row of NaN gets label 0 and score -inf. Arguments are those of
    `find`.

    Returns:
        Labels (B, N) uint32 and their scores (B, N) float32.
    """
    label, score = find(x, c, bias, normalisation, running, tiles=tiles, device=device)
    if len(label) == 1:
        return label[0], score[0]
    best = mx.argmax(score, axis=0, keepdims=True)  # the first of equals: the lowest centroids
    return mx.take_along_axis(label, best, axis=0)[0], mx.take_along_axis(score, best, axis=0)[0]


def find(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    normalisation: Normalisation | None = None,
    running: mx.array | None = None,
    *,
    tiles: Tiles | PointTiles | None = None,
    device: Device | None = None,
) -> Found:
    """Return the best centroid of each point in each part of K.

    Args:
        x: (B, N, D) points.
        c: (B, K, D) float32 centroids.
        bias: (B, K) float32.
        normalisation: Normalisation of points, or None to read them as they are.
        running: (B,) uint32, 0 for batch elements whose labels nobody reads; None if all are read.
        tiles: Tiles of the kernel, or None for the first candidate.
        device: The GPU, or None for the smallest of its kind.
    """
    b, n, d = x.shape
    tiles = tiles or launches.assign_tiles(d)[0]
    launch = launches.assign_launch(tiles, b, n, c.shape[1], device or Device())
    if isinstance(tiles, PointTiles):
        name = "assign_points"
        template = {"D": tiles.d, "PT": tiles.points, "BN": tiles.centroids}
    else:
        name = "assign_rows"
        template = tile_arguments(tiles)
    if running is None:
        running = mx.ones((b,), mx.uint32)
    label, score = call(
        name,
        inputs=[x, c, bias, *normalisation_inputs(normalisation, c), running],
        launch=launch,
        shapes=[(launch.grid[2], b, n)] * 2,
        dtypes=BEST_TYPES,
        T=x.dtype,
        **template,
        FRAMED=normalisation is not None,
    )
    return Found(label, score)


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


def move_centroids(
    *,
    sums: mx.array,
    weight_sum: mx.array,
    old: mx.array,
    active: mx.array,
    spherical: bool,
    shift: mx.array | None = None,
    scale: mx.array | None = None,
) -> Moved:
    """Do the M-step.

    Args:
        sums: (B, K, D) float32, in normalised coordinates.
        weight_sum: (B, K) float32.
        old: (B, K, D) float32, centroids in the user's coordinates.
        active: (B,) uint32; batch elements with 0 keep their centroids.
        spherical: Whether centroids are directions.
        shift: (B, D) float32, `Frame.shift`, or None where both coordinates are the same.
        scale: (B,) float32, `Frame.scale`, or None likewise.

    Returns:
        The new centroids.
    """
    b, k, d = sums.shape
    unread = weight_sum
    moved = call(
        "move_centroids",
        inputs=[
            sums,
            weight_sum,
            old,
            unread if shift is None else shift,
            unread if scale is None else scale,
            active,
        ],
        launch=Launch((k * SIMD, b, 1), (SIMD, 1, 1)),
        shapes=[(b, k, d), (b, k, d), (b, k), (b, k), (b, k)],
        dtypes=[*[mx.float32] * 4, mx.uint32],
        SPHERICAL=spherical,
        FRAMED=shift is not None,
    )
    return Moved(*moved)


def check_moves(
    moved: Moved,
    *,
    active: mx.array,
    status: mx.array,
    shift: mx.array,
    tol: mx.array,
    scale: mx.array | None = None,
    summed: bool = False,
) -> list[mx.array]:
    """Stop the batch elements whose centroids moved by `tol` at most.

    Args:
        moved: The outcome of the M-step.
        active: (B,) uint32, 0 where centroids didn't move.
        status: (B,) int32.
        shift: (B,) float32, how far centroids moved before, for batch elements that aren't active.
        tol: () float32.
        scale: (B,) float32, `Frame.scale`, or None where both coordinates are the same.
        summed: Whether `tol` bounds the moves of all centroids together.

    Returns:
        Which run on (B,) uint32, status (B,) int32 and how far centroids moved (B,) float32.
    """
    (b,) = active.shape
    return call(
        "check_moves",
        inputs=[
            active,
            moved.squares,
            moved.still,
            status,
            shift,
            shift if scale is None else scale,
            tol,
        ],
        launch=Launch((SIMD, b, 1), (SIMD, 1, 1)),
        shapes=[(b,)] * 3,
        dtypes=[mx.uint32, mx.int32, mx.float32],
        SUMMED=summed,
        FRAMED=scale is not None,
        SETTLED=SETTLED,
    )


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
