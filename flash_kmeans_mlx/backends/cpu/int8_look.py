"""The search of all rows for candidates by bytes, a quarter of the time that float32 takes."""

from __future__ import annotations

import numpy as np

from ..neighbours import Found, Request
from . import kernels
from .scoring import Measurements, Scoring, score_op
from .store import empty_lines
from .tasks import Int8Sizes
from .workers import Workers
from .workspace import NO_ROW

__all__ = ["Int8Look"]

MOST_SCORED = 0.05  # the share of pairs to score in float32 from which all of them take less time
SAMPLE = 1024  # rows that the middle, and the usual rounding of a row, are taken from
LEAST_RATIO = 2.0**-10  # of the rounding to the norm of a row, or exact rows spoil others


class _Space:
    """Some queries as bytes and their candidates, for one task after another."""

    def __init__(self, sizes: Int8Sizes, d: int) -> None:
        points, quads = kernels.lanes.POINTS, kernels.int8.words_of(d)
        size = -(-sizes.group // points) * points
        self.scratch = kernels.topk.Scratch(
            tile=empty_lines((sizes.read, d)),
            scores=np.empty((0, 0), np.float32),
            masks=np.empty(0, np.int64),
            tail=np.empty((0, 0), np.float32),
            wide=np.empty(d),
        )
        self.part = empty_lines((points, d))
        self.values = np.zeros(4 * quads, np.int8)
        self._bounds = empty_lines((kernels.lanes.ROWS, points))
        self._masks = np.zeros(kernels.lanes.ROWS, np.int64)
        self._words = empty_lines((size // points, quads, points), np.int32)
        self._measures = empty_lines((3, size))
        self._read = empty_lines((size, d))
        self._limits = empty_lines((size // points, 3, points))
        self._base = np.zeros(size)
        self._size = np.zeros(size, np.float32)
        self._failed = np.zeros(size, np.bool_)
        self._keys = np.empty((sizes.group, sizes.capacity), np.uint64)
        self._counts = np.zeros(sizes.group, np.int64)
        self._room = np.zeros(sizes.group, np.int64)
        self._scored = np.zeros(sizes.group, np.int64)
        self._wide = np.empty((2, d))
        self._values = np.empty(sizes.capacity)
        self._numbers = np.empty(sizes.capacity, np.int64)
        self._first_room = 2 * sizes.keep + 32

    def take(self, n: int) -> None:
        """Make room for n queries, without candidates."""
        points = kernels.lanes.POINTS
        blocks = -(-n // points)
        size = blocks * points
        self.queries = kernels.int8_rows.Int8Queries(
            kernels.int8.Int8Points(self._words[:blocks], self._measures),
            self._read[:size],
            self._limits[:blocks],
            self._base[:size],
            self._size[:size],
            self._failed[:size],
        )
        self.candidates = kernels.int8_topk.Candidates(
            self._keys[:n],
            self._counts[:n],
            self._room[:n],
            self._scored[:n],
            self._bounds,
            self._masks,
            self._wide,
            self._values,
            self._numbers,
        )
        self._counts.fill(0)
        self._scored.fill(0)
        self._room.fill(min(self._keys.shape[1], self._first_room))


class Int8Look:
    """Search for the rows that may be among the best, and rank them by their distances.

    Attributes are those of `FirstLook`, with the sizes of this search.
    """

    def __init__(
        self,
        request: Request,
        sizes: Int8Sizes,
        limit: np.ndarray | None,
        offset: int,
        out: Found,
        measured: Measurements,
    ) -> None:
        self.request = request
        self.sizes = sizes
        self.limit = limit
        self.offset = offset
        self.out = out
        self.measured = measured
        self._left: list[tuple[int, int]] = []
        self._scored: list[int] = []

    def run(self, scoring: Scoring, workers: Workers) -> list[tuple[int, int]]:
        """Search in one batch element.

        Returns which queries are left for float32, as bounds rule out too little for them, or do
        not hold: the first and the end of each part.
        """
        _, q, d = self.request.queries.shape
        sizes, b = self.sizes, scoring.b
        usual, workers.n = workers.n, sizes.threads
        try:
            spaces = [_Space(sizes, d) for _ in range(sizes.threads)]
            middle = self._middle(scoring, spaces[0])
            rows = self._round_rows(scoring, middle, spaces, workers)
            largest_bits = int(self.measured.largest_bits[b])
            if not scoring.reads_well(largest_bits, float(self.request.magnitude[b])):
                return [(0, q)]
            ratio = np.float32(_usual_ratio(rows))
            largest = kernels.int8_rows.set_reach(rows, ratio)
            # At first a few queries, which tell whether others are worth it.
            step = kernels.lanes.POINTS
            starts = [*range(0, min(q, step * sizes.threads), step)]
            n_pilots = len(starts)
            starts += [*range(step * n_pilots, q, sizes.group), q]

            def search(slot: int, i: int) -> None:
                lo, hi = starts[i : i + 2]
                self._search(spaces[slot], scoring, lo, hi, (rows, middle, largest, ratio))

            workers.run(search, n_pilots)
            n_pairs = len(rows.start) * starts[n_pilots]
            if self._left or sum(self._scored) > MOST_SCORED * n_pairs:
                return [(0, q)]
            workers.run(
                lambda slot, i: search(slot, n_pilots + i),
                len(starts) - 1 - n_pilots,
                work=len(rows.start),
            )
        finally:
            workers.n = usual
        return self._left

    def _middle(self, scoring: Scoring, space: _Space) -> np.ndarray:
        """Return (D,) the mean of a sample of the rows."""
        n = scoring.rows.x.shape[1]
        middle = np.zeros(scoring.rows.x.shape[2], np.float32)
        kernels.int8_rows.mean_row(
            scoring.op,
            scoring.row_source,
            n,
            max(1, n // SAMPLE),
            scoring.centre,
            middle,
            space.scratch,
        )
        return middle

    def _round_rows(
        self, scoring: Scoring, middle: np.ndarray, spaces: list[_Space], workers: Workers
    ) -> kernels.int8_rows.Int8Rows:
        """Return all rows as bytes, and measure what `FirstLook` does."""
        n, d = scoring.rows.x.shape[1:]
        quads = kernels.int8.words_of(d)
        rows = kernels.int8_rows.Int8Rows(
            np.empty((n, 4 * quads), np.int8),
            np.empty(n, np.int32),
            np.empty((n, 3), np.float32),
            np.empty(n, np.float32),
        )
        rows.values[:, d:] = 0
        step = max(self.sizes.read, -(-n // (4 * self.sizes.threads)))
        parts = -(-n // step)
        bits, squares = np.zeros(parts, np.int32), np.zeros(parts, np.float32)

        def round_some(slot: int, i: int) -> None:
            bits[i], squares[i] = kernels.int8_rows.round_rows(
                scoring.op,
                scoring.row_source,
                i * step,
                min(n, (i + 1) * step),
                scoring.centre,
                middle,
                rows,
                spaces[slot].part,
                spaces[slot].scratch,
            )

        workers.run(round_some, parts)
        self.measured.largest_bits[scoring.b] = bits.max()
        self.measured.largest_squares[scoring.b] = squares.max()
        return rows

    def _search(self, space: _Space, scoring: Scoring, lo: int, hi: int, all_rows: tuple) -> None:
        """Search for queries lo:hi."""
        b, sizes, n = scoring.b, self.sizes, hi - lo
        rows, middle, largest, ratio = all_rows
        space.take(n)
        norms = self.measured.norms[b, lo:hi]
        kernels.int8_rows.round_queries(
            scoring.op,
            scoring.query_source,
            lo,
            n,
            scoring.centre,
            middle,
            largest,
            ratio,
            space.queries,
            norms,
            space.part,
            space.values,
            space.scratch,
        )
        least = np.full(n, -np.inf, np.float32)
        by_products = scoring.op == kernels.scores.DOT
        shift = scoring.view.row_shift
        if by_products and shift is not None:
            products = self.measured.shift_products[b, lo:hi]
            source, tile = scoring.given_query_source, space.scratch.tile
            kernels.finish.products_with(source, lo, shift, tile, products)
        if self.limit is not None and not by_products:
            least = scoring.least_scores(self.limit[b, lo:hi], norms)
        kernels.int8_rows.start_queries(scoring.op, n, least, space.queries)
        search = kernels.int8_candidates.Search(
            scoring.op, sizes.keep, scoring.row_source, scoring.centre, space.scratch
        )
        fits = kernels.int8_topk.search_bytes(
            space.queries,
            rows,
            n,
            0,
            len(rows.start),
            sizes.tile,
            lo - self.offset if self.request.exclude_self else NO_ROW,
            search,
            space.candidates,
        )
        self._scored.append(int(space.candidates.scored.sum()))
        if not fits:
            self._left.append((lo, hi))
            return
        kernels.int8_topk.finish_bytes(
            n,
            space.queries,
            rows,
            search,
            space.candidates,
            score_op(self.request.proximity),
            scoring.given_query_source,
            lo,
            scoring.given_row_source,
            self.out[0][b, lo:hi],
            self.out[1][b, lo:hi],
            self.measured.lowest_scores[b, lo:hi],
        )


def _usual_ratio(rows: kernels.int8_rows.Int8Rows) -> float:
    """Return the median of a sample's roundings, as shares of their rows' norms."""
    step = max(1, len(rows.start) // SAMPLE)
    norm, residual = rows.terms[::step, 2], rows.residual[::step]
    some = norm > 1e-15
    return max(LEAST_RATIO, float(np.median(residual[some] / norm[some]))) if some.any() else 1.0
