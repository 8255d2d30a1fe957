"""Exact search on the CPU: candidates found in float32, their distances computed in float64."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ...frame import VIEW_ROWS, View, view
from ...validation import check_magnitude
from ..neighbours import Found, Neighbours, check_finite, largest
from . import kernels
from .few import few_are_faster, nearest_of_few
from .first_look import FirstLook
from .scoring import Scoring, score_op
from .second_look import doubtful_queries, look_again
from .store import Rows, float32_rows
from .tasks import ONE_THREAD_PRODUCTS, Int8Sizes, int8_sizes, search_sizes
from .tree import Tree, order, tree_bytes, tree_is_faster
from .workers import Workers, thread_count
from .workspace import NO_ROW

__all__ = ["CpuNeighbours"]


class CpuNeighbours(Neighbours):
    """Candidates are found by float32 scores, and their distances computed in float64.

    A few queries are searched for by `nearest_of_few`. Of more, queries are SIMD lanes. A task is
    some queries against all rows or, where there are few queries, against some of the rows. Queries
    for which rounding might hide a neighbour get a second look.
    """

    backend = "cpu"

    @cached_property
    def queries(self) -> Rows:
        return Rows(self.request.queries)

    @cached_property
    def threads(self) -> int:
        return thread_count()

    @cached_property
    def workers(self) -> Workers:
        return Workers(self.threads, self.request.progress)

    def __exit__(self, *exc: object) -> None:
        if "workers" in self.__dict__:
            self.workers.close()

    def merge(self, best: Found, more: Found) -> None:
        for b in range(len(best[0])):
            kernels.finish.merge_lists(best[0][b], best[1][b], more[0][b], more[1][b])

    def nearest(self, data: Any, offset: int, before: Found | None) -> Found:
        request = self.request
        (b, q, d), n = request.queries.shape, data.shape[1]
        k = min(request.k, n)
        result_bytes = 16 * b * q * k + (1 << 20)
        if few_are_faster(q, n, d, k, request.proximity) and result_bytes <= request.room:
            few, all_rows = float32_rows(request.queries), float32_rows(data)
            if few is not None and all_rows is not None:
                return self._of_few(few, all_rows, k, offset)
        rows = Rows(data)
        if (
            request.proximity.name == "euclidean"
            and tree_is_faster(q, n, d, k)
            and result_bytes + tree_bytes(q, n, d) <= request.room
        ):
            return self._by_trees(rows, k, offset)
        result_bytes += 36 * b * q  # for proofs
        room = request.room - result_bytes
        sizes = search_sizes(b, q, n, d, k, self.threads, room)
        need = result_bytes + sizes.threads * sizes.thread_bytes(d)
        request.check_cap(need, "on the cpu backend")

        out = np.empty((b, q, k)), np.empty((b, q, k), np.int64)
        limit = None if before is None else before[0][..., -1]  # rows beyond it do not count
        int8 = self._int8_sizes(n, k, room)
        first = FirstLook(request, sizes, int8, limit, offset, out)
        self.workers.n = sizes.threads
        scorings = self._search_in_range(first, data, rows)
        if sizes.keep == n:  # no row was left out
            return out
        for j, scoring in enumerate(scorings):
            distances, indices = out[0][j], out[1][j]
            farthest = None if limit is None else limit[j]
            which = doubtful_queries(scoring, distances, farthest, first.measured)
            if len(which):
                look_again(
                    self._by_differences(scoring) if request.proximity.unit else scoring,
                    which,
                    farthest,
                    self.skipped(offset, n),
                    (distances, indices),
                    first.measured,
                    room=room,
                    workers=self.workers,
                    threads=self.threads,
                )
        return out

    def _of_few(self, queries: np.ndarray, data: np.ndarray, k: int, offset: int) -> Found:
        """Search for a few queries (B, Q, D) among data (B, N, D)."""
        request = self.request
        (b, q, d), n = queries.shape, data.shape[1]
        op = score_op(request.proximity)
        skip = -offset if request.exclude_self else NO_ROW
        out = np.empty((b, q, k)), np.empty((b, q, k), np.int64)
        finite = True
        for j in range(b):
            distances, indices = out[0][j], out[1][j]
            if q * n * (d + 8) < ONE_THREAD_PRODUCTS:
                nearest = kernels.few.nearest_rows
                finite &= nearest(op, queries[j], data[j], 0, skip, distances, indices)
            else:
                finite &= nearest_of_few(
                    op, queries[j], data[j], skip, (distances, indices), self.workers
                )
        if not finite:  # a row holds NaN or Inf, or its square is none that float32 holds
            check_finite(data, data.shape, "data")
        return out

    def _int8_sizes(self, n: int, k: int, room: int) -> Int8Sizes | None:
        """Return the sizes of a search by bytes, or None if it is done without."""
        if not kernels.ir.INT8 or self.request.proximity.name in ("l1", "linf"):
            return None
        _, q, d = self.request.queries.shape
        return int8_sizes(q, n, d, k, self.threads, room, max_dims=kernels.int8.MAX_DIMS)

    def _search_in_range(self, first: FirstLook, data: Any, rows: Rows) -> list[Scoring]:
        """Search in all batch elements, so that no square leaves the range of float32.

        A batch element is searched once more where a sample of its rows did not show how large
        they are. Returns how each was searched in the end.
        """
        b, q, d = self.request.queries.shape
        n = rows.x.shape[1]
        proximity = self.request.proximity
        views = [View(None, 1.0, None, 1.0, np.zeros(d))] * b
        # For unit rows, a view only tells whether they are nearly parallel.
        if not proximity.unit or b * q * n * (d + 8) >= ONE_THREAD_PRODUCTS:
            views = [self._view(rows, j) for j in range(b)]
        scorings = [Scoring(proximity, self.queries, rows, j, views[j]) for j in range(b)]
        todo = list(scorings)
        while todo:
            first.run(todo, self.workers)
            again = []
            for scoring in todo:
                j = scoring.b
                largest_bits = int(first.measured.largest_bits[j])
                if scoring.reads_well(largest_bits, float(self.request.magnitude[j])):
                    continue
                magnitude = largest(data[j : j + 1])
                check_magnitude(magnitude, tuple(data.shape), "data")
                wider = self._view(rows, j, float(magnitude[0]))
                if wider.row_scale != scoring.view.row_scale:
                    scorings[j] = Scoring(proximity, self.queries, rows, j, wider)
                    again.append(scorings[j])
            todo = again
        return scorings

    def _view(self, rows: Rows, b: int, magnitude: float | None = None) -> View:
        """Return the view of batch element b; by default, the magnitude is that of a sample."""
        element = rows.x[b]
        sample = rows.decode(element[:: max(1, len(element) // VIEW_ROWS)]).astype(np.float64)
        if magnitude is None:
            magnitude = float(np.abs(sample).max(where=np.isfinite(sample), initial=0.0))
        # Differences of float32 rows need no origin close by.
        centred = "float64" in (rows.name, self.queries.name)
        query_magnitude = float(self.request.magnitude[b])
        return view(self.request.proximity, query_magnitude, magnitude, sample, centred=centred)

    def _by_differences(self, scoring: Scoring) -> Scoring:
        """Return the scoring of unit rows by differences, which round less than products."""
        rows, b = scoring.rows, scoring.b
        view = self._view(rows, b)
        return Scoring(scoring.proximity, self.queries, rows, b, view, by_chords=True)

    def _by_trees(self, rows: Rows, k: int, offset: int) -> Found:
        """Search by a tree for each batch element."""
        b, q, _ = self.request.queries.shape
        self.workers.n = self.threads
        distances, indices = np.empty((b, q, k)), np.empty((b, q, k), np.int64)
        skip = -offset if self.request.exclude_self else NO_ROW
        for j in range(b):
            data, asked = rows.x[j], self.queries.x[j]
            queries = self.queries.decode(asked).astype(np.float64, order="C")
            same = (
                data.__array_interface__ == asked.__array_interface__
                and rows.name == self.queries.name
            )
            values = queries if same else rows.decode(data).astype(np.float64)
            magnitude = np.maximum(values.max(), -values.min())[None]
            check_magnitude(magnitude, tuple(rows.x.shape), "data")
            tree = Tree(values, self.workers)
            query_order = tree.order if same else order(queries, self.workers)
            tree.search(queries, query_order, skip, (distances[j], indices[j]))
        return distances, indices
