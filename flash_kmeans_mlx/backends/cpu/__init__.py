"""Numba kernels on the package's own threads: the fast backend on machines without a GPU."""

from __future__ import annotations

import numpy as np

from ...metrics import Proximity
from ..codes import Coding
from ..neighbours import Found, Neighbours, Request
from ..points import Points, Problem
from ..scan import Lists
from . import codes, scan
from .neighbours import CpuNeighbours

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
    from .looped import LoopedCpuPoints
    from .plan import plan
    from .points import CpuPoints
    from .streamed import StreamedCpuPoints, with_copy
    from .workers import thread_count

    threads = thread_count()
    cut = plan(problem, threads)
    if cut.piece:
        copy = with_copy(problem, threads)
        return StreamedCpuPoints(copy, plan(copy, threads))
    return LoopedCpuPoints(problem, cut) if cut.looped else CpuPoints(problem, cut)


def open_neighbours(request: Request) -> Neighbours:
    """Return a search for nearest rows."""
    return CpuNeighbours(request)


def scan_lists(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """Return the nearest rows of inverted lists."""
    return scan.scan_lists(lists, proximity, queries, probes, k)


def scan_codes(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """Return the nearest codes of inverted lists."""
    return codes.scan_codes(lists, coding, proximity, queries, probes, k)
