"""NumPy in float64, untiled: the oracle that the other backends are judged by."""

from __future__ import annotations

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

STRATEGIES: tuple[str, ...] = ()
USES_MLX = False


def missing() -> str | None:
    """Return why it can't run here, or None."""
    return None


def open_points(problem: Problem) -> Points:
    """Return the points of a fit."""
    from .points import ReferencePoints

    return ReferencePoints(problem)


def open_neighbours(request: Request) -> Neighbours:
    """Return a search for nearest rows."""
    from .neighbours import ReferenceNeighbours

    return ReferenceNeighbours(request)


def measure_rows(
    proximity: Proximity, queries: np.ndarray, rows: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Return the distances of queries from some of the rows."""
    from .neighbours import measure_rows as measure

    return measure(proximity, queries, rows, places)


def scan_lists(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """Return the nearest rows of inverted lists."""
    from .scan import scan_lists as scan

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
    from .codes import scan_codes as scan

    return scan(lists, coding, proximity, queries, probes, k)
