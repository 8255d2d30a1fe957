"""Lloyd's whole loop for problems so small that a call per iteration would cost more than the iteration."""

import numpy as np
from numba import njit

from .blas import JIT, NEG_INF
from .rows import read_rows
from .tile import measure_rows, step_rows

# What a member's run ended with.
PENDING = 0  # labels and sums are those of the centroids; the centroids have not moved yet
STABLE = 1  # an E-step changed no label
SETTLED = 2  # no centroid moved by more than tol; the labels are one step behind


@njit(**JIT)
def _inward(c, shift, scale, spherical, bias, inner):
    for k in range(c.shape[0]):
        square = 0.0
        for d in range(c.shape[1]):
            v = np.float64(c[k, d])
            if not spherical:
                v = (v - shift[d]) / scale
            inner[k, d] = v
            square += np.float64(inner[k, d]) * np.float64(inner[k, d])
        bias[k] = 0.0 if spherical else -0.5 * square


@njit(**JIT)
def _drop_copies(c, bias, keys):
    """bias = -inf for a centroid that equals an earlier one: see `scoring_bias` of backends/base.py."""
    for k in range(c.shape[0]):
        key = 0.0
        for d in range(c.shape[1]):
            key += np.float64(c[k, d]) * (1.0 + 0.1 * (d % 13) + 0.01 * (d % 7))
        keys[k] = key
        for j in range(k):
            if keys[j] == key and np.array_equal(c[j], c[k]):
                bias[k] = NEG_INF


@njit(**JIT)
def _move(c, sums, mass, counts, shift, scale, spherical):
    """M-step in place; returns the largest shift. Clusters without points, and sums without a direction, stay."""
    largest = 0.0
    for k in range(c.shape[0]):
        if counts[k] == 0:
            continue
        if spherical:
            square = 0.0
            for d in range(c.shape[1]):
                square += sums[k, d] * sums[k, d]
            if square == 0.0:
                continue
            factor = 1.0 / np.sqrt(square)
        else:
            factor = scale / mass[k]
        moved = 0.0
        for d in range(c.shape[1]):
            v = np.float32(sums[k, d] * factor if spherical else sums[k, d] * factor + shift[d])
            u = np.float64(v) - np.float64(c[k, d])
            moved += u * u
            c[k, d] = v
        largest = max(largest, moved)
    return np.sqrt(largest)


@njit(**JIT)
def fit_member(
    sgemm, x, frame, shift, scale, weights, spherical, tol, limit, skip_empty, dims, c, labels, sums, mass, counts,
    rows, inner, bias, touched, scratch,
):  # fmt: skip
    """Up to `limit` E-steps of one member; stops before the M-step at the limit and, unless `skip_empty`, at an empty cluster.

    INOUT c (K, D) float32, labels (N,) uint32, sums (K, D), mass (K,), counts (K,): consistent with labels on entry and exit.
    Scratch: rows (N, D) and inner (K, D) float32, bias (K,). Returns (E-steps, PENDING | STABLE | SETTLED, last shift).
    """
    n = x.shape[0]
    keys = np.empty(c.shape[0])
    y = read_rows(x, 0, n, frame, rows)
    plain = (True, frame[1], frame[2], frame[3], frame[4])  # y is in the frame already
    largest = 0.0
    for iteration in range(1, limit + 1):
        _inward(c, shift, scale, spherical, bias, inner)
        if dims is None:
            _drop_copies(inner, bias, keys)
        changed = step_rows(
            sgemm, y, plain, weights, inner, bias, dims, 0, n, labels, iteration == 1, True, sums, mass, counts, touched,
            scratch,
        )  # fmt: skip
        if changed == 0:
            return iteration, STABLE, largest
        empty = False
        for k in range(c.shape[0]):
            empty = empty or counts[k] == 0
        if iteration == limit or (empty and not skip_empty):
            return iteration, PENDING, largest
        largest = _move(c, sums, mass, counts, shift, scale, spherical)
        if largest <= tol:
            return iteration, SETTLED, largest
    return limit, PENDING, largest


@njit(**JIT)
def fit_members(
    sgemm, x, direct, shifts, factors, left, rescale, shift, scale, weights, spherical, tol, limits, skip_empty, dims, b0, b1,
    c, labels, sums, mass, counts, results, moved, rows, inner, bias, touched, scratch,
):  # fmt: skip
    """`fit_member` for the members b0:b1 with limits[b] > 0; OUT results (B, 2) E-steps and status, moved (B,).

    IN direct, shifts, factors, left, rescale: the members' frames as `read_rows` takes them; shift (B, D) and scale (B,) the
    same in float64; weights (B, N) or (B, 0).
    """
    for b in range(b0, b1):
        if limits[b] > 0:
            frame = (direct[b], shifts[b], factors[b], left, rescale)
            results[b, 0], results[b, 1], moved[b] = fit_member(
                sgemm, x[b], frame, shift[b], scale[b], weights[b], spherical, tol, limits[b], skip_empty, dims,
                c[b], labels[b], sums[b], mass[b], counts[b], rows, inner, bias, touched, scratch,
            )  # fmt: skip


@njit(**JIT)
def assign_members(
    sgemm, x, direct, shifts, factors, left, rescale, dims, members, m0, m1, inner, bias, labels, unused, scratch
):  # fmt: skip
    """Label the points of members[m0:m1] by their centroids `inner` (B, K, D) in the frame; unused: empty accumulators."""
    weights, sums, mass, counts, touched = unused
    for b in members[m0:m1]:
        frame = (direct[b], shifts[b], factors[b], left, rescale)
        step_rows(
            sgemm, x[b], frame, weights, inner[b], bias[b], dims, 0, x.shape[1], labels[b], True, False, sums, mass,
            counts, touched, scratch,
        )  # fmt: skip


@njit(**JIT)
def measure_members(x, direct, shifts, factors, left, rescale, weights, inner, labels, difference, m0, m1, totals, out, tile):
    """totals[b] = `measure_rows` of all rows of the members m0:m1."""
    for b in range(m0, m1):
        frame = (direct[b], shifts[b], factors[b], left, rescale)
        totals[b] = measure_rows(x[b], frame, weights[b], inner[b], labels[b], 0, x.shape[1], difference, out, tile)
