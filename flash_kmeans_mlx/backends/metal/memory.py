"""What an iteration allocates: the arrays of one, all counted as if they lived to its end."""

from __future__ import annotations

from .device import Device
from .launch import (
    DENSE_CLUSTERS,
    assign_configs,
    assign_launch,
    dense_launch,
    score_rows,
    segments,
    sort,
)

__all__ = ["step_bytes"]


def step_bytes(shape: tuple[int, int, int], k: int, gpu: Device, *, products: bool) -> int:
    """Bytes of one iteration over points of this shape; with `products`, of scores by chunks of rows."""
    b, n, d = shape
    parts = max(assign_launch(config, b, n, k, gpu).grid[2] for config in assign_configs(d))
    best = 2 * parts * b * n + (
        3 * b * n if parts > 1 else 0
    )  # labels and scores, and the best part
    if products:
        best = 3 * b * n + min(n, score_rows(k, gpu)) * (k + 3 * d)
    labels = 3 * b * n  # new ones, those that count, whether they are the old ones
    if k <= DENSE_CLUSTERS:
        sums = b * dense_launch(b, n, k, d).chunks * k * (d + 2)
    else:
        plan, cut = sort(b, n, k), segments(b, n, k, d)
        cells = b * plan.chunks * max(digit[0] for digit in plan.digits)
        sums = len(plan.digits) * (b * n + 4 * cells) + b * cut.chunks * 2 * (d + 1)
    centroids = 8 * b * k * (d + 4)  # old and new, in both coordinates, with their sums
    return 4 * (best + labels + sums + centroids)
