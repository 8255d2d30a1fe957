"""Metal kernels on Apple GPUs through `mx.fast.metal_kernel`; lists are scanned by "portable"."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...metrics import Proximity
from ..codes import Coding
from ..neighbours import Found, Neighbours, Request
from ..points import Points, Problem
from ..scan import Lists

__all__ = [
    "STRATEGIES",
    "USES_MLX",
    "measure_rows",
    "missing",
    "open_neighbours",
    "open_points",
    "scan_codes",
    "scan_lists",
]

STRATEGIES: tuple[str, ...] = ("fused", "addmm", "groups")
USES_MLX = True


def missing() -> str | None:
    """Return why it can't run here, or None."""
    if not mx.metal.is_available():
        return "MLX finds no Metal device (it takes an Apple GPU)"
    if mx.default_device().type == mx.DeviceType.cpu:
        return "MLX's default device is the CPU; call mx.set_default_device(mx.gpu) first"
    return None


def open_points(problem: Problem) -> Points:
    """Return the points of a fit."""
    from .points import MetalPoints

    return MetalPoints(problem)


def open_neighbours(request: Request) -> Neighbours:
    """Return a search for nearest rows."""
    from .neighbours import MetalNeighbours

    return MetalNeighbours(request)


def measure_rows(
    proximity: Proximity, queries: np.ndarray, rows: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Return the distances of queries from some of the rows."""
    from ..reference.neighbours import measure_rows as measure

    return measure(proximity, queries, rows, places)


def scan_lists(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """Return the nearest rows of inverted lists."""
    from ..portable.scan import scan_lists as scan

    return scan(lists, proximity, queries, probes, k)


def scan_codes(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """Return the nearest codes of inverted lists."""
    from ..portable.codes import scan_codes as scan

    return scan(lists, coding, proximity, queries, probes, k)
