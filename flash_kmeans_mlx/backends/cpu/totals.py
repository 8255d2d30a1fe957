"""Sums of clusters, their changes, and the centroids that follow from them."""

from __future__ import annotations

import numpy as np

from ...frame import Frame
from . import kernels

__all__ = ["NO_CHANGES", "clear_empty", "coordinates_of", "moved_centroids", "no_changes"]

# For passes that only label.
NO_CHANGES = kernels.tile.Changes(
    np.zeros((0, 0)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.bool_)
)


def coordinates_of(frame: Frame) -> kernels.centroids.Coordinates:
    """Return a frame as kernels take it."""
    metric = frame.metric
    return kernels.centroids.Coordinates(
        frame.shift, frame.scale, frame.centre, metric.spherical, metric.unit_points
    )


def moved_centroids(
    sums: np.ndarray,
    weight_sum: np.ndarray,
    centroids: np.ndarray,
    elements: np.ndarray,
    coordinates: kernels.centroids.Coordinates,
) -> np.ndarray:
    """Return what `Points.means` does."""
    new = centroids.copy()
    for b in elements.nonzero()[0].tolist():
        kernels.centroids.move_element(b, new, sums, weight_sum, coordinates)
    return new


def clear_empty(totals: kernels.tile.Totals, b: int) -> None:
    """Clear what rounding left in the totals of batch element b's clusters without points."""
    own = kernels.tile.Totals(*(total[b] for total in totals))
    kernels.tile.clear_empty(own, 0, len(own.counts))


def no_changes(shape: tuple[int, ...]) -> kernels.tile.Changes:
    """Return zeroed changes of sums (..., K, D)."""
    clusters = shape[:-1]
    return kernels.tile.Changes(
        np.zeros(shape), np.zeros(clusters), np.zeros(clusters, np.int64), np.zeros(clusters, bool)
    )
