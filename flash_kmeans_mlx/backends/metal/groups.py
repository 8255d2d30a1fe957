"""An E-step that skips groups of centroids by bounds, see kernels/metal/groups.metal.

Bounds are of one sequence of centroids. They are carried from one E-step to the next, however the
centroids moved in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..grouping import halved
from .device import Launch, ceil_div
from .kernels import Normalisation, normalisation_inputs, tile_arguments
from .launch import SMALL_D, Tiles, cuts, launch_rows
from .order import counting_sort
from .sources import call

__all__ = [
    "Bounds",
    "Grouping",
    "assign",
    "assign_in_launches",
    "group_centroids",
    "recount",
    "registers",
    "share_compared",
    "start",
    "tiles_for",
]

WORDS = 32  # of a set of groups, as in groups.metal
MAX_D = 8192  # the bound of rounding holds up to here
THREADS = 256


class Grouping(NamedTuple):
    """An order of the centroids that keeps alike ones together.

    Attributes:
        order: (B, K) uint32, the centroid of a place; ascends within a group.
        position: (B, K) uint32, the place of a centroid.
    """

    order: mx.array
    position: mx.array


class Bounds(NamedTuple):
    """Bounds of distances, and the centroids that they are of.

    Attributes:
        seen: (B, K, D) float32, the centroids by place, in normalised coordinates.
        place: (B, N) uint32, the place of each row's own centroid.
        upper: (B, N) float32, at least the distance to it.
        lower: (B, N, G) float32, at most the distance to the other centroids of each group.
        compared: (B, S) uint32, the groups that each simdgroup compared so far.
        steps: () uint32, E-steps so far.
    """

    seen: mx.array
    place: mx.array
    upper: mx.array
    lower: mx.array
    compared: mx.array
    steps: mx.array


def tiles_for(k: int, d: int) -> Tiles | None:
    """Return tiles of 32 centroids, or None where kernels take no such shape."""
    if not SMALL_D < d <= MAX_D or k > 32 * 32 * WORDS:
        return None
    if d <= 16:
        return Tiles(4, 2, 4, 16, 1)
    return Tiles(4, 2, 4, 32, 0 if d > 128 else 4 if d > 64 else 2 if d > 32 else 1)


def registers(tiles: Tiles) -> int:
    """Return an estimate of the registers of a lane."""
    facts, sets = 5, 3
    addresses = 0 if tiles.res else 2 * tiles.rb
    return tiles.registers() + facts + sets + addresses


def group_centroids(c: np.ndarray, tiles: Tiles) -> Grouping:
    """Return groups of centroids c (B, K, D) that lie close together."""
    scale = np.maximum(np.abs(c).max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    index = np.stack([halved(e, tiles.centroids) for e in c / scale]).astype(np.uint32)
    for lo in range(0, index.shape[1], tiles.centroids):
        index[:, lo : lo + tiles.centroids].sort(axis=1)
    position = np.argsort(index, axis=1).astype(np.uint32)
    return Grouping(mx.array(index), mx.array(position))


def start(n: int, c: mx.array, tiles: Tiles) -> Bounds:
    """Return bounds of n rows that rule nothing out, for centroids c (B, K, D) in any order."""
    b, k, _ = c.shape
    return Bounds(
        seen=c,
        place=mx.zeros((b, n), mx.uint32),
        upper=mx.full((b, n), mx.inf),
        lower=mx.zeros((b, n, ceil_div(k, tiles.centroids))),
        compared=mx.zeros((b, _simdgroups(n, tiles)), mx.uint32),
        steps=mx.array(0, mx.uint32),
    )


def share_compared(bounds: Bounds, tiles: Tiles) -> float:
    """Return the share of products that E-steps since `recount` computed."""
    b, n, groups = bounds.lower.shape
    whole = b * ceil_div(n, tiles.rows // tiles.nsg) * groups * max(int(np.array(bounds.steps)), 1)
    return int(np.array(bounds.compared).sum()) / whole


def recount(bounds: Bounds) -> Bounds:
    """Return the bounds; counts begin again."""
    return bounds._replace(
        compared=mx.zeros_like(bounds.compared), steps=mx.zeros_like(bounds.steps)
    )


def _simdgroups(n: int, tiles: Tiles) -> int:
    return ceil_div(n, tiles.rows) * tiles.nsg


def assign(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    normalisation: Normalisation | None,
    *,
    tiles: Tiles,
    grouping: Grouping,
    square: mx.array,
    bounds: Bounds,
) -> tuple[mx.array, Bounds]:
    """Return the labels of `kernels.assign` with a bias of -||c||^2 / 2.

    Args:
        x: (B, N, D) points.
        c: (B, K, D) float32 centroids.
        bias: (B, K) float32.
        normalisation: Normalisation of points, or None to read them as they are.
        tiles: Tiles of the kernel; a tile of centroids is a group.
        grouping: The order of the centroids.
        square: (B, N) float32, squared norms of the points as they are read.
        bounds: Those of the previous E-step, or of `start`.

    Returns:
        Labels (B, N) uint32, and the bounds of these centroids.
    """
    b, n, d = x.shape
    k = c.shape[1]
    groups = bounds.lower.shape[2]
    c = mx.take_along_axis(c, grouping.order[..., None], axis=1)
    bias = mx.take_along_axis(bias, grouping.order, axis=1)
    # Rounded up; squares that are flushed to zero are less than 2^-126 each.
    drift = mx.sqrt(mx.square(c - bounds.seen).sum(-1)) * (1 + (d + 8) * 2.0**-24)
    drift = drift + d**0.5 * 2.0**-62
    padded = mx.pad(drift, [(0, 0), (0, groups * tiles.centroids - k)])
    inputs = [
        *grouping,
        drift,
        padded.reshape(b, groups, tiles.centroids).max(-1),
        -2.001 * bias.min(axis=1),
        bounds.place,
        bounds.upper,
        bounds.lower,
        square,
    ]
    (key,) = call(
        "flag_rows",
        inputs=[x, *inputs],
        launch=Launch((ceil_div(n, THREADS) * THREADS, b, 1), (THREADS, 1, 1)),
        shapes=[(b, n)],
        dtypes=[mx.uint32],
    )
    order = counting_sort(key, k + 1).order
    place, upper, lower, compared = call(
        "assign_groups",
        inputs=[x, c, bias, *normalisation_inputs(normalisation, c), *inputs, key, order],
        launch=Launch(
            (ceil_div(n, tiles.rows) * tiles.threads, b, 1),
            (tiles.threads, 1, 1),
            tiles.tile_bytes + 4 * tiles.nsg * WORDS,
        ),
        shapes=[(b, n), (b, n), (b, n, groups), (b, _simdgroups(n, tiles))],
        dtypes=[mx.uint32, mx.float32, mx.float32, mx.uint32],
        T=x.dtype,
        **tile_arguments(tiles),
        FRAMED=normalisation is not None,
    )
    labels = mx.take_along_axis(grouping.order, place, axis=1)
    return labels, Bounds(
        seen=c,
        place=place,
        upper=upper,
        lower=lower,
        compared=bounds.compared + compared,
        steps=bounds.steps + 1,
    )


def assign_in_launches(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    normalisation: Normalisation | None,
    *,
    tiles: Tiles,
    grouping: Grouping,
    square: mx.array,
    bounds: Bounds,
) -> tuple[mx.array, Bounds]:
    """Do `assign` in launches that each compute no more than a launch may, and wait for each."""
    b, n, d = x.shape
    k = c.shape[1]
    if launch_rows(k, d) >= b * n:
        return assign(
            *(x, c, bias, normalisation),
            tiles=tiles,
            grouping=grouping,
            square=square,
            bounds=bounds,
        )
    labels, parts = [], []
    for elements, rows in cuts(b, n, k, d):
        simdgroups = slice(*(edge * tiles.nsg // tiles.rows for edge in (rows.start, rows.stop)))
        found, after = assign(
            x[elements, rows],
            c[elements],
            bias[elements],
            normalisation and Normalisation(*(a[elements] for a in normalisation)),
            tiles=tiles,
            grouping=Grouping(*(a[elements] for a in grouping)),
            square=square[elements, rows],
            bounds=Bounds(
                seen=bounds.seen[elements],
                place=bounds.place[elements, rows],
                upper=bounds.upper[elements, rows],
                lower=bounds.lower[elements, rows],
                compared=bounds.compared[elements, simdgroups],
                steps=bounds.steps,
            ),
        )
        mx.eval(found, *after)
        labels.append(found)
        parts.append(after)

    def joined(arrays: Iterable[mx.array], shape: tuple[int, ...]) -> mx.array:
        return mx.concatenate([a.reshape(-1) for a in arrays]).reshape(shape)

    return joined(labels, (b, n)), Bounds(
        seen=mx.take_along_axis(c, grouping.order[..., None], axis=1),
        place=joined((part.place for part in parts), (b, n)),
        upper=joined((part.upper for part in parts), (b, n)),
        lower=joined((part.lower for part in parts), bounds.lower.shape),
        compared=joined((part.compared for part in parts), bounds.compared.shape),
        steps=parts[-1].steps,
    )
