"""The points of a fit, by the class that serves the problem."""

from __future__ import annotations

from ..points import Points, Problem
from . import plan as plans
from .looped import LoopedCpuPoints
from .points import CpuPoints
from .streamed import StreamedCpuPoints, with_copy
from .workers import thread_count

__all__ = ["open_points"]


def open_points(problem: Problem) -> Points:
    """Return the points of a fit."""
    threads = thread_count()
    cut = plans.plan(problem, threads)
    if cut.piece:
        copy = with_copy(problem, threads)
        return StreamedCpuPoints(copy, plans.plan(copy, threads))
    return LoopedCpuPoints(problem, cut) if cut.looped else CpuPoints(problem, cut)
