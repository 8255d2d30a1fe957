"""The search of all rows for the candidates of every query, and the distances of these."""

from __future__ import annotations

import numpy as np

from ..neighbours import Found, Request
from . import kernels
from .int8_look import Int8Look
from .scoring import Measurements, Scoring, score_op
from .tasks import Int8Sizes, SearchSizes
from .workers import Workers
from .workspace import NO_ROW, Workspace

__all__ = ["FirstLook"]


class FirstLook:
    """Search for the best candidates by score, and rank them by their distances.

    Attributes:
        request: The search.
        sizes: How it is split into tasks.
        int8: How a search by bytes is, or None for none.
        limit: (B, Q) distances beyond which rows may be left out, or None.
        offset: Index of the first row, for `exclude_self`.
        out: Distances and indices (B, Q, k), which `run` fills.
        measured: What `run` measures besides.
    """

    def __init__(
        self,
        request: Request,
        sizes: SearchSizes,
        int8: Int8Sizes | None,
        limit: np.ndarray | None,
        offset: int,
        out: Found,
    ) -> None:
        b, q, _ = request.queries.shape
        self.request = request
        self.sizes = sizes
        self.int8 = int8
        self.limit = limit
        self.offset = offset
        self.out = out
        self.measured = Measurements.empty(b, q)

    def run(self, scorings: list[Scoring], workers: Workers) -> None:
        """Search in the batch elements that are scored this way."""
        q, group = self.request.queries.shape[1], self.sizes.group
        tasks = []
        for scoring in scorings:
            self.measured.largest_bits[scoring.b] = self.measured.largest_squares[scoring.b] = 0
            for first, end in self._run_int8(scoring, workers) if self.int8 else [(0, q)]:
                tasks += [(scoring, lo, min(end, lo + group)) for lo in range(first, end, group)]
        if tasks:
            self._run_float32(tasks, workers)

    def _run_int8(self, scoring: Scoring, workers: Workers) -> list[tuple[int, int]]:
        """Search by bytes; returns which queries are left, as `Int8Look.run` does."""
        assert self.int8 is not None
        look = Int8Look(self.request, self.int8, self.limit, self.offset, self.out, self.measured)
        return look.run(scoring, workers)

    def _run_float32(self, tasks: list[tuple[Scoring, int, int]], workers: Workers) -> None:
        """Search for some queries each time, from the first to the end."""
        d = self.request.queries.shape[2]
        n = tasks[0][0].rows.x.shape[1]
        sizes = self.sizes
        group, keep = sizes.group, sizes.keep
        # Sizes count memory for the groups of all queries.
        q, elements = self.request.queries.shape[1], len({scoring.b for scoring, _, _ in tasks})
        shards = sizes.shards if len(tasks) <= elements * -(-q // group) else 1
        spaces = [Workspace(group, sizes.capacity, sizes.tile, d) for _ in range(sizes.threads)]
        parts = np.zeros((len(tasks), shards, group, keep) if shards > 1 else 0, np.uint64)
        largest_bits = np.zeros((len(tasks), shards), np.int32)
        largest_squares = np.zeros((len(tasks), shards))
        bounds = [n * s // shards for s in range(shards + 1)]

        def search(slot: int, i: int) -> None:
            task, shard = divmod(i, shards)
            scoring, lo, hi = tasks[task]
            space = spaces[slot]
            self._load(space, scoring, lo, hi)
            skip = lo - self.offset if self.request.exclude_self else NO_ROW
            largest_bits[task, shard], largest_squares[task, shard] = space.search(
                scoring, bounds[shard], bounds[shard + 1], skip=skip, keep=keep
            )
            kernels.select.settle(keep, space.buffers, None)
            keys = space.buffers.keys[:, :keep]
            if shards > 1:
                parts[task, shard, : hi - lo] = keys
            else:
                self._finish(space, scoring, lo, hi, keys)

        def gather(slot: int, task: int) -> None:
            scoring, lo, hi = tasks[task]
            keys = parts[task, :, : hi - lo].transpose(1, 0, 2).reshape(hi - lo, -1)
            self._finish(spaces[slot], scoring, lo, hi, keys)

        searched = sum(hi - lo for _, lo, hi in tasks)
        workers.run(search, len(tasks) * shards, work=n * searched / q)
        if shards > 1:
            workers.run(gather, len(tasks))
        measured = self.measured
        for task, (scoring, _, _) in enumerate(tasks):
            b = scoring.b
            measured.largest_bits[b] = max(measured.largest_bits[b], largest_bits[task].max())
            measured.largest_squares[b] = max(
                measured.largest_squares[b], largest_squares[task].max()
            )

    def _load(self, space: Workspace, scoring: Scoring, lo: int, hi: int) -> None:
        """Read queries lo:hi, measure what proofs need, and set what scores must exceed."""
        b = scoring.b
        space.load(scoring, scoring.query_source, lo, hi)
        norms = self.measured.norms[b, lo:hi]
        by_products = scoring.op == kernels.scores.DOT
        if by_products or scoring.rounds:
            space.measure(scoring, norms)
        shift = scoring.view.row_shift
        if by_products and shift is not None:
            products = self.measured.shift_products[b, lo:hi]
            source, tile = scoring.given_query_source, space.scratch.tile
            kernels.finish.products_with(source, lo, shift, tile, products)
        if self.limit is None or by_products:
            space.start(-np.inf)
        else:
            space.start(scoring.least_scores(self.limit[b, lo:hi], norms))

    def _finish(
        self, space: Workspace, scoring: Scoring, lo: int, hi: int, keys: np.ndarray
    ) -> None:
        """Rank the candidates keys (Q, any) of queries lo:hi by their distances."""
        b = scoring.b
        kernels.finish.finish_rows(
            score_op(self.request.proximity),
            scoring.given_query_source,
            lo,
            scoring.given_row_source,
            np.ascontiguousarray(np.sort(keys, axis=1)[:, -self.sizes.keep :]),
            self.out[0][b, lo:hi],
            self.out[1][b, lo:hi],
            self.measured.lowest_scores[b, lo:hi],
            space.scratch.tile,
        )
