"""One pass over the points: the best centroid of every row, and the sums of the rows that moved.

Shapes: source, x (N, D) as in rows.py; c (K, D) float32 centroids in normalised coordinates;
bias (K,) float32; weights (N,) float32, or (0,) for all ones.
"""

from typing import NamedTuple

import numpy as np

from .centroids import all_zero
from .jit import njit
from .lanes import best_by_lanes, to_lanes
from .rows import not_inlined, read_rows
from .sizes import DEBUG

SQUARES, DIRECTIONS, PRODUCTS = range(3)  # costs that `measure_rows` computes
UNSET = np.uint32(0xFFFFFFFF)  # the label of a point that has none yet


class Scored(NamedTuple):
    """Centroids as tiles score them; those of a batch have a leading axis B.

    Attributes:
        c: (K, D) float32.
        bias: (K,) float32.
    """

    c: np.ndarray
    bias: np.ndarray


class Totals(NamedTuple):
    """Sums of the points of each cluster; those of a batch have a leading axis B.

    Attributes:
        sums: (K, D) float64.
        weight_sum: (K,) float64.
        counts: (K,) int64, points with weight.
    """

    sums: np.ndarray
    weight_sum: np.ndarray
    counts: np.ndarray


class Changes(NamedTuple):
    """Changes of totals by a shard; those of several shards have a leading axis S.

    Attributes:
        sums: (K, D) float64.
        weight_sum: (K,) float64.
        counts: (K,) int64.
        touched: (K,) bool, clusters that change; empty for a pass that only labels.
    """

    sums: np.ndarray
    weight_sum: np.ndarray
    counts: np.ndarray
    touched: np.ndarray


class TileScratch(NamedTuple):
    """Memory of one thread for a tile of T rows.

    Attributes:
        rows: (T, D) float32.
        lanes: (1, D, T + padding) float32.
        best: (T,) float32.
        label: (T,) int32.
        moved: (T,) int32.
    """

    rows: np.ndarray
    lanes: np.ndarray
    best: np.ndarray
    label: np.ndarray
    moved: np.ndarray


@njit
def changes_of(changes, s):
    """Return the changes by shard s."""
    return Changes(changes.sums[s], changes.weight_sum[s], changes.counts[s], changes.touched[s])


@njit
def totals_of(totals, b):
    """Return the totals of batch element b."""
    return Totals(totals.sums[b], totals.weight_sum[b], totals.counts[b])


@njit
def move_rows(rows, s, moved, weights, label, labels, changes):
    """Subtract the moved rows from the sums of their labels (N,), add them to those of label (n,).

    Row 0 is point s.
    """
    sums, weight_sum = changes.sums, changes.weight_sum
    counts, touched = changes.counts, changes.touched
    for i in moved:
        new, old = label[i], labels[s + i]
        w = np.float64(weights[s + i]) if weights.size else 1.0
        if w == 0.0:
            continue
        touched[new] = True
        counts[new] += 1
        weight_sum[new] += w
        for d in range(rows.shape[1]):
            sums[new, d] += w * rows[i, d]
        if old != UNSET:
            touched[old] = True
            counts[old] -= 1
            weight_sum[old] -= w
            for d in range(rows.shape[1]):
                sums[old, d] -= w * rows[i, d]


@njit
def take_labels(rows, s, weights, label, labels, changes, moved):
    """Make label (n,) the labels of the rows (n, D), which are points s:s+n.

    Returns how many change. INOUT labels (N,) uint32 and changes. OUT moved (n,): which rows do.
    """
    count = 0
    n = rows.shape[0]
    for i in range(n):  # without a branch, which would be mispredicted
        moved[count] = i
        count += np.uint32(label[i]) != labels[s + i]
    if changes.touched.size:
        move_rows(rows, s, moved[:count], weights, label, labels, changes)
    for i in range(n):
        labels[s + i] = label[i]
    return count


@njit
def step_rows(source, weights, scored, lanes, fill, lo, hi, labels, changes, scratch):
    """Do the E-step of rows lo:hi; return how many labels changed.

    A row that moved is subtracted from `changes` where it was and added where it is. INOUT
    labels (N,) uint32 and changes. lanes: (1, D, tile) for one tile at a time; or
    (tiles of x, D, tile) that keep all rows, where lo is a multiple of the tile, and that are
    filled already unless `fill`.
    """
    tile, best, label, moved = scratch.rows, scratch.best, scratch.label, scratch.moved
    c, bias = scored.c, scored.bias
    keep = lanes.shape[0] > 1
    if DEBUG and keep and lo % best.size:
        raise IndexError("two shards share a tile of lanes")
    changed = 0
    for s in range(lo, hi, best.size):
        n = min(best.size, hi - s)
        rows = read_rows(source, s, n, tile)
        lane = lanes[s // best.size if keep else 0]
        if fill:
            to_lanes(rows, lane)
        best_by_lanes(n, lane, np.int64(0), c, bias, best, label)
        changed += take_labels(rows, s, weights, label, labels, changes, moved)
    return changed


@njit
def merge(changes, totals, k0, k1):
    """Add the shards' changes of clusters k0:k1 to the totals in order, and clear them."""
    sums, weight_sum = changes.sums, changes.weight_sum
    counts, touched = changes.counts, changes.touched
    total_sums, total_weight_sum, total_counts = totals
    for s in range(sums.shape[0]):
        for k in range(k0, k1):
            if not touched[s, k]:
                continue
            for d in range(sums.shape[2]):
                total_sums[k, d] += sums[s, k, d]
                sums[s, k, d] = 0.0
            total_weight_sum[k] += weight_sum[s, k]
            total_counts[k] += counts[s, k]
            weight_sum[s, k] = 0.0
            counts[s, k] = 0
            touched[s, k] = False


@njit
def clear_empty(totals, k0, k1):
    """Clear what rounding left in the totals of clusters k0:k1 without points."""
    sums, weight_sum, counts = totals
    for k in range(k0, k1):
        if counts[k] == 0 and weight_sum[k] != 0.0:
            weight_sum[k] = 0.0
            for d in range(sums.shape[1]):
                sums[k, d] = 0.0


@njit
def measure_rows(source, weights, c, labels, lo, hi, cost, inverse, out, total, tile):
    """Return total plus weights * v of rows lo:hi, added in order, where `cost` says what v is.

    For a row and its centroid c, SQUARES: ||row - c||^2. PRODUCTS: -<x, c>, where x is the row
    without the shift. DIRECTIONS: 1 - cos of x and c, from the difference of unit vectors,
    x * inverse[i] and c; 1 if either is 0. OUT out: (N,) float32 receives v; (0,) leaves it out.
    """
    not_inlined()
    origin = (source.shift * source.factor).astype(np.float32)
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for i in range(n):
            k = labels[s + i]
            v = np.float32(0.0)
            if cost == SQUARES:
                for d in range(rows.shape[1]):
                    u = rows[i, d] - c[k, d]
                    v += u * u
            elif cost == PRODUCTS:
                for d in range(rows.shape[1]):
                    v -= (rows[i, d] + origin[d]) * c[k, d]
            elif inverse[s + i] == np.float32(0) or all_zero(c[k]):
                v = np.float32(1)
            else:
                r = inverse[s + i]
                for d in range(rows.shape[1]):
                    u = (rows[i, d] + origin[d]) * r - c[k, d]  # fused: rounded once
                    v += u * u
                v *= np.float32(0.5)
            if out.size:
                out[s + i] = v
            total += np.float64(v) * (weights[s + i] if weights.size else np.float32(1.0))
    return total


@njit
def inverse_norm_rows(source, lo, hi, out, tile):
    """Write 1 / ||row|| to out[lo:hi], 0 for zero rows."""
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for i in range(n):
            v = 0.0
            for d in range(rows.shape[1]):
                v += np.float64(rows[i, d]) * np.float64(rows[i, d])
            out[s + i] = 1.0 / np.sqrt(v) if v > 0.0 else 0.0


@njit
def from_centre_rows(source, centre, inverse, lo, hi, out, tile):
    """Write ||u - centre||^2 to out[lo:hi], 0 for zero rows.

    u is the row without the shift, times inverse[i].
    """
    origin = source.shift * source.factor
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for i in range(n):
            v = 0.0
            for d in range(rows.shape[1]):
                gap = (np.float64(rows[i, d]) + origin[d]) * np.float64(inverse[s + i]) - centre[d]
                v += gap * gap
            out[s + i] = v if inverse[s + i] > 0.0 else 0.0


@njit
def square_rows(source, lo, hi, out, tile):
    """Write ||row||^2 to out[lo:hi]."""
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for i in range(n):
            v = np.float32(0.0)
            for d in range(rows.shape[1]):
                v += rows[i, d] * rows[i, d]
            out[s + i] = v
