"""Shards visited by a Dask cluster. Points never pass through Dask: tasks name files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from . import tasks
from .blocks import BlockSource
from .tasks import Job, digest

__all__ = ["DaskExecutor"]

PACKAGE = "flash-kmeans-mlx"
# A task takes about this long: Dask takes 5 ms for it.
TASK_SECONDS = 0.3
PRODUCTS_PER_SECOND, VALUES_PER_SECOND = 2e11, 1e9  # of a thread, roughly
TASKS_PER_THREAD = 4  # at least, so that all end at about the same time


class DaskExecutor:
    """Runs the tasks of a fit on the workers of a `distributed.Client`.

    What every task needs is a task as well, not scattered: the scheduler makes it again when the
    worker that had it dies.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._calls = 0
        self._home: dict[int, str] = {}  # worker of each group of shards
        self._kept: dict[str, Any] = {}  # futures of centroids
        check_workers(client)

    def begin(self, job: Job, weights: np.ndarray | None) -> None:
        self._job = job
        self._told = self._client.submit(_same, job, key=f"job-{job.fit}")
        threads = sum(w["nthreads"] for w in self._workers().values())
        self._groups = group_shards(job, max(1, threads))
        self._weights = [
            None
            if weights is None
            else self._client.submit(
                _same,
                [weights[job.cuts[s] : job.cuts[s + 1]] for s in group],
                key=f"weights-{job.fit}-{g}",
            )
            for g, group in enumerate(self._groups)
        ]
        self._blocks: list[dict[int, Any]] = [{} for _ in self._groups]
        if isinstance(job.rows, BlockSource):
            blocks = futures_of_blocks(job.rows, self._client)
            for g, group in enumerate(self._groups):
                rows = job.cuts[group[0]], job.cuts[group[-1] + 1]
                self._blocks[g] = {i: blocks[i] for i in job.rows.blocks_of(*rows)}

    def visit(self, task: Any, *arguments: Any) -> Iterator[Any]:
        self._calls += 1
        name = task.__name__
        told = [self._kept_argument(a) if isinstance(a, np.ndarray) else a for a in arguments]
        futures: list[Any] = [None] * len(self._groups)
        for home, members in self._at_home().items():
            # One graph for all groups of a worker: the scheduler takes half as long.
            hint = {"workers": [home], "allow_other_workers": True} if home else {}
            with _explained():
                found = self._client.map(
                    _visit,
                    [name] * len(members),
                    [self._groups[g] for g in members],
                    [self._weights[g] for g in members],
                    [self._blocks[g] for g in members],
                    told=self._told,
                    arguments=told,
                    key=[f"{name}-{self._job.fit}-{self._calls}-{g}" for g in members],
                    **hint,
                )
            for g, future in zip(members, found, strict=True):
                futures[g] = future
        for g in range(len(futures)):
            future, futures[g] = futures[g], None  # released once it is used
            with _explained():
                results = future.result()
            yield from results

    def end(self, fit: str) -> None:
        self._kept.clear()
        self._weights = []
        self._blocks = []
        # Workers, or the scheduler, may be gone.
        with suppress(OSError, RuntimeError, TimeoutError, ValueError):
            self._client.run(tasks.forget, fit, on_error="ignore")

    def _workers(self) -> dict[str, Any]:
        return self._client.scheduler_info(n_workers=-1)["workers"]

    def _at_home(self) -> dict[str | None, list[int]]:
        """Return groups by their workers: where they were before, if it lives.

        Dask brings tasks to the blocks of a collection by itself.
        """
        if isinstance(self._job.rows, BlockSource):
            return {None: list(range(len(self._groups)))}
        alive = sorted(self._workers())
        groups: dict[str | None, list[int]] = {}
        for g in range(len(self._groups)):
            if alive and self._home.get(g) not in alive:
                self._home[g] = alive[g * len(alive) // len(self._groups)]
            groups.setdefault(self._home.get(g), []).append(g)
        return groups

    def _kept_argument(self, c: np.ndarray) -> Any:
        """Return a future of centroids; those of the last few calls are kept."""
        key = f"centroids-{self._job.fit}-{digest(c).hex()}"
        if key not in self._kept:
            self._kept = dict(list(self._kept.items())[-3:])
            self._kept[key] = self._client.submit(_same, c, key=f"{key}-{self._calls}")
        return self._kept[key]


def check_workers(client: Any) -> None:
    """Refuse workers that lack this package or have another version of it.

    Raises:
        RuntimeError: Naming a worker and what it has.
    """
    own = version(PACKAGE)
    found = client.run(version, PACKAGE, on_error="return")
    if not found:
        raise RuntimeError("the client has no workers: start some, or wait for them")
    for worker, other in found.items():
        if isinstance(other, BaseException):
            raise RuntimeError(f"worker {worker} lacks {PACKAGE}: install {PACKAGE}=={own} there")
        if other != own:
            raise RuntimeError(
                f"worker {worker} has {PACKAGE} {other}, and this process {own}: install one"
                " version everywhere"
            )


def group_shards(job: Job, threads: int) -> list[range]:
    """Return groups of shards that follow one another; each is a task of about TASK_SECONDS."""
    n, d = job.rows.shape
    n_shards = len(job.cuts) - 1
    seconds = n * d * (job.n_clusters / PRODUCTS_PER_SECOND + 1 / VALUES_PER_SECOND)
    n_groups = max(seconds / TASK_SECONDS, TASKS_PER_THREAD * threads)
    n_groups = min(n_shards, int(n_groups))
    ends = [n_shards * g // n_groups for g in range(n_groups + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends)]


def futures_of_blocks(rows: BlockSource, client: Any) -> list[Any]:
    """Return a future of each block; the workers keep the blocks in memory."""
    return client.compute([block.ravel()[0] for block in rows.array.to_delayed()])


def _same(value: Any) -> Any:
    return value


def _visit(
    name: str, shards: range, weights: Any, blocks: Any, told: Job, arguments: list[Any]
) -> list[Any]:
    """Run on a worker: return what the task of that name returns for each of some shards."""
    task = getattr(tasks, name)
    if isinstance(told.rows, BlockSource):
        told = replace(told, rows=told.rows.with_blocks(blocks))
    try:
        return [
            task(told, s, None if weights is None else weights[i][None], *arguments)
            for i, s in enumerate(shards)
        ]
    except (OSError, ValueError) as error:
        from distributed import get_worker

        where = f"on worker {get_worker().address}: {error}"
        raise (OSError if isinstance(error, OSError) else type(error))(where) from None


@contextmanager
def _explained() -> Iterator[None]:
    """Say what it means that workers die again and again, or that the scheduler is lost."""
    from concurrent.futures import CancelledError

    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise RuntimeError(
            f"{error.task} was run on {error.allowed_failures + 1} workers, and all of them died"
            " at it, probably for want of memory: give workers more, or pass max_mem_gb"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise ConnectionError(
            "the connection to Dask's scheduler was lost; with a checkpoint, resume=True goes on"
            f" from the last iteration ({type(error).__name__}: {error})"
        ) from error
