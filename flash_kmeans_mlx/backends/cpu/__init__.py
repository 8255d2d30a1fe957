"""The fast path on machines without a GPU."""

from __future__ import annotations

from ...seeding import OVERSAMPLING, ROUNDS
from ..base import Problem
from .looped import LoopedCpuPoints
from .plan import plan
from .points import CpuPoints
from .workers import thread_count

__all__ = ["open_cpu"]


def open_cpu(problem: Problem) -> CpuPoints:
    """Points for this problem, by its size."""
    cut = plan(
        problem.x.shape,
        problem.given_shape,
        problem.n_clusters,
        _point_arrays(problem),
        _tables(problem),
        thread_count(),
        problem.max_bytes,
        problem.held,
        problem.prune in ("head", "groups"),
    )
    return (LoopedCpuPoints if cut.looped else CpuPoints)(problem, cut)


def _point_arrays(problem: Problem) -> int:
    """4-byte values per point at the peak of a fit."""
    weighted = problem.weights is not None
    held = 1 + weighted + (problem.runs > 1)  # labels, weights, the best run's labels
    held += problem.metric.spherical + (weighted and problem.metric.unit_points)  # 1 / norm, times the weight
    seeding = {"random": 4, "k-means||": 10}.get(problem.init, 5 + 3 * problem.metric.spherical)
    return held + max(5, seeding)  # 5: costs and their order while clusters are repaired


def _tables(problem: Problem) -> int:
    """Tables of K x D float64 at the peak of a fit."""
    return 6 + (int(4 * OVERSAMPLING * (ROUNDS + 1)) if problem.init == "k-means||" else 0)
