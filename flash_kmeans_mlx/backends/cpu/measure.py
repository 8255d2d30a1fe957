"""Distances of queries from some of the rows, computed in float64."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from ...metrics import Proximity
from . import kernels
from .scoring import score_op
from .tasks import ONE_THREAD_PRODUCTS
from .team import CALL
from .workers import Workers, thread_count

__all__ = ["measure_rows"]

TASKS = 4  # of a thread: rows in a cache take less time than others


def measure_rows(
    proximity: Proximity, queries: np.ndarray, rows: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Return the distances of queries from some of the rows; see `backends.measure_rows`."""
    distances = np.empty(places.shape)
    op = score_op(proximity)
    q = len(queries)
    products = places.size * (queries.shape[1] + 8)
    if products < ONE_THREAD_PRODUCTS or q == 1:
        kernels.finish.measure_rows(op, queries, rows, places, distances)
        return distances
    threads = thread_count()
    tasks = min(q, max(TASKS * threads, -(-products // CALL)))

    def measure(_slot: int, i: int) -> None:
        mine = slice(q * i // tasks, q * (i + 1) // tasks)
        kernels.finish.measure_rows(op, queries[mine], rows, places[mine], distances[mine])

    with closing(Workers(threads)) as workers:
        workers.run(measure, tasks)
    return distances
