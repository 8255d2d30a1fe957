"""The suite ``neighbours``: exact search of nearest neighbours."""

from __future__ import annotations

from .. import figures
from ..cases import SEARCHES, KMeansJob
from ..runner import Suite
from ..timing import RUNS
from .judged import run
from .kmeans import LEGEND, adapt

_QUICK = {"self-1000-10", "gauss-k10", "sift-k10", "cosine-k10"}
_JOBS = [KMeansJob(case, "knn") for case in SEARCHES]
SUITE = Suite(
    name="neighbours",
    question="How fast is exact search of neighbours, beside other libraries?",
    legend=LEGEND
    + """\
regret   by how much the worst neighbour is farther than the true one, relative to the data's size
A result that fails these checks shows no time. Inertia is the sum of the neighbours' distances.
""",
    jobs=_JOBS,
    run=run,
    plot=figures.plot_ratios,
    adapt=adapt,
    groups={"quick": [job for job in _JOBS if job.case.name in _QUICK]}
    | dict.fromkeys(("all", "knn"), _JOBS),
    options=frozenset({"metric", "dtype", "backend", "skip_sklearn", "warmup"}),
    usual_runs=RUNS,
)
