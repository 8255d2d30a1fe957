"""Scans of inverted lists of codes on the CPU: candidates and distances by the kernels of codes.py."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from ...metrics import Proximity, unit_rows
from ..codes import Coding
from ..neighbours import Found
from ..scan import Lists
from . import kernels
from .cut import ALONE, BUFFER_BYTES, SORTED
from .workers import Workers, thread_count

__all__ = ["scan_codes"]

GROUP = 64  # queries of a task at most
MOST_KEPT = 1 << 22  # candidates at a time


def scan_codes(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """As `reference.scan_codes`."""
    rows = lists.counts[probes].sum(1)
    distances, ids = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    scan = _Scan(lists, coding, proximity)
    todo, keep = np.arange(len(queries)), k + 2 + k // 16
    while len(
        todo
    ):  # again where rows that were left out score as the last of the k do: the ids decide
        keep, again = min(keep, max(1, int(rows[todo].max()))), []
        for some in np.array_split(todo, -(-len(todo) * keep // MOST_KEPT)):
            distances[some], ids[some], doubtful = scan.nearest(
                queries[some], probes[some], k, keep, int(rows[some].sum())
            )
            again.append(some[doubtful & (rows[some] > keep)])
        todo, keep = np.concatenate(again), 8 * keep
    return distances, ids


class _Scan:
    """What scans of the same lists have in common."""

    def __init__(self, lists: Lists, coding: Coding, proximity: Proximity) -> None:
        self.lists, self.coding, self.proximity = lists, coding, proximity
        self.op = {
            "euclidean": kernels.scores.SQUARES,
            "cosine": kernels.scores.COSINE,
            "dot": kernels.scores.DOT,
        }[proximity.name]
        self.extra = (
            kernels.codes.TIMES
            if proximity.unit
            else kernels.codes.NONE
            if proximity.product or not coding.residual
            else kernels.codes.MINUS
        )
        self.mean = (
            coding.mean
            if self.extra == kernels.codes.MINUS
            else np.zeros(coding.centroids.shape[1], np.float32)
        )
        self.codewords = np.ascontiguousarray(coding.codebooks.swapaxes(1, 2))

    def nearest(
        self, queries: np.ndarray, probes: np.ndarray, k: int, keep: int, n_rows: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances and ids as `reference.scan_codes` has them, of the `keep` best by score; for whom that may not do.

        A task is some queries in all their lists or, where there are fewer queries than threads, in some of them.
        """
        coding, lists, (q, d) = self.coding, self.lists, queries.shape
        capacity = keep if keep <= SORTED else 2 * keep
        threads = (
            1
            if n_rows * len(coding.codebooks) + q * d * coding.codebooks.shape[1] < ALONE
            else thread_count()
        )
        group = max(1, min(GROUP, -(-q // threads), BUFFER_BYTES // (8 * capacity)))
        shards = min(probes.shape[1], threads) if q < threads else 1
        asking = unit_rows(queries).astype(np.float32) if self.proximity.unit else queries
        groups = -(-q // group)
        parts = np.zeros((groups, shards, group, keep), np.uint64)
        distances, ids, doubtful = (
            np.empty((q, k)),
            np.empty((q, k), np.int64),
            np.empty(q, np.bool_),
        )

        def search(_slot: int, i: int) -> None:
            g, s = divmod(i, shards)
            mine = slice(g * group, min(q, (g + 1) * group))
            n = mine.stop - mine.start
            keys, filled = np.zeros((n, capacity), np.uint64), np.zeros(n, np.int64)
            kernels.codes.scan_codes(
                self.op,
                self.extra,
                coding.nbits,
                coding.code_size,
                asking[mine],
                self.mean,
                self.codewords,
                coding.centroids,
                (lists.payload, lists.next, lists.first, lists.counts),
                np.ascontiguousarray(probes[mine, s::shards]),
                keep,
                keys,
                filled,
            )
            kernels.topk.settle(keep, keys, filled)
            parts[g, s, :n] = keys[:, :keep]

        def finish(_slot: int, g: int) -> None:
            mine = slice(g * group, min(q, (g + 1) * group))
            n = mine.stop - mine.start
            best = np.sort(parts[g, :, :n].transpose(1, 0, 2).reshape(n, -1), axis=1)[:, -keep:]
            kernels.codes.finish_codes(
                self.op,
                coding.nbits,
                queries[mine],
                coding.codebooks,
                coding.centroids,
                (lists.payload, lists.owner, lists.ids),
                np.ascontiguousarray(best),
                distances[mine],
                ids[mine],
                doubtful[mine],
            )

        with closing(Workers(threads)) as workers:
            workers.run(search, groups * shards)
            workers.run(finish, groups)
        return distances, ids, doubtful
