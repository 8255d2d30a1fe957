"""Centroids between two E-steps: the M-step, and what an E-step needs of them.

Every loop on the CPU calls `to_frame` and `move`, so that all loops give the same bits. These two
are never inlined: inside a caller they could be compiled to another order of additions.
"""

from typing import NamedTuple

import numpy as np

from .jit import njit
from .rows import not_inlined

REACH = 2.0**60  # the norm of a centroid whose score still fits in float32; frame.REACH


class Coordinates(NamedTuple):
    """Normalised coordinates of a batch element, and what the metric makes of centroids.

    See ``flash_kmeans_mlx/frame.py``. Those of a batch have a leading axis B in shift, scale and
    centre.

    Attributes:
        shift: (D,) float64.
        scale: Float64.
        centre: (D,) float64.
        spherical: Whether centroids are unit vectors.
        unit_points: Whether points count by direction only.
    """

    shift: np.ndarray
    scale: np.ndarray
    centre: np.ndarray
    spherical: bool
    unit_points: bool


@njit
def coordinates_of(batch, b):
    """Return the coordinates of batch element b."""
    return Coordinates(
        batch.shift[b], batch.scale[b], batch.centre[b], batch.spherical, batch.unit_points
    )


@njit
def all_zero(values):
    """Return whether all values are 0."""
    for v in values:  # noqa: SIM110  # Numba has no generator expressions
        if v != 0:
            return False
    return True


@njit
def to_frame(c, coordinates, inner, bias):
    """Write centroids c (K, D) in normalised coordinates to `inner`, and the bias of their scores.

    OUT inner (K, D) and bias (K,) float32. Unit vectors rounded to float32 are not quite unit:
    among nearly parallel ones they are normalised again.
    """
    not_inlined()
    shift, scale, centre = coordinates.shift, coordinates.scale, coordinates.centre
    spherical, unit_points = coordinates.spherical, coordinates.unit_points
    centred = not all_zero(centre)
    shifted = not all_zero(shift)
    for k in range(c.shape[0]):
        bias[k] = 0.0
        if spherical:
            factor = 1.0
            offset = 0.0
            if centred and unit_points:
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
        # From REACH on, all points are at the origin: only the order of the norms counts.
        if square > REACH * REACH:
            norm = np.sqrt(square)
            factor = REACH * (1.0 + np.log2(norm / REACH) / 512.0) / norm
            for d in range(c.shape[1]):
                inner[k, d] = (np.float64(c[k, d]) - shift[d]) / scale * factor
        square = 0.0
        for d in range(c.shape[1]):
            square += np.float64(inner[k, d]) * np.float64(inner[k, d])
        bias[k] = -0.5 * square


@njit
def move(c, sums, weight_sum, coordinates, summed):
    """Do the M-step in place; return the largest shift of a centroid.

    If `summed`, return the norm of all shifts instead. Clusters without weight, and sums without a
    direction, stay. c (K, D) float32 in the caller's coordinates; sums (K, D) and weight_sum (K,)
    float64 of points in normalised ones.
    """
    not_inlined()
    shift, scale, spherical = coordinates.shift, coordinates.scale, coordinates.spherical
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
        largest = largest + moved if summed else max(largest, moved)
    return np.sqrt(largest)


@njit
def to_frames(c, coordinates, inner, bias):
    """Call `to_frame` for every batch element: c and inner (B, K, D), bias (B, K)."""
    for b in range(c.shape[0]):
        to_frame(c[b], coordinates_of(coordinates, b), inner[b], bias[b])


@njit
def move_element(b, c, sums, weight_sum, coordinates):
    """Do the M-step of batch element b in place; arrays as in `move`, with a leading axis B."""
    move(c[b], sums[b], weight_sum[b], coordinates_of(coordinates, b), False)
