"""One pass over the points of a problem: the best centroid of every row, and the sums of the rows that moved.

The best comes from lanes.py. Shapes: source, x (N, D) as in rows.py; c (K, D) float32 centroids in normalised coordinates;
bias (K,) float32.
"""

import numpy as np

from .centroids import all_zero
from .jit import njit
from .lanes import best_by_lanes, to_lanes
from .options import INNER, JIT
from .rows import not_inlined, read_rows
from .sizes import DEBUG

SQUARES, DIRECTIONS, PRODUCTS = range(3)  # what `measure_rows` can tell
UNSET = np.uint32(0xFFFFFFFF)  # the label of a point that has none yet


@njit(**INNER)
def move_rows(rows, s, moved, weights, label, labels, sums, weight_sum, counts, touched):
    """Subtract the moved rows from the sums of their old labels (N,) and add them to the new ones' (n,); row 0 is point s."""
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


@njit(**JIT)
def step_rows(
    source,
    weights,
    c,
    bias,
    lanes,
    fill,
    lo,
    hi,
    labels,
    update,
    sums,
    weight_sum,
    counts,
    touched,
    scratch,
):
    """E-step of rows lo:hi and, if `update`, the change of the M-step's sums; returns how many labels changed.

    IN weights (N,) float32 or (0,) for all ones; INOUT labels (N,) uint32, sums (K, D) and weight_sum (K,) float64, counts (K,)
    int64 of the points with weight, touched (K,) bool. A row that moved is subtracted where it was and added where it is.
    lanes: (tiles of x, D, tile) to hold all rows, filled already unless `fill`, where lo is a multiple of the tile; or
    (1, D, tile) to hold a tile at a time. scratch: tile, best, label, moved.
    """
    tile, best, label, moved = scratch
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
        count = 0
        for i in range(n):  # without a branch, which would be mispredicted
            moved[count] = i
            count += np.uint32(label[i]) != labels[s + i]
        changed += count
        if update:
            move_rows(
                rows, s, moved[:count], weights, label, labels, sums, weight_sum, counts, touched
            )
        for i in range(n):
            labels[s + i] = label[i]
    return changed


@njit(**JIT)
def merge(sums, weight_sum, counts, touched, total_sums, total_mass, total_counts, k0, k1):
    """Add the shards' (S, K, ...) changes of the clusters k0:k1 to the totals in order, and clear them."""
    for s in range(sums.shape[0]):
        for k in range(k0, k1):
            if not touched[s, k]:
                continue
            for d in range(sums.shape[2]):
                total_sums[k, d] += sums[s, k, d]
                sums[s, k, d] = 0.0
            total_mass[k] += weight_sum[s, k]
            total_counts[k] += counts[s, k]
            weight_sum[s, k] = 0.0
            counts[s, k] = 0
            touched[s, k] = False


@njit(**JIT)
def clear_empty(sums, weight_sum, counts, k0, k1):
    """Take away what rounding left of the clusters k0:k1 without points."""
    for k in range(k0, k1):
        if counts[k] == 0 and weight_sum[k] != 0.0:
            weight_sum[k] = 0.0
            for d in range(sums.shape[1]):
                sums[k, d] = 0.0


@njit(**JIT)
def measure_rows(source, weights, c, labels, lo, hi, cost, inverse, out, tile):
    """Sum of weights * v over rows lo:hi, in float64, where `cost` says what v is for a row and its centroid c.

    SQUARES: ||row - c||^2. PRODUCTS: -<x, c>, where x is the row without the shift. DIRECTIONS: 1 - cos of x and c, from the
    difference of unit vectors, x * inverse[i] and c; 1 if either is 0.
    OUT out: (N,) float32 receives v, or (0,) to leave it out.
    """
    not_inlined()  # pyright: ignore[reportCallIssue]  # one order of additions, whoever calls
    total = 0.0
    origin = (source[5] * source[6]).astype(np.float32)
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


@njit(**JIT)
def inverse_norm_rows(source, lo, hi, out, tile):
    """out[lo:hi] = 1 / ||row||, 0 for zero rows."""
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for i in range(n):
            v = 0.0
            for d in range(rows.shape[1]):
                v += np.float64(rows[i, d]) * np.float64(rows[i, d])
            out[s + i] = 1.0 / np.sqrt(v) if v > 0.0 else 0.0


@njit(**JIT)
def from_centre_rows(source, centre, inverse, lo, hi, out, tile):
    """out[lo:hi] = ||u - centre||^2, u the row without the shift * inverse[i]; 0 for zero rows."""
    origin = source[5] * source[6]
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for i in range(n):
            v = 0.0
            for d in range(rows.shape[1]):
                gap = (np.float64(rows[i, d]) + origin[d]) * np.float64(inverse[s + i]) - centre[d]
                v += gap * gap
            out[s + i] = v if inverse[s + i] > 0.0 else 0.0


@njit(**JIT)
def square_rows(source, lo, hi, out, tile):
    """out[lo:hi] = ||row||^2."""
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for i in range(n):
            v = np.float32(0.0)
            for d in range(rows.shape[1]):
                v += rows[i, d] * rows[i, d]
            out[s + i] = v
