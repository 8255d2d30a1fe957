"""Memory of one iteration: its arrays, all counted as if they lived to its end."""

from __future__ import annotations

from .device import Device
from .launch import (
    DENSE_CLUSTERS,
    assign_launch,
    assign_tiles,
    dense_sums_launch,
    score_rows,
    sort_launch,
    sorted_sums_launch,
)

__all__ = ["step_bytes"]


def step_bytes(shape: tuple[int, int, int], k: int, device: Device, *, products: bool) -> int:
    """Return the bytes of one iteration over points of this shape (B, N, D).

    Args:
        shape: (B, N, D).
        k: Number of clusters.
        device: The GPU.
        products: Whether scores are computed by MLX, by chunks of rows.
    """
    b, n, d = shape
    if products:
        best = 3 * b * n + min(n, score_rows(k, device)) * (k + 3 * d)
    else:
        parts = max(assign_launch(tiles, b, n, k, device).grid[2] for tiles in assign_tiles(d))
        # Labels and scores of every part, and of the best part.
        best = 2 * parts * b * n + (3 * b * n if parts > 1 else 0)
    labels = 3 * b * n  # new ones, those that count, whether they equal the old ones
    if k <= DENSE_CLUSTERS:
        sums = b * dense_sums_launch(b, n, k, d).chunks * k * (d + 2)
    else:
        sort = sort_launch(b, n, k)
        cells = b * sort.chunks * max(digit.buckets for digit in sort.digits)
        partial = b * sorted_sums_launch(b, n, k, d).chunks * 2 * (d + 1)
        sums = len(sort.digits) * (b * n + 4 * cells) + partial
    centroids = 8 * b * k * (d + 4)  # old and new, in both coordinates, with their sums
    return 4 * (best + labels + sums + centroids)
