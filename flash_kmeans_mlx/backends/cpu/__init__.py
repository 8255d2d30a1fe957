"""The fast path on machines without a GPU."""

from __future__ import annotations

import numpy as np

from ..base import Problem
from .plan import plan
from .points import CpuPoints
from .small import SmallCpuPoints
from .workers import thread_count

__all__ = ["open_cpu"]


def open_cpu(problem: Problem) -> CpuPoints:
    """Points for this problem, by its size."""
    arrays = 4 + problem.metric.spherical + (problem.weights is not None) + (problem.runs > 1)  # 4: see Plan
    trials = 2 + int(np.log(problem.n_clusters))
    cut = plan(problem.x.shape, problem.n_clusters, arrays, trials, thread_count(), problem.max_bytes)
    return (SmallCpuPoints if cut.small else CpuPoints)(problem, cut)
