"""Scans of inverted lists of vectors on the CPU: candidates and distances by the kernels of scan.py."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from ...frame import EPS
from ...metrics import Proximity, unit_rows
from ..bounds import least_by_differences, least_by_products
from ..neighbours import Found
from ..scan import Lists
from . import kernels
from .cut import ALONE, BUFFER_BYTES
from .workers import Workers, thread_count

__all__ = ["scan_lists"]

GROUP = 1024  # queries of a task at most
SORTED = 256  # candidates that are kept in order as they come: so that what a score must reach rises at once
MOST_KEPT = 1 << 22  # candidates at a time
MOST_INVERSE = 2.0**126  # 1 / norms of rows that float32 holds


def scan_lists(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """As `reference.scan_lists`. Queries for which rounding may hide a neighbour are asked again, with more candidates."""
    op = {
        "euclidean": kernels.scores.SQUARES,
        "cosine": kernels.scores.COSINE,
        "dot": kernels.scores.DOT,
    }[proximity.name]
    rows, bounds = lists.counts[probes].sum(1), _Bounds(lists, proximity, queries, probes)
    keep = min(int(rows.max()), k + 2 + k // 16) or 1
    distances, ids, lowest = _scan(op, lists, proximity, queries, probes, k, keep, rows, None)
    todo = np.flatnonzero(lowest > bounds.least(op, distances[:, -1]))
    if len(todo):
        # Equal rows score 0, and the first of them are kept; of a query of zeros, all products are 0.
        todo = todo[
            distances[todo, -1] > 0 if op == kernels.scores.SQUARES else queries[todo].any(1)
        ]
        op = kernels.scores.CHORD if proximity.unit else op
    while len(todo := todo[rows[todo] > keep]):
        keep, least = min(8 * keep, int(rows[todo].max())), bounds.least(op, distances[:, -1])
        for some in np.array_split(todo, -(-len(todo) * keep // MOST_KEPT)):
            asked = queries[some], probes[some], k, keep, rows[some], least[some]
            distances[some], ids[some], lowest[some] = _scan(op, lists, proximity, *asked)
        todo = todo[lowest[todo] > bounds.least(op, distances[:, -1])[todo]]
    return distances, ids


class _Bounds:
    """What scores must exceed, for queries (Q, D) in lists `probes` (Q, P)."""

    def __init__(
        self,
        lists: Lists,
        proximity: Proximity,
        queries: np.ndarray,
        probes: np.ndarray,
    ) -> None:
        self._proximity, self._d = proximity, queries.shape[1]
        if proximity.similarity:
            self._norms = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
        if proximity.product:
            probed = np.zeros(len(lists.counts), np.bool_)
            probed[probes] = True
            numbers = (~np.flatnonzero(probed)).tolist()
            for number in numbers:
                if number not in lists.cache:
                    lists.cache[number] = self._largest(lists, ~number)
            self._reach = max(lists.cache[number] for number in numbers)

    def _largest(self, lists: Lists, number: int) -> float:
        """The largest norm of a list's rows; for unit rows 1, or Inf where a row is too small to be divided by its norm."""
        rows, d = lists.rows(lists.slots(number)), self._d
        if self._proximity.unit:
            return np.inf if len(rows) and rows[:, d].max() > MOST_INVERSE else 1.0
        return float(np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64).max(initial=0.0)))

    def least(self, op: int, tau: np.ndarray) -> np.ndarray:
        """(Q,) float32: what a row must exceed as it scores by `op` to be as near as tau, for all that rounding may do."""
        proximity, d = self._proximity, self._d
        if op == kernels.scores.SQUARES:
            return least_by_differences(proximity, tau, tau, d, 1.0, rounded=False)
        if op == kernels.scores.DOT:
            return least_by_products(proximity, tau, self._norms, d, reach=self._reach)
        if self._reach > 1.0:
            return np.full(len(tau), -np.inf, np.float32)
        if op == kernels.scores.COSINE:
            return least_by_products(proximity, tau, 1.0, d, rounded=4 * EPS)
        return least_by_differences(proximity, tau, 2.0, d, 1.0, rounded=True)


def _scan(
    op: int,
    lists: Lists,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
    keep: int,
    rows: np.ndarray,
    start: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Search among the `keep` best rows that score `start` (Q,) or more, if that is given, of `rows` (Q,).

    A task is some queries in all their lists or, where there are few queries, in some of them. Returns distances and ids as
    `reference.scan_lists` has them, and (Q,) the lowest score that was kept, -inf if all were.
    """
    (q, d), n_probes = queries.shape, probes.shape[1]
    capacity = keep if keep <= SORTED else 2 * keep
    threads = 1 if int(rows.sum()) * (d + 8) < ALONE else thread_count()
    group = max(1, min(GROUP, -(-q // threads), BUFFER_BYTES // (8 * capacity)))
    shards = min(n_probes, threads) if q < threads else 1
    order = np.argsort(
        probes[:, 0], kind="stable"
    )  # queries that ask for the same lists go together
    asking = unit_rows(queries).astype(np.float32) if proximity.unit else queries
    ids = lists.ids.reshape(-1)
    distances, found, lowest = np.empty((q, k)), np.empty((q, k), np.int64), np.empty(q, np.float32)
    groups = -(-q // group)
    parts = np.zeros((groups, shards, group, keep), np.uint64)

    def search(_slot: int, i: int) -> None:
        g, s = divmod(i, shards)
        mine = order[g * group : (g + 1) * group]
        keys, filled = np.empty((len(mine), capacity), np.uint64), np.zeros(len(mine), np.int64)
        least = np.full(len(mine), -np.inf, np.float32) if start is None else start[mine]
        asked, lists_of = np.ascontiguousarray(asking[mine]), probes[mine, s::shards]
        for part in (
            lists_of[:, :1],
            lists_of[:, 1:],
        ):  # the nearest lists first: few rows of the others are then looked at
            kernels.scan.scan_lists(
                op,
                asked,
                np.ascontiguousarray(part),
                lists.payload,
                ids,
                lists.next,
                lists.first,
                lists.counts,
                keep,
                keys,
                filled,
                least,
            )
        kernels.scan.settle_keys(keep, keys, filled, ids)
        parts[g, s, : len(mine)] = keys[:, :keep]

    def finish(_slot: int, g: int) -> None:
        mine = order[g * group : (g + 1) * group]
        keys = parts[g, 0, : len(mine)]
        if shards > 1:
            kernels.scan.merge_keys(np.ascontiguousarray(parts[g, :, : len(mine)]), keys, ids)
        own = (
            np.empty((len(mine), k)),
            np.empty((len(mine), k), np.int64),
            np.empty(len(mine), np.float32),
        )
        metric = kernels.scores.COSINE if proximity.unit else op
        kernels.scan.finish_keys(
            metric,
            np.ascontiguousarray(queries[mine]),
            np.sort(keys, axis=1),
            lists.payload,
            ids,
            *own,
        )
        distances[mine], found[mine], lowest[mine] = own

    with closing(Workers(threads)) as workers:
        workers.run(search, groups * shards)
        workers.run(finish, groups)
    return distances, found, lowest
