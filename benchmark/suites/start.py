"""The suite ``start``: what a process takes until it has its first result, and small calls then.

Every run is a whole process. Seconds are CPU time, which other processes change least.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import figures, report
from ..cases import Job
from ..contestants import Contestant
from ..ours import FlashKMeansMLX
from ..peers import Faiss, ScikitLearn
from ..process import environment
from ..runner import Result, Row, Settings, Show, Suite
from ..timing import median

REPEATS = 30  # calls after the first one, whose median is the time of a later call
# Runs in the process. NumPy and MLX are imported before, as whoever calls has done.
SCRIPT = """
import json, sys, time
import numpy as np
try:
    import mlx.core
except ImportError:
    pass
x = np.random.default_rng(0).standard_normal(({n}, {d}), np.float32)
marks = [time.process_time()]
{imports}
marks.append(time.process_time())
{prepare}
begin = time.process_time()
{call}
first = time.process_time() - begin
later = []
for _ in range({repeats}):
    begin = time.perf_counter()
    {call}
    later.append(time.perf_counter() - begin)
later.sort()
found = {{"imports": marks[1] - marks[0], "seconds": first, "later": later[len(later) // 2]}}
print(json.dumps(found))
"""
OURS, SKLEARN, FAISS = FlashKMeansMLX(), ScikitLearn(), Faiss()


@dataclass(frozen=True)
class StartCase(Job):
    """One call, by several libraries.

    Attributes:
        title: The name for ``--case``.
        n: Rows of the data ``x``.
        d: Dimensions of it.
        calls: By contestant: its imports, what is done before the first call, and the call.
    """

    title: str
    n: int
    d: int
    calls: Mapping[Contestant, tuple[str, str, str]]

    @property
    def name(self) -> str:
        return self.title

    def description(self) -> str:
        return f"{self.n:,} x {self.d}"


@dataclass
class StartRow(Row):
    """One library in one case, with the seconds of each process.

    Attributes:
        way: The case and the library.
        imports: CPU time of the import.
        seconds: CPU time of the first call.
        later: Median time of a later call.
    """

    way: str = ""
    imports: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)


@dataclass
class StartResult(Result):
    """All libraries on one call."""

    def cells(self, row: StartRow) -> dict[str, str]:
        times = {"import": row.imports, "first call": row.seconds, "later calls": row.later}
        shown = {name: report.seconds(median(t)) if t else "" for name, t in times.items()}
        return {"library": row.name, **shown}

    def figures(self) -> dict[str, Any]:
        return {"n": self.job.n, "d": self.job.d}


def _row(job: StartCase, contestant: Contestant) -> StartRow:
    problem = contestant.missing() or ""
    return StartRow(contestant, problem, way=f"{job.name}, {contestant.name}")


def run(job: StartCase, settings: Settings, show: Show) -> list[StartResult]:
    """Run a case, see `Suite`: the libraries in turn."""
    result = StartResult(job, [_row(job, contestant) for contestant in job.calls])
    n_runs = settings.runs or SUITE.usual_runs
    for i in range(n_runs + 1):  # the first one fills the caches of the system and of kernels
        for row in result.rows:
            if row.problem:
                continue
            show(result, f"{row.name}, process {i} of {n_runs}")
            imports, prepare, call = job.calls[row.contestant]
            script = SCRIPT.format(
                n=job.n, d=job.d, imports=imports, prepare=prepare, call=call, repeats=REPEATS
            )
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=environment(settings.threads),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                row.problem = (done.stderr.strip().splitlines() or ["it failed"])[-1]
            elif i:
                for part, seconds in json.loads(done.stdout.splitlines()[-1]).items():
                    getattr(row, part).append(seconds)
    show(result, "")
    return [result]


FIT = {
    OURS: (
        "from flash_kmeans_mlx import batch_kmeans_Euclid as fit",
        "",
        "fit(x, 10, 5, init_centroids=x[:10])",
    ),
    SKLEARN: (
        "from sklearn.cluster import KMeans",
        "",
        "KMeans(10, init=x[:10], n_init=1, max_iter=5, tol=0, algorithm='lloyd').fit(x)",
    ),
    FAISS: (
        "import faiss",
        "",
        "faiss.Kmeans(x.shape[1], 10, niter=5).train(x, init_centroids=x[:10])",
    ),
}
KNN = {
    OURS: ("from flash_kmeans_mlx import knn", "", "knn(x[:1], x, 1)"),
    SKLEARN: (
        "from sklearn.neighbors import NearestNeighbors",
        "model = NearestNeighbors(n_neighbors=1, algorithm='brute').fit(x)",
        "model.kneighbors(x[:1])",
    ),
    FAISS: ("import faiss", "", "faiss.knn(x[:1], x, 1)"),
}
INDEX = {
    OURS: (
        "from flash_kmeans_mlx.index import IndexIVFFlat",
        "index = IndexIVFFlat(x.shape[1], 64, nprobe=8); index.train(x); index.add(x)",
        "index.search(x[:1], 10)",
    ),
    FAISS: (
        "import faiss",
        "index = faiss.index_factory(x.shape[1], 'IVF64,Flat'); index.train(x); index.add(x);"
        " index.nprobe = 8",
        "index.search(x[:1], 10)",
    ),
}
TRAIN = {
    contestant: (imports, "", prepare.split(" index.add")[0])
    for contestant, (imports, prepare, _) in INDEX.items()
}
SUITE = Suite(
    name="start",
    question="How long does a process take until its first result, and how long do small calls?",
    legend="CPU time of {runs} processes, medians: the import after those of NumPy and MLX, the"
    f" first call, and the median of {REPEATS} calls that follow.\n",
    jobs=[
        StartCase("start-fit", 1797, 64, FIT),
        StartCase("small-fit", 500, 16, FIT),
        StartCase("start-knn", 100, 16, KNN),
        StartCase("start-index", 4000, 64, INDEX),
        StartCase("start-train", 4000, 64, TRAIN),
    ],
    run=run,
    plot=figures.plot_start,
    usual_runs=10,
)
