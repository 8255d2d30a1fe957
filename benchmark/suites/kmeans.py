"""The suite ``kmeans``: Lloyd iterations from one start, seeding, and whole fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from .. import figures
from ..cases import CASES, KMeansJob, custom, override
from ..contestants import Contestant
from ..ours import FlashKMeansDefaults, FlashKMeansMLX, FlashKMeansSklearn
from ..peers import Faiss, Matmul, PyKDTree, ScikitLearn, ScikitLearnIntelex, SuperKMeans
from ..runner import Settings, Suite
from ..timing import RUNS
from .judged import run_job
from .judged_rows import JudgedResult

LEGEND = """\
Each contestant has a process of its own. They run one after the other, each from the same data.
cold     the first call in the process, imports excluded
median   of {runs} further runs (2 by default where all contestants together take over 4 s a run),
         with their 20th to 80th percentile
x ours   time / our time: above 1 is slower than flash-kmeans-mlx
inertia  in float64, relative to scikit-learn's (without it, to ours)
"""


class KMeansSuite(Suite[KMeansJob, JudgedResult]):
    """k-means beside the other libraries."""

    name: ClassVar[str] = "kmeans"
    question: ClassVar[str] = "How fast is k-means, beside other libraries?"
    legend: ClassVar[str] = (
        LEGEND
        + """\
regret   how far the worst label is from the nearest centroid, in float64, relative to the spread
         of the data
A result that fails these checks shows no time.
"matmul alone" is NumPy's product of points and centroids, once for each of our passes over the
points.
"""
    )
    plot = staticmethod(figures.plot_ratios)
    usual_runs: ClassVar[int] = RUNS
    options: ClassVar[frozenset[str]] = frozenset(
        {"n", "d", "k", "b", "max_iters", "metric", "dtype", "seeding"}
        | {"backend", "skip_sklearn", "warmup"}
    )

    def jobs(self) -> Sequence[KMeansJob]:
        fits = [KMeansJob(case, "fit") for case in CASES if "fit" in case.tags]
        return [*(KMeansJob(case, "lloyd") for case in CASES), *fits]

    def groups(self) -> dict[str, Sequence[KMeansJob]]:
        quick_tag = {"lloyd": "quick", "fit": "quick-fit"}
        return {
            "quick": [job for job in self.jobs() if quick_tag[job.kind] in job.case.tags],
            "all": [job for job in self.jobs() if job.kind == "lloyd"],
            "fit": [job for job in self.jobs() if job.kind == "fit"],
        }

    def choose(self, names: str | None, settings: Settings) -> list[KMeansJob]:
        if settings.shape and names:
            raise ValueError("--case and --n, --d, --k, --b exclude each other")
        if settings.shape:
            chosen = [KMeansJob(custom(**settings.shape), "lloyd")]
        else:
            chosen = super().choose(names, settings)
        changed = [KMeansJob(override(job.case, **settings.changes), job.kind) for job in chosen]
        possible = [job for job in changed if job.kind != "fit" or job.case.metric == "euclidean"]
        if not possible:
            raise ValueError(
                "whole fits are compared under the euclidean metric only,"
                f" not under {settings.changes['metric']}"
            )
        return possible

    def run(
        self, job: KMeansJob, settings: Settings, show: Callable[[JudgedResult, str], None]
    ) -> list[JudgedResult]:
        return [run_job(job, contestants(settings), settings, show)]


def contestants(settings: Settings) -> list[Contestant]:
    """Return everyone who may take part in k-means and in searches, ours first."""
    sklearn = [ScikitLearn(), ScikitLearnIntelex()] if settings.sklearn else []
    return [
        *(FlashKMeansMLX(backend) for backend in settings.backends),
        FlashKMeansDefaults(),
        FlashKMeansSklearn(),
        *sklearn,
        Faiss(),
        SuperKMeans(settings.threads),
        PyKDTree(),
        Matmul(),
    ]
