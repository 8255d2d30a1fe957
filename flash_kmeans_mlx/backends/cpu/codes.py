"""Scans of inverted lists of codes on the CPU: product-quantized and scalar-quantized ones."""

from __future__ import annotations

import copy
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np

from ...metrics import Proximity, unit_rows
from ...progress import open_progress
from ..codes import Coding, HalfCoding, ProductCoding
from ..neighbours import Found
from ..scan import Lists
from . import kernels
from .scan import kernel_lists, largest_of_lists
from .scoring import score_op
from .tasks import (
    KEPT_SORTED,
    ONE_THREAD_PRODUCTS,
    ONE_THREAD_SCANNED,
    candidates,
    scan_sizes,
)
from .workers import Workers, thread_count

__all__ = ["scan_codes"]

MAX_GROUP = 64  # queries of a task
MAX_KEPT = 1 << 22  # candidates of all queries at a time


def scan_codes(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """Return the nearest codes; see `backends.scan_codes`."""
    scan = lists.parts
    if scan is None or not scan.is_of(coding, proximity):
        scan = lists.parts = _Scan(lists, coding, proximity)
    if isinstance(coding, HalfCoding):
        scan = scan.within(largest_of_lists(lists, probes, partial(_reach, lists, coding)))
    return _nearest(scan, queries, probes, lists.counts[probes].sum(1), k, candidates(k))


def _nearest(
    scan: _Scan, queries: np.ndarray, probes: np.ndarray, n_rows: np.ndarray, k: int, keep: int
) -> Found:
    """Return the nearest codes, by `keep` candidates of each query (Q, D) at first.

    Where rows that were left out score as the last of the k do, ids decide: these queries are
    searched for again, with more candidates. n_rows (Q,) counts the rows in their lists.
    """
    keep = min(keep, int(n_rows.max(initial=1)))
    step = max(1, MAX_KEPT // keep)
    if len(queries) > step:
        parts = [slice(lo, lo + step) for lo in range(0, len(queries), step)]
        found = [_nearest(scan, queries[i], probes[i], n_rows[i], k, keep) for i in parts]
        return np.concatenate([d for d, _ in found]), np.concatenate([ids for _, ids in found])
    distances, ids, doubtful = scan.nearest(queries, probes, k, keep, int(n_rows.sum()))
    if len(i := np.flatnonzero(doubtful & (n_rows > keep))):
        distances[i], ids[i] = _nearest(scan, queries[i], probes[i], n_rows[i], k, 8 * keep)
    return distances, ids


class _Scan:
    """Scans of the same lists, kept until these change."""

    def __init__(self, lists: Lists, coding: Coding, proximity: Proximity) -> None:
        self._meaning = coding
        self._proximity = proximity
        self._op = score_op(proximity)
        self._lists = kernel_lists(lists)
        self._coding, self._scalar = _of_kernels(coding, proximity)

    def is_of(self, coding: Coding, proximity: Proximity) -> bool:
        """Return whether codes have this meaning here."""
        return self._meaning is coding and self._proximity is proximity

    def within(self, reach: float) -> _Scan:
        """Return the scan for lists whose codes have norms of at most `reach`."""
        scan = copy.copy(self)
        scan._scalar = self._scalar._replace(reach=reach)
        return scan

    def nearest(
        self, queries: np.ndarray, probes: np.ndarray, k: int, keep: int, n_rows: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Search among the best rows by score.

        Args:
            queries: (Q, D).
            probes: (Q, P) lists.
            k: Neighbours of a query.
            keep: Candidates of a query.
            n_rows: Rows in the lists of all queries.

        Returns:
            Distances and ids (Q, k) as `scan_codes` returns them, and (Q,) bool, whether rows that
            were left out may be among the first k.
        """
        op, coding, lists, (q, d) = self._op, self._coding, self._lists, queries.shape
        m, ksub, _ = coding.codebooks.shape
        by_nibbles = coding.nbits == 4 and m <= kernels.nibbles.MAX_PARTS
        if by_nibbles or self._scalar:
            alone = n_rows * m < ONE_THREAD_SCANNED
        else:
            alone = n_rows * m + q * d * ksub < ONE_THREAD_PRODUCTS
        threads = 1 if alone else thread_count()
        scan_rows = kernels.nibbles.scan_nibbles if by_nibbles else kernels.codes.scan_codes
        sizes = scan_sizes(
            q, probes.shape[1], keep, threads, max_group=MAX_GROUP, kept_sorted=KEPT_SORTED
        )
        group, shards = sizes.group, sizes.shards
        groups = -(-q // group)
        scored = unit_rows(queries).astype(np.float32) if self._proximity.unit else queries
        distances, ids = np.empty((q, k)), np.empty((q, k), np.int64)
        doubtful = np.empty(q, np.bool_)
        parts = np.zeros((groups, shards, group, keep), np.uint64)

        def search(_slot: int, i: int) -> None:
            g, shard = divmod(i, shards)
            mine = slice(g * group, min(q, (g + 1) * group))
            n = mine.stop - mine.start
            buffers = kernels.select.Buffers(
                keys=np.zeros((n, sizes.capacity), np.uint64),
                counts=np.zeros(n, np.int64),
                least=np.full(n, -np.inf, np.float32),
            )
            probed = np.ascontiguousarray(probes[mine, shard::shards])
            if self._scalar is None:
                scan_rows(op, coding, scored[mine], lists, probed, keep, buffers)
            else:
                kernels.scalar.scan_scalar(
                    op, self._scalar, scored[mine], lists, probed, keep, buffers
                )
            kernels.select.settle(keep, buffers, None)
            parts[g, shard, :n] = buffers.keys[:, :keep]

        def finish(_slot: int, g: int) -> None:
            mine = slice(g * group, min(q, (g + 1) * group))
            n = mine.stop - mine.start
            keys = parts[g, :, :n].transpose(1, 0, 2).reshape(n, -1)
            best = np.ascontiguousarray(np.sort(keys, axis=1)[:, -keep:])
            out = distances[mine], ids[mine], doubtful[mine]
            bounded = self._scalar is not None
            kernels.codes.finish_codes(op, coding, queries[mine], lists, best, *out, bounded)

        tasks = groups * shards
        if tasks == 1:
            search(0, 0)
            finish(0, 0)
            return distances, ids, doubtful
        progress = open_progress("searching", tasks)
        with progress, closing(Workers(threads, progress)) as workers:
            workers.run(search, tasks, work=tasks)
            workers.run(finish, groups)
        return distances, ids, doubtful


def _of_kernels(coding: Coding, proximity: Proximity) -> tuple[Any, Any]:
    """Return a coding as kernels take it, and as those of scalar quantization do, or None."""
    d = coding.centroids.shape[1]
    mean = np.zeros(d, np.float32)
    tail = kernels.codes.NONE
    if proximity.unit:
        tail = kernels.codes.TIMES
    elif coding.residual and not proximity.product:
        tail = kernels.codes.MINUS
        mean = coding.mean
    nbits, codebooks = 16, np.zeros((d, 0, 1), np.float32)  # of float16
    if isinstance(coding, ProductCoding):
        nbits, codebooks = coding.nbits, coding.codebooks
    product = kernels.codes.Coding(
        nbits=nbits,
        code_size=coding.code_size,
        tail=tail,
        codebooks=codebooks,
        codewords=np.ascontiguousarray(codebooks.swapaxes(1, 2)),
        centroids=coding.centroids,
        mean=mean,
    )
    steps = middle = np.zeros(0)  # of float16
    reach = 0.0
    if isinstance(coding, ProductCoding):
        if not coding.is_scalar:
            return product, None
        first, middle, last = codebooks[:, [0, 128, 255], 0].T.astype(np.float64)
        steps = (last - first) / 255
        reach = float(np.linalg.norm(np.maximum(abs(first), abs(last))))
    scalar = kernels.scalar.Scalar(
        tail=tail,
        middle=np.ascontiguousarray(middle),
        steps=steps,
        reach=reach,
        centroids=coding.centroids,
        mean=mean,
    )
    return product, scalar


def _reach(lists: Lists, coding: Coding, number: int) -> float:
    """Return the largest norm of what the codes of a list add to its centroid."""
    words = coding.words(lists.rows(lists.slots(number))[:, : coding.code_size])
    squares = np.einsum("nd,nd->n", words, words, dtype=np.float64)
    return float(np.sqrt(squares.max(initial=0.0)))
