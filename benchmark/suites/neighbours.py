"""The suite ``neighbours``: exact search of nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..cases import SEARCHES, KMeansJob
from .kmeans import LEGEND, KMeansSuite

_QUICK = {"self-1000-10", "gauss-k10", "sift-k10", "cosine-k10"}


class NeighboursSuite(KMeansSuite):
    """Exact search beside brute force and trees of the other libraries."""

    name: ClassVar[str] = "neighbours"
    question: ClassVar[str] = "How fast is exact search of neighbours, beside other libraries?"
    legend: ClassVar[str] = (
        LEGEND
        + """\
regret   by how much the worst neighbour is farther than the true one, relative to the data's size
A result that fails these checks shows no time. Inertia is the sum of the neighbours' distances.
"""
    )
    options: ClassVar[frozenset[str]] = frozenset(
        {"metric", "dtype", "backend", "skip_sklearn", "warmup"}
    )

    def jobs(self) -> Sequence[KMeansJob]:
        return [KMeansJob(case, "knn") for case in SEARCHES]

    def groups(self) -> dict[str, Sequence[KMeansJob]]:
        jobs = self.jobs()
        quick = [job for job in jobs if job.case.name in _QUICK]
        return {"quick": quick, "all": jobs, "knn": jobs}
