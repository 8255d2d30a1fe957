"""Fits by shards in this process: the tasks of a cluster without Dask, whose workers forget what they kept now and then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from flash_kmeans_mlx.distributed import tasks
from flash_kmeans_mlx.distributed.points import ShardedPoints
from flash_kmeans_mlx.kmeans import fit


class InProcess:
    """An executor that runs one task after another, and loses shards at random."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def begin(self, job: tasks.Job, weights: np.ndarray | None) -> None:
        self._job, self._weights = job, weights

    def visit(self, task: Any, *arguments: Any) -> Iterator[Any]:
        cuts = self._job.cuts
        for s in range(len(cuts) - 1):
            if self._rng.random() < 0.1:
                tasks.forget(self._job.fit)
            part = None if self._weights is None else self._weights[None, cuts[s] : cuts[s + 1]]
            yield task(self._job, s, part, *arguments)

    def end(self, fit: str) -> None:
        tasks.forget(fit)


@contextmanager
def client(seed: int) -> Iterator[dict[str, Any]]:
    """Yield the arguments of a fit that make it one by shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fit, "on_client", lambda _, problem, __: ShardedPoints(problem, InProcess(seed))
        )
        yield {"client": "in this process"}
