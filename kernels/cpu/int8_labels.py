"""The E-step by 8-bit integers: the best centroid of every row, see int8.py.

A centroid whose bound can't reach the score of the best one so far is ruled out. The others, one or
two a row, are compared by products in float32 or, where rounding could decide, by the scores of
tile.py: the labels are those of `tile.step_rows`, bit for bit.
"""

from typing import NamedTuple

import numpy as np

from .int8 import (
    BEYOND,
    BIAS,
    FACTOR,
    LENGTH,
    LOST,
    NORM,
    QUAD,
    RESIDUAL,
    TINY,
    bound_rows,
    round_points,
    rounding,
)
from .ir import address, lowest_bit
from .jit import njit
from .lanes import POINTS, ROWS, dot_at, score_at
from .rows import read_rows
from .sizes import DEBUG, NEG_INF
from .tile import UNSET, take_labels

NONE = np.int32(-1)  # the label of a point that has none yet; below it are guesses
PENDING = 2048  # candidates that are kept before they are compared


class Int8Scratch(NamedTuple):
    """Memory of one thread.

    Attributes:
        values: (QUAD * Q,) int8, a row as whole numbers.
        limits: (3, POINTS) float32: the factor, the error per norm of a centroid, and the least
            bound that counts, of a block's points.
        best: (2, POINTS) float32: the score of the label, and its rounding.
        chain: (POINTS,) float32, the score of the label as tile.py has it, where it is known.
        known: (POINTS,) bool.
        wanted: (POINTS,) bool.
        bounds: (ROWS, POINTS) float32.
        masks: (ROWS,) int64.
        point: (PENDING + ROWS * POINTS,) int32 of the candidates.
        rival: Int32 alike, their centroids.
        reach: Float32 alike, their bounds.
    """

    values: np.ndarray
    limits: np.ndarray
    best: np.ndarray
    chain: np.ndarray
    known: np.ndarray
    wanted: np.ndarray
    bounds: np.ndarray
    masks: np.ndarray
    point: np.ndarray
    rival: np.ndarray
    reach: np.ndarray


@njit(inline="always")
def _score_labels(rows, row_size, scored, label, terms, eta, norms, scratch):
    """Compute the scores of the points of a block that are wanted with their labels."""
    limits, best, known, wanted = scratch.limits, scratch.best, scratch.known, scratch.wanted
    c, bias = scored.c, scored.bias
    base, size, n_dims = address(c), np.int64(c.strides[0]), c.shape[1]
    for i in range(label.size):
        if not wanted[i]:
            continue
        k = label[i]
        best[0, i] = dot_at(rows + i * row_size, base + k * size, n_dims) + bias[k]
        best[1, i] = eta * (norms[i] * terms[k, LENGTH] + abs(terms[k, BIAS])) + TINY
        known[i] = False
        limits[2, i] = max(limits[2, i], limits[0, i] * (best[0, i] - best[1, i]))


@njit
def _settle(rows, count, first, scored, terms, eta, norms, label, scratch):
    """Compare the candidates by their scores; return how many were compared.

    If `first`, points without a label start from the candidate of the highest bound.
    """
    limits, best, chain, known = scratch.limits, scratch.best, scratch.chain, scratch.known
    point, rival, reach, wanted = scratch.point, scratch.rival, scratch.reach, scratch.wanted
    c, bias = scored.c, scored.bias
    n_dims, size, base = c.shape[1], np.int64(c.strides[0]), address(c)
    row_base, row_size = address(rows), np.int64(rows.strides[0])
    if first:
        for j in range(count):
            i = point[j]
            if label[i] == NONE or (label[i] < NONE and reach[j] > chain[i]):
                label[i], chain[i] = NONE - 1 - rival[j], reach[j]
        for i in range(label.size):
            wanted[i] = label[i] < NONE
            if wanted[i]:
                label[i] = NONE - 1 - label[i]
        _score_labels(row_base, row_size, scored, label, terms, eta, norms, scratch)
    compared = 0
    for j in range(count):
        i, k = np.int64(point[j]), np.int64(rival[j])
        own = np.int64(label[i])
        if reach[j] < limits[2, i] or k == own:
            continue
        compared += 1
        row = row_base + i * row_size
        score = dot_at(row, base + k * size, n_dims) + bias[k]
        error = eta * (norms[i] * terms[k, LENGTH] + abs(bias[k])) + TINY
        gap, window = score - best[0, i], error + best[1, i]
        if gap < -window:
            continue
        if gap <= window:  # rounding could decide: then it shall be that of tile.py
            if not known[i]:
                chain[i] = score_at(row, base + own * size, n_dims, bias[own])
                known[i] = True
            value = score_at(row, base + k * size, n_dims, bias[k])
            if value < chain[i] or (value == chain[i] and k > own):
                continue
            chain[i] = value
        else:
            known[i] = False
        label[i] = k
        best[0, i], best[1, i] = score, error
        limits[2, i] = max(limits[2, i], limits[0, i] * (score - error))
    return compared


@njit
def _label_by_scores(row, scored):
    """Return the label of a row, which is an address, by the scores of tile.py alone."""
    c, bias = scored.c, scored.bias
    best, label = NEG_INF, 0
    for k in range(c.shape[0]):
        score = score_at(row, address(c) + k * np.int64(c.strides[0]), c.shape[1], bias[k])
        if score > best:
            best, label = score, k
    return label


@njit(inline="always")
def _set_limits(rows, n, points, block, scored, centroids, first, label, eta, scratch):
    """Set what bounds of a block are made of, and what they must reach; mark points to score."""
    worst, limits, wanted = centroids.worst, scratch.limits, scratch.wanted
    measures = points.measures
    for i in range(POINTS):
        at = block * POINTS + i
        factor, residual, norm = measures[FACTOR, at], measures[RESIDUAL, at], measures[NORM, at]
        error = residual + (norm + residual) * worst[0] + norm * eta + worst[1]
        error += np.float32(rows.shape[1]) * LOST
        real = i < n and norm > np.float32(0)
        limits[0, i] = factor
        limits[1, i] = factor * error
        limits[2, i] = NEG_INF if real else np.float32(np.inf)
        wanted[i] = real and not first
        if i < n and not real:
            label[i] = centroids.top[0]
        elif real and first:
            label[i] = NONE
        if real and (factor + limits[1, i]) * worst[2] > BEYOND:
            limits[0, i] = limits[1, i] = np.float32(0)
            limits[2, i] = np.float32(np.inf)
            wanted[i] = False
            label[i] = _label_by_scores(address(rows) + i * np.int64(rows.strides[0]), scored)


@njit
def label_block(rows, n, points, block, scored, centroids, first, label, scratch):
    """Find the labels of n <= POINTS rows, which are a block of the points.

    INOUT label (n,) int32: labels that rows may have kept; not read if `first`. Returns how many
    pairs were compared by their scores.
    """
    masks, bounds = scratch.masks, scratch.bounds
    point, rival, reach = scratch.point, scratch.rival, scratch.reach
    terms = centroids.terms
    n_clusters, n_dims = scored.c.shape[0], scored.c.shape[1]
    if DEBUG and (n > POINTS or label.size != n or block >= points.words.shape[0]):
        raise IndexError("points beyond their block")
    if DEBUG and not first and (label.min() < 0 or label.max() >= n_clusters):
        raise IndexError("a label of other centroids")
    eta = rounding(n_dims)
    norms = points.measures[NORM, block * POINTS : (block + 1) * POINTS]
    _set_limits(rows, n, points, block, scored, centroids, first, label, eta, scratch)
    row_size = np.int64(rows.strides[0])
    _score_labels(address(rows), row_size, scored, label, terms, eta, norms, scratch)
    lanes, n_quads = address(points.words[block]), centroids.values.shape[1] // QUAD
    values, start, terms_at = address(centroids.values), address(centroids.start), address(terms)
    limits_at, bounds_at, masks_at = address(scratch.limits), address(bounds), address(masks)
    count, compared = 0, 0
    for k in range(0, n_clusters, ROWS):
        if bound_rows(
            first,
            lanes,
            n_quads,
            values,
            start,
            terms_at,
            k,
            n_clusters,
            limits_at,
            bounds_at,
            masks_at,
        ):
            for r in range(min(ROWS, n_clusters - k)):
                mask = masks[r]
                while mask:
                    i = lowest_bit(mask)
                    mask &= mask - 1
                    point[count], rival[count], reach[count] = i, k + r, bounds[r, i]
                    count += 1
        if count >= PENDING or k + ROWS >= n_clusters:
            compared += _settle(rows, count, first, scored, terms, eta, norms, label, scratch)
            count = 0
    return compared


@njit
def step_rows(
    source, weights, scored, centroids, points, kept, fill, lo, hi, labels, changes, scratch, own
):
    """Do the E-step of rows lo:hi, with the labels and sums of `tile.step_rows`.

    Returns (how many labels changed, how many pairs were compared by their scores). `points` are
    all rows, where lo is a multiple of POINTS, if `kept`; otherwise memory for those of a tile.
    They are rounded here if `fill`. INOUT labels (N,) uint32 and changes. scratch: a `TileScratch`;
    own: an `Int8Scratch`.
    """
    tile, label, moved = scratch.rows, scratch.label, scratch.moved
    changed, compared = 0, 0
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        block = s // POINTS if kept else np.int64(0)
        for a in range(0, n, POINTS):
            m = min(POINTS, n - a)
            part, mine = rows[a : a + m], label[a : a + m]
            if fill:
                round_points(part, m, points, block, own.values)
            first = labels[s + a] == UNSET
            for i in range(m):
                mine[i] = labels[s + a + i]
            compared += label_block(part, m, points, block, scored, centroids, first, mine, own)
            block += 1
        changed += take_labels(rows, s, weights, label, labels, changes, moved)
    return changed, compared
