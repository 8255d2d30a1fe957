"""Numba kernels on the package's own threads: the fast backend on machines without a GPU."""

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
    "missing",
    "open_neighbours",
    "open_points",
    "scan_codes",
    "scan_lists",
]

STRATEGIES: tuple[str, ...] = ("tiles", "int8", "head")
USES_MLX = False


def missing() -> str | None:
    """Return why it can't run here, or None."""
    return None


def open_points(problem: Problem) -> Points:
    """Return the points of a fit."""
    from .opening import open_points as opened

    return opened(problem)


def open_neighbours(request: Request) -> Neighbours:
    """Return a search for nearest rows."""
    from .neighbours import CpuNeighbours

    return CpuNeighbours(request)


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
