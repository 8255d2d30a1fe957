"""The suite ``distributed``: a fit on Dask workers of this machine, beside one without.

Each worker is a process of one thread. Results must have the bits of the fit in memory.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .. import figures, report
from ..cases import Job
from ..contestants import Array
from ..ours import FlashKMeansMLX
from ..runner import Result, Row, Settings, Show, Suite, Workers
from ..timing import median
from ..worker import Work

D, K, ITERS = 64, 256, 6
EMPTY_TASKS = 2000
WAYS = {"in memory": 0, "from a file": 0, "1 worker": 1, "2 workers": 2, "2 workers, 1 killed": 2}


@dataclass(frozen=True)
class DistributedCase(Job):
    """A file of n rows."""

    n: int = 1_000_000

    @property
    def name(self) -> str:
        return "distributed"

    def description(self) -> str:
        return f"{self.n:,} x {D} float32 in a .npy file, K={K}, {ITERS} iterations"


@dataclass
class DistributedRow(Row):
    """One way of fitting, with the seconds of its runs."""

    way: str = ""
    seconds: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.way


@dataclass
class DistributedResult(Result):
    """All ways of a case.

    Attributes:
        task_ms: Milliseconds that an empty task takes.
    """

    job: DistributedCase
    rows: list[DistributedRow]
    task_ms: float | None = None

    def cells(self, row: DistributedRow) -> dict[str, str]:
        base = self.rows[0].seconds
        timed = row.seconds if not row.problem else []
        ratio = f"{median(timed) / median(base):.2f}" if timed and base else ""
        return {
            "way": row.way,
            "p50": report.seconds(median(timed)) if timed else "",
            "over in memory": ratio,
        }

    def notes(self) -> list[str]:
        empty = f"an empty task takes {self.task_ms:.1f} ms" if self.task_ms else ""
        return [*super().notes(), *([empty] if empty else [])]

    def figures(self) -> dict[str, Any]:
        return {"n": self.job.n, "d": D, "k": K, "iters": ITERS, "task_ms": self.task_ms}


class DistributedWork(Work):
    """Fits of this package in its worker process, which starts clusters."""

    path: Path
    x: Array
    wanted: Any

    def load(self, x: str) -> None:
        """Load the points, and fit them in memory."""
        from flash_kmeans_mlx import batch_kmeans_Euclid

        self.path = Path(x)
        self.x = np.load(x)
        self.wanted = batch_kmeans_Euclid(self.x, K, ITERS, backend="cpu")

    def time(self, way: str) -> dict[str, Any]:
        """Return the seconds of a fit, or what is wrong with it."""
        from flash_kmeans_mlx import batch_kmeans_Euclid

        with ExitStack() as stack:
            x = self.x if way == "in memory" else self.path
            client = stack.enter_context(_cluster(WAYS[way])) if WAYS[way] else None
            if client:
                batch_kmeans_Euclid(x, K, 1, client=client)  # loads code

            def callback(iteration: Any) -> None:
                if client and "killed" in way and iteration.n_iter == ITERS // 2:
                    os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)

            begin = perf_counter()
            where = {"backend": "cpu", "client": client}
            result = batch_kmeans_Euclid(x, K, ITERS, callback=callback, **where)
            seconds = perf_counter() - begin
        same = np.array_equal(result.labels, self.wanted.labels)
        same = same and np.array_equal(result.centroids, self.wanted.centroids)
        return {"seconds": [seconds], "problem": "" if same else "wrong: other bits than in memory"}

    def empty_tasks(self, n: int) -> dict[str, Any]:
        """Return the milliseconds that an empty task takes."""
        with _cluster(2) as client:
            list(client.gather(client.map(_nothing, range(100))))
            begin = perf_counter()
            list(client.gather(client.map(_nothing, range(1000, 1000 + n))))
            return {"ms": 1e3 * (perf_counter() - begin) / n}


def _nothing(_: int) -> None:
    return None


@contextmanager
def _cluster(n_workers: int) -> Iterator[Any]:
    """Yield a client of a new cluster of processes."""
    from distributed import Client, LocalCluster

    options = {"n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client


def run(job: DistributedCase, settings: Settings, show: Show) -> list[DistributedResult]:
    """Run the case, see `Suite`."""
    rows = [DistributedRow(FlashKMeansMLX(), way=way) for way in WAYS]
    result = DistributedResult(job, rows)
    with Workers(DistributedWork, rows, settings.threads, partial(show, result)) as workers:
        workers.show("making the data")
        points = np.random.default_rng(0).standard_normal((job.n, D), np.float32)
        workers.load({"x": points})
        for count in range(settings.runs or SUITE.usual_runs):
            for row in rows:
                answer = workers.ask(row, "time", f"run {count + 1}", way=row.way)
                row.problem = row.problem or answer.get("problem", "")
                row.seconds += answer.get("seconds", [])
        result.task_ms = workers.ask(rows[-1], "empty_tasks", alone=True, n=EMPTY_TASKS).get("ms")
    show(result, "")
    return [result]


SUITE = Suite(
    name="distributed",
    question="What does a fit on a Dask cluster cost, beside one on the same machine without?",
    legend="Medians of {runs} runs. Workers are processes of one thread; seeding included.\n",
    jobs=[DistributedCase()],
    run=run,
    plot=figures.plot_distributed,
    adapt=lambda jobs, settings: [replace(job, **settings.shape) for job in jobs],
    options=frozenset({"n"}),
    usual_runs=3,
)
