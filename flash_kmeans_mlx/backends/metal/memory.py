"""Memory of one iteration: its arrays, all counted as if they lived to its end."""

from __future__ import annotations

from .device import Device
from .launch import assign_launch, assign_tiles, score_rows
from .sums_launch import DENSE_CLUSTERS, dense_sums_launch, sort_launch, sorted_sums_launch

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
        best = 2 * parts * b * n  # labels and scores of every part
    labels = 2 * b * n  # new ones, and whether any of a chunk changed
    if k <= DENSE_CLUSTERS:
        sums = b * dense_sums_launch(b, n, k, d).chunks * k * (d + 2)
    else:
        sort = sort_launch(b, n, k)
        cells = b * sort.chunks * max(digit.buckets for digit in sort.digits)
        partial = b * sorted_sums_launch(b, n, k, d).chunks * 2 * (d + 1)
        sums = len(sort.digits) * (b * n + 2 * cells) + partial
    centroids = 8 * b * k * (d + 4)  # old and new, in both coordinates, with their sums
    return 4 * (best + labels + sums + centroids)
