"""Scans of inverted lists of codes on the CPU: product-quantized and scalar-quantized ones."""

from __future__ import annotations

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
from .tasks import KEPT_SORTED, ONE_THREAD_PRODUCTS, candidates, scan_sizes
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
    """Return the nearest codes; see `backends.scan_codes`.

    Where rows that were left out score as the last of the k do, ids decide: these queries are
    searched for again, with more candidates.
    """
    n_rows = lists.counts[probes].sum(1)
    distances, ids = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    scan = _Scan(lists, coding, proximity, probes)
    todo, keep = np.arange(len(queries)), candidates(k)
    while len(todo):
        keep = min(keep, max(1, int(n_rows[todo].max())))
        again = []
        n_parts = -(-len(todo) * keep // MAX_KEPT)
        for part in [todo] if n_parts == 1 else np.array_split(todo, n_parts):
            distances[part], ids[part], doubtful = scan.nearest(
                queries[part], probes[part], k, keep, int(n_rows[part].sum())
            )
            again.append(part[doubtful & (n_rows[part] > keep)])
        todo, keep = np.concatenate(again), 8 * keep
    return distances, ids


class _Scan:
    """Scans of the same lists."""

    def __init__(
        self, lists: Lists, coding: Coding, proximity: Proximity, probes: np.ndarray
    ) -> None:
        self._proximity = proximity
        self._op = score_op(proximity)
        self._lists = kernel_lists(lists)
        if self._op not in coding.cache:
            coding.cache[self._op] = _of_kernels(coding, proximity)
        self._coding, self._scalar = coding.cache[self._op]
        if isinstance(coding, HalfCoding):
            reach = largest_of_lists(lists, probes, partial(_reach, lists, coding))
            self._scalar = self._scalar._replace(reach=reach)

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
        table = 0 if self._scalar else q * d * ksub
        alone = n_rows * m + table < ONE_THREAD_PRODUCTS
        threads = 1 if alone else thread_count()
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
                kernels.codes.scan_codes(op, coding, scored[mine], lists, probed, keep, buffers)
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
