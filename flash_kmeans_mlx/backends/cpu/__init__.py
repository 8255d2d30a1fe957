"""Numba kernels on the package's own threads: the fast backend on machines without a GPU."""

from __future__ import annotations

from ..neighbours import Neighbours, Request
from ..points import Points, Problem
from .codes import scan_codes
from .measure import measure_rows
from .neighbours import CpuNeighbours
from .scan import scan_lists

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
    return CpuNeighbours(request)
