"""Centroids between two E-steps: the M-step, and what an E-step needs of them.

Every way of running Lloyd's loop on the CPU goes through these two functions, so that all give the same bits. They are
never inlined: inside a caller they could be compiled to another order of additions.
"""

import numpy as np

from .jit import njit
from .options import INNER, JIT
from .rows import not_inlined

REACH = 2.0**60  # the norm of a centroid whose score still fits in float32; frame.REACH


@njit(**INNER)
def all_zero(values):
    """Whether all values are 0."""
    for v in values:  # noqa: SIM110  # Numba has no generator expressions
        if v != 0:
            return False
    return True


@njit(**INNER)
def to_frame(c, frame, kind, inner, bias):
    """OUT inner (K, D) float32: centroids c (K, D) in normalised coordinates; bias (K,) float32 of their scores.

    frame = (shift (D,), scale, centre (D,)) as in frame.py; kind: whether centroids are unit vectors, and whether points count
    by direction only. Rounded to float32, unit vectors are not quite: among nearly parallel ones that must not count.
    """
    not_inlined()  # pyright: ignore[reportCallIssue]  # the typing context is not an argument
    shift, scale, centre = frame
    spherical, unit = kind
    centred, shifted = not all_zero(centre), not all_zero(shift)
    for k in range(c.shape[0]):
        bias[k] = 0.0
        if spherical:
            factor, offset = 1.0, 0.0
            if centred and unit:
                square = 0.0
                for d in range(c.shape[1]):
                    square += np.float64(c[k, d]) * np.float64(c[k, d])
                factor = 1.0 / np.sqrt(square) if square > 0.0 else 1.0
            for d in range(c.shape[1]):
                inner[k, d] = np.float64(c[k, d]) * factor - centre[d]
            if shifted:  # <x, c> = <x - shift, c> + <shift, c>
                for d in range(c.shape[1]):
                    offset += (np.float64(c[k, d]) * factor - centre[d]) * shift[d]
                bias[k] = offset / scale
            continue
        square = 0.0
        for d in range(c.shape[1]):
            v = (np.float64(c[k, d]) - shift[d]) / scale
            square += v * v
            inner[k, d] = v
        if (
            square > REACH * REACH
        ):  # from there on all points are at the origin: only the order of the norms counts
            norm = np.sqrt(square)
            factor = REACH * (1.0 + np.log2(norm / REACH) / 512.0) / norm
            for d in range(c.shape[1]):
                inner[k, d] = (np.float64(c[k, d]) - shift[d]) / scale * factor
        square = 0.0
        for d in range(c.shape[1]):
            square += np.float64(inner[k, d]) * np.float64(inner[k, d])
        bias[k] = -0.5 * square


@njit(**INNER)
def move(c, sums, weight_sum, frame, spherical, total):
    """M-step in place; returns the largest shift of a centroid, or the norm of all shifts if `total`.

    Clusters without weight, and sums without a direction, stay. c (K, D) float32 in the caller's coordinates; sums (K, D) and
    weight_sum (K,) float64 of points in normalised ones.
    """
    not_inlined()  # pyright: ignore[reportCallIssue]
    shift, scale = frame[:2]
    largest = 0.0
    for k in range(c.shape[0]):
        if weight_sum[k] <= 0.0:
            continue
        if spherical:
            square = 0.0
            for d in range(c.shape[1]):
                v = sums[k, d] + weight_sum[k] * (shift[d] / scale)
                square += v * v
            if square == 0.0:
                continue
            factor = 1.0 / np.sqrt(square)
        else:
            factor = scale / weight_sum[k]
        moved = 0.0
        for d in range(c.shape[1]):
            if spherical:
                v = np.float32((sums[k, d] + weight_sum[k] * (shift[d] / scale)) * factor)
            else:
                v = np.float32(sums[k, d] * factor + shift[d])
            u = np.float64(v) - np.float64(c[k, d])
            moved += u * u
            c[k, d] = v
        largest = largest + moved if total else max(largest, moved)
    return np.sqrt(largest)


@njit(**JIT)
def to_frames(c, shift, scale, centre, kind, inner, bias):
    """`to_frame` for every batch element: c (B, K, D), shift (B, D), scale (B,), centre (B, D)."""
    for b in range(c.shape[0]):
        to_frame(c[b], (shift[b], scale[b], centre[b]), kind, inner[b], bias[b])


@njit(**JIT)
def move_one(c, sums, weight_sum, shift, scale, centre, spherical, total):
    """`move`, to be called from Python."""
    return move(c, sums, weight_sum, (shift, scale, centre), spherical, total)
