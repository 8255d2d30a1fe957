"""The suite ``kmeans``: Lloyd iterations from one start, seeding, and whole fits."""

from __future__ import annotations

from dataclasses import replace

from .. import figures
from ..cases import CASES, GRID, KMeansJob, custom
from ..runner import Settings, Suite
from ..timing import RUNS
from .judged import run

LEGEND = """\
Each contestant has a process of its own. They run one after the other, each from the same data.
cold     the first call in the process, imports excluded
median   of {runs} further runs (2 by default where all contestants together take over 4 s a run),
         with their 20th to 80th percentile
x ours   time / our time: above 1 is slower than flash-kmeans-mlx
inertia  in float64, relative to scikit-learn's (without it, to ours)
"""

_LLOYD = [KMeansJob(case, "lloyd") for case in CASES]
_GRID = [KMeansJob(case, "lloyd") for case in GRID]
_FITS = [KMeansJob(case, "fit") for case in CASES if "fit" in case.tags]
_QUICK_TAG = {"lloyd": "quick", "fit": "quick-fit"}


def adapt(jobs: list[KMeansJob], settings: Settings) -> list[KMeansJob]:
    """Return the jobs with their cases changed, or a case of the user's own."""
    if settings.shape and settings.case:
        raise ValueError("--case and --n, --d, --k, --b exclude each other")
    if settings.shape:
        jobs = [KMeansJob(custom(**settings.shape), "lloyd")]
    changed = [KMeansJob(replace(job.case, **settings.changes), job.kind) for job in jobs]
    possible = [job for job in changed if job.kind != "fit" or job.case.metric == "euclidean"]
    if not possible:
        raise ValueError(
            "whole fits are compared under the euclidean metric only,"
            f" not under {settings.changes['metric']}"
        )
    return possible


SUITE = Suite(
    name="kmeans",
    question="How fast is k-means, beside other libraries?",
    legend=LEGEND
    + """\
regret   how far the worst label is from the nearest centroid, in float64, relative to the spread
         of the data
A result that fails these checks shows no time.
"matmul alone" is NumPy's product of points and centroids, once for each of our passes over the
points. Survivors are centroids that integers can't rule out. A rate counts the products of all
points and centroids; the peak rates are those of loops in registers, measured in the same run.
""",
    jobs=_LLOYD + _FITS,
    run=run,
    plot=figures.plot_ratios,
    adapt=adapt,
    groups={
        "quick": [job for job in _LLOYD + _FITS if _QUICK_TAG[job.kind] in job.case.tags],
        "all": _LLOYD,
        "fit": _FITS,
        "grid": _GRID,
    },
    options=frozenset(
        {"n", "d", "k", "b", "max_iters", "metric", "dtype", "seeding"}
        | {"backend", "skip_sklearn", "warmup"}
    ),
    usual_runs=RUNS,
)
