"""Exact search by MLX operations: candidates in float32 on the device, proven or found again, ranked on the host in float64."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..validation import check_magnitude, to_numpy
from .neighbours import NOTHING, Found, Neighbours, largest
from .view import SAMPLE_ROWS, View, view

__all__ = ["PortableNeighbours", "framed", "unit"]

TILE_BYTES = 64 << 20  # for scores and rows on the device
RANKED = 1 << 16  # values of candidates' rows that are in float64 at a time
EPS = 2.0**-24


class PortableNeighbours(Neighbours):
    """Tiles of queries against tiles of rows.

    Euclidean candidates are found by ``<q, x> - ||x||^2 / 2``. Where rounding could hide a neighbour, because a row that
    was left out scores too close to the k-th, the query is searched again by differences.
    """

    backend = "portable"

    def nearest(self, data: Any, offset: int, before: Found | None) -> Found:
        (b, q, _), n = self.request.queries.shape, data.shape[1]
        m = min(self.request.k, n)
        self.keep = min(n, m + 8 + m // 8 + self.request.exclude_self)
        self.tile = self._tiles(data, 16 * b * q * m)
        check_magnitude(largest(data), tuple(data.shape), "data")
        distances, indices = np.full((b, q, m), np.inf), np.full((b, q, m), NOTHING)
        skipped = self.skipped(offset, n)
        for j in range(b):
            sample = to_numpy(data[j, :: max(1, n // SAMPLE_ROWS)]).astype(np.float64)
            magnitude = float(largest(data[j : j + 1])[0])
            seen = view(self.request.proximity, float(self.request.magnitude[j]), magnitude, sample, centred=True)
            out = distances[j], indices[j]
            expanded = self.request.proximity.product or self.request.proximity.name == "euclidean"
            for lo in range(0, q, self.tile[0]):
                rows = np.arange(lo, min(q, lo + self.tile[0]))
                if expanded:
                    rows = self._search(j, rows, data, seen, skipped, out, expanded=True)
                if len(rows):
                    self._search(j, rows, data, seen, skipped, out, expanded=False)
        return distances, indices

    def _tiles(self, data: Any, results: int) -> tuple[int, int]:
        """Queries and rows of a tile."""
        (_, q, d), n = self.request.queries.shape, data.shape[1]
        fixed = results + 64 * RANKED + (1 << 20)

        def need(queries: int, rows: int) -> int:
            return 16 * queries * (rows + 4 * self.keep) + 24 * d * (queries + rows)

        rows = min(n, max(4096, 4 * self.keep))
        self.request.check_cap(
            fixed + need(1, min(n, self.keep)) + 12 * min(n, self.keep) * d, f"on the {self.backend} backend"
        )
        room = min(TILE_BYTES, self.request.room - fixed)
        queries = min(q, 4096)
        while need(queries, rows) > room and (queries > 1 or rows > self.keep):
            if queries > 1 and (queries > 64 or rows <= self.keep):
                queries = -(-queries // 2)
            else:
                rows = max(self.keep, rows // 2)
        return queries, max(1, rows)

    def _search(
        self, j: int, which: np.ndarray, data: Any, seen: View, skipped: np.ndarray, out: Found, *, expanded: bool
    ) -> np.ndarray:
        """Fill the results `out` of some queries of member j; returns those whose candidates may not be the best."""
        raw = self._take(self.request.queries[j], which)
        queries = framed(raw, seen.query_shift, seen.query_scale)
        score, index = self._candidates(queries, data[j], seen, expanded=expanded)
        m, doubtful = out[0].shape[1], np.zeros(len(which), bool)
        step = max(1, RANKED // (self.keep * data.shape[2]))
        for lo in range(0, len(which), step):
            some = slice(lo, lo + step)
            own = to_numpy(raw[some]).astype(np.float64)
            flat = index[some].reshape(-1)
            rows = to_numpy(self._take(data[j], flat)).astype(np.float64).reshape(*index[some].shape, -1)
            value = self.request.proximity.distances(own, rows)
            row = index[some].copy()
            gone = row == skipped[which[some]][:, None]
            value[gone], row[gone] = np.inf, NOTHING
            order = np.lexsort([row, value])[:, :m]
            value, row = np.take_along_axis(value, order, 1), np.take_along_axis(row, order, 1)
            out[0][which[some]], out[1][which[some]] = value, row
            if expanded and not self.request.proximity.product and self.keep < data.shape[1]:
                inner = (own - (0 if seen.query_shift is None else seen.query_shift)) / seen.query_scale
                square = np.square(inner).sum(1)
                error = (data.shape[2] + 8) * EPS * np.square(np.sqrt(square) + self._reach)
                least = square - 2 * (score[some].min(1) + error)  # of the rows that were left out
                doubtful[some] = value[:, -1] / seen.query_scale**2 >= least
        return which[doubtful]

    def _candidates(self, queries: mx.array, data: Any, seen: View, *, expanded: bool) -> tuple[np.ndarray, np.ndarray]:
        """(T, keep) scores and int64 rows, in no order, of queries (T, D) in the view: the best, ties to the lowest row."""
        t, d = queries.shape
        n = data.shape[0]
        best = np.zeros((t, 0), np.float32), np.zeros((t, 0), np.int64)
        reach = mx.array(0.0)
        for lo in range(0, n, self.tile[1]):
            rows = framed(data[lo : lo + self.tile[1]], seen.row_shift, seen.row_scale)
            if expanded:
                scores = self._products(queries, rows)
                reach = mx.maximum(reach, mx.square(rows).sum(1).max())
            else:
                step = max(1, self.tile[0] * self.tile[1] // (len(rows) * d))
                scores = mx.concatenate([self._differences(queries[i : i + step], rows) for i in range(0, t, step)])
            index, score = self._top(scores, min(self.keep, len(rows)))
            mx.eval(index, score, reach)
            every = np.concatenate([best[0], np.array(score)], 1), np.concatenate([best[1], np.array(index, np.int64) + lo], 1)
            order = np.lexsort([every[1], -every[0]])[:, : self.keep]
            best = np.take_along_axis(every[0], order, 1), np.take_along_axis(every[1], order, 1)
        self._reach = float(np.sqrt(np.array(reach)))
        return best

    def _products(self, queries: mx.array, rows: mx.array) -> mx.array:
        if self.request.proximity.unit:
            return unit(queries) @ unit(rows).T
        if self.request.proximity.product:
            return queries @ rows.T
        return mx.addmm(-0.5 * mx.square(rows).sum(1)[None], queries, rows.T)

    def _differences(self, queries: mx.array, rows: mx.array) -> mx.array:
        """Minus the distances (t, T), computed by differences."""
        gap = mx.abs(queries[:, None] - rows[None])
        name = self.request.proximity.name
        scores = -(mx.square(gap).sum(2) if name == "euclidean" else gap.sum(2) if name == "l1" else gap.max(2))
        mx.eval(scores)
        return scores

    def _top(self, scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
        """The k best of each row of scores, ties to the lowest index: (T, k) indices and scores."""
        order = mx.argsort(-scores, axis=1)[:, :k]  # a stable sort
        return order, mx.take_along_axis(scores, order, axis=1)

    def _take(self, x: Any, index: np.ndarray) -> Any:
        return x[mx.array(index)] if isinstance(x, mx.array) else x[index]


def framed(x: Any, shift: np.ndarray | None, scale: float) -> mx.array:
    """Rows as float32 in the view; NumPy's are shifted and scaled before they are rounded."""
    if isinstance(x, mx.array):
        y = x.astype(mx.float32)
        y = y if shift is None else y - mx.array(shift.astype(np.float32))
        return y if scale == 1.0 else y * (1.0 / scale)
    if shift is not None or scale != 1.0:
        x = (x - (0.0 if shift is None else shift)) / scale
    return mx.array(np.ascontiguousarray(x, np.float32))


def unit(x: mx.array) -> mx.array:
    """Rows of norm 1; zero rows stay zero."""
    largest = mx.abs(x).max(1, keepdims=True)
    x = x / mx.where(largest > 0, largest, 1.0)
    norm = mx.sqrt(mx.square(x).sum(1, keepdims=True))
    return x / mx.where(norm > 0, norm, 1.0)
