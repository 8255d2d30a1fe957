"""Scans of inverted lists of vectors on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from ...frame import EPS
from ...metrics import Proximity
from ...progress import open_progress
from ..bounds import least_by_differences, least_by_products
from ..neighbours import Found
from ..scan import Lists
from . import kernels
from .scoring import score_op
from .tasks import ONE_THREAD_SCANNED, candidates, scan_sizes
from .workers import Workers, thread_count

__all__ = ["kernel_lists", "largest_of_lists", "scan_lists"]

MAX_GROUP = 1024  # queries of a task
# Candidates that are kept in order as they come, so that what a score must reach rises at once.
KEPT_SORTED = 256
MAX_KEPT = 1 << 22  # candidates of all queries at a time
# Candidates of a query from all lists but one up to which its lists are read together.
MAX_TOGETHER = 64
# With so many dimensions and so few candidates, it takes longer to load rows again in the end than
# to compute the distances of some more rows.
BY_LIST_DIMS, BY_LIST_KEPT = 64, 128
MAX_INVERSE = 2.0**126  # 1 / norms of rows that float32 holds


def scan_lists(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """Return the nearest rows; see `backends.scan_lists`.

    Queries for which rounding may hide a neighbour are searched for again, with more candidates.
    """
    n_rows = lists.counts[probes]
    if len(queries) == 1:
        all_rows = most_rows = sum(n_rows[0].tolist())
    else:
        n_rows = n_rows.sum(1, keepdims=True)
        all_rows, most_rows = int(n_rows.sum()), int(n_rows.max())
    reach = _reach(lists, proximity, probes) if proximity.product else 0.0
    scan = _Scan(lists, proximity, reach)
    op = scan.op
    keep = min(most_rows, candidates(k)) or 1
    distances, ids, lowest, proven = scan.nearest(op, queries, probes, k, keep, all_rows, None)
    if proven:
        return distances, ids
    bounds = _Bounds(proximity, queries, reach)
    n_rows = n_rows.sum(1)
    todo = np.flatnonzero(lowest > bounds.least_scores(op, distances[:, -1]))
    if len(todo):
        # Equal rows score 0, and the first of them are kept; of a query of zeros, all products
        # are 0.
        squares = op == kernels.scores.SQUARES
        todo = todo[distances[todo, -1] > 0 if squares else queries[todo].any(1)]
        op = kernels.scores.CHORD if proximity.unit else op
    while len(todo := todo[n_rows[todo] > keep]):
        keep = min(8 * keep, int(n_rows[todo].max()))
        least = bounds.least_scores(op, distances[:, -1])
        for part in np.array_split(todo, -(-len(todo) * keep // MAX_KEPT)):
            distances[part], ids[part], lowest[part], _ = scan.nearest(
                op, queries[part], probes[part], k, keep, int(n_rows[part].sum()), least[part]
            )
        todo = todo[lowest[todo] > bounds.least_scores(op, distances[:, -1])[todo]]
    return distances, ids


def kernel_lists(lists: Lists) -> kernels.lists.Lists:
    """Return inverted lists as kernels take them; see kernels/cpu/lists.py."""
    return kernels.lists.Lists(
        payload=lists.payload,
        ids=lists.ids.reshape(-1),
        owner=lists.owner,
        next=lists.next,
        first=lists.first,
        counts=lists.counts,
    )


def largest_of_lists(lists: Lists, probes: np.ndarray, measure: Callable[[int], float]) -> float:
    """Return the largest of measures of lists (Q, P), which are kept in the cache of the lists."""
    probed = probes[0]
    if len(probes) > 1:
        is_probed = np.zeros(len(lists.counts), np.bool_)
        is_probed[probes] = True
        probed = np.flatnonzero(is_probed)
    keys = (~probed).tolist()  # in the cache of the lists
    for key in keys:
        if key not in lists.cache:
            lists.cache[key] = measure(~key)
    return max([lists.cache[key] for key in keys])


def _reach(lists: Lists, proximity: Proximity, probes: np.ndarray) -> float:
    """Return the largest norm of the rows of lists (Q, P).

    For unit rows it is 1, or Inf where a row is too small to be divided by its norm.
    """

    def measure(number: int) -> float:
        rows = lists.rows(lists.slots(number))
        if proximity.unit:
            is_small = len(rows) and rows[:, -1].max() > MAX_INVERSE
            return np.inf if is_small else 1.0
        squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
        return float(np.sqrt(squares.max(initial=0.0)))

    return largest_of_lists(lists, probes, measure)


class _Bounds:
    """The scores that prove that a row is too far, for queries (Q, D) and rows within a reach."""

    def __init__(self, proximity: Proximity, queries: np.ndarray, reach: float) -> None:
        self._proximity = proximity
        self._queries = queries
        self._reach = reach

    def least_scores(self, op: int, distances: np.ndarray) -> np.ndarray:
        """Return (Q,) float32: rows that score no more are not as near as `distances` (Q,)."""
        proximity, queries = self._proximity, self._queries
        d = queries.shape[1]
        if op == kernels.scores.SQUARES:
            return least_by_differences(proximity, distances, distances, d, 1.0, rounded=False)
        if op == kernels.scores.DOT:
            norms = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
            return least_by_products(proximity, distances, norms, d, reach=self._reach)
        if self._reach > 1.0:
            return np.full(len(distances), -np.inf, np.float32)
        if op == kernels.scores.COSINE:
            return least_by_products(proximity, distances, 1.0, d, rounded=4 * EPS)
        return least_by_differences(proximity, distances, 2.0, d, 1.0, rounded=True)


class _Scan:
    """Scans of the same lists.

    Attributes:
        op: The distance, see kernels/cpu/scores.py.
    """

    def __init__(self, lists: Lists, proximity: Proximity, reach: float) -> None:
        self.op = score_op(proximity)
        if lists.parts is None:
            lists.parts = kernel_lists(lists)
        self._lists = lists.parts
        self._reach = reach

    def nearest(
        self,
        op: int,
        queries: np.ndarray,
        probes: np.ndarray,
        k: int,
        keep: int,
        n_rows: int,
        least: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
        """Search among the best rows by score.

        Args:
            op: How rows score.
            queries: (Q, D).
            probes: (Q, P) lists.
            k: Neighbours of a query.
            keep: Candidates of a query.
            n_rows: Rows in the lists of all queries.
            least: (Q,) float32, scores that rows must reach, or None.

        Returns:
            Distances and ids (Q, k) as `scan_lists` returns them; (Q,) float32, the lowest score
            that was kept, -inf if all were; and whether it is known that no row is missing.
        """
        (q, d), n_probes = queries.shape, probes.shape[1]
        products = n_rows * (d + 8)
        threads = 1 if products < ONE_THREAD_SCANNED else thread_count()
        sizes = scan_sizes(q, n_probes, keep, threads, max_group=MAX_GROUP, kept_sorted=KEPT_SORTED)
        group, shards = sizes.group, sizes.shards
        groups = -(-q // group)
        order = None
        if groups > 1:  # queries whose nearest list is the same go together
            order = np.argsort(probes[:, 0], kind="stable")
            queries, probes = queries[order], probes[order]
            least = None if least is None else least[order]
        distance_op = self.op
        lists = self._lists
        distances = np.empty((shards, q, k))
        ids = np.empty((shards, q, k), np.int64)
        lowest = np.empty((shards, q), np.float32)
        proven = [False] * (groups * shards)

        def search(_slot: int, i: int) -> None:
            g, shard = divmod(i, shards)
            mine = slice(g * group, (g + 1) * group)
            own_probes = np.ascontiguousarray(probes[mine, shard::shards])
            n = len(own_probes)
            buffers = kernels.select.Buffers(
                keys=np.empty((n, sizes.capacity), np.uint64),
                counts=np.empty(n, np.int64),
                least=np.full(n, -np.inf, np.float32) if least is None else least[mine].copy(),
            )
            found = kernels.scan.Found(
                op=distance_op,
                queries=queries[mine],
                distances=distances[shard, mine],
                ids=ids[shard, mine],
                sizes=np.empty(n, np.int64),
            )
            in_order = sizes.capacity == keep
            together = in_order and (own_probes.shape[1] - 1) * keep <= MAX_TOGETHER
            by_list = together or (d >= BY_LIST_DIMS and keep <= BY_LIST_KEPT)
            proven[i] = kernels.scan.search_lists(
                op,
                own_probes,
                lists,
                keep,
                buffers,
                found,
                by_list,
                together,
                self._reach,
                lowest[shard, mine],
            )
            if not in_order:
                kernels.select.settle(keep, buffers, lists.ids)
                keys = np.sort(buffers.keys[:, :keep], axis=1)
                buffers = buffers._replace(
                    keys=np.ascontiguousarray(keys[:, ::-1]),
                    counts=np.minimum(buffers.counts, keep),
                )
                kernels.scan.measure(np.arange(n), kernels.scan.ANY, lists, buffers, found)
                kernels.scan.lowest_scores(buffers, lowest[shard, mine])

        tasks = groups * shards
        if tasks == 1:
            search(0, 0)
        else:
            progress = open_progress("searching", tasks, products=products)
            with progress, closing(Workers(threads, progress)) as workers:
                workers.run(search, tasks, work=tasks)
        for shard in range(1, shards):
            kernels.finish.merge_lists(distances[0], ids[0], distances[shard], ids[shard])
        if order is None:
            return distances[0], ids[0], lowest[0] if shards == 1 else lowest.max(0), all(proven)
        place = np.argsort(order)
        return distances[0, place], ids[0, place], lowest.max(0)[place], all(proven)
