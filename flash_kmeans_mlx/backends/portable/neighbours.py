"""Exact search by MLX operations: candidates in float32 on the device, proven or found again, ranked on the host in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from ...frame import EPS, VIEW_ROWS, View, view
from ...metrics import unit_rows
from ...validation import check_magnitude, to_numpy
from ..bounds import least_by_differences, least_by_expansion, least_by_products, product_rounding
from ..neighbours import NOTHING, PIECE, Found, Neighbours, largest

__all__ = ["PortableNeighbours", "framed", "unit"]

TILE_BYTES = 64 << 20  # for scores and rows on the device
RANKED = 1 << 16  # values of candidates' rows that are in float64 at a time
SMALL = (
    2.0**-100
)  # magnitudes of rows that are enlarged before a device, to which denormals may be 0, makes them unit rows


class PortableNeighbours(Neighbours):
    """Tiles of queries against tiles of rows.

    Euclidean candidates are found by ``<q, x> - ||x||^2 / 2``, those of "cosine" and "dot" by products, others by differences.
    Where rounding could hide a neighbour, because a row that was left out scores too close to the k-th, the query is asked
    again: by differences where there are any, and every row that scores so well that it may be nearer is looked at.
    """

    backend = "portable"

    def nearest(self, data: Any, offset: int, before: Found | None) -> Found:
        (b, q, _), n = self.request.queries.shape, data.shape[1]
        m = min(self.request.k, n)
        self.keep = min(n, m + 8 + m // 8 + self.request.exclude_self)
        self.tile = self._tiles(data, 16 * b * q * m)
        magnitude = largest(data)
        check_magnitude(magnitude, tuple(data.shape), "data")
        self._enlarge = (
            self.request.proximity.unit
            and min(_smallest(self.request.queries), _smallest(data)) < SMALL
        )
        distances, indices = np.full((b, q, m), np.inf), np.full((b, q, m), NOTHING)
        skipped = self.skipped(offset, n)
        for j in range(b):
            sample = to_numpy(data[j, :: max(1, n // VIEW_ROWS)]).astype(np.float64)
            seen = view(
                self.request.proximity,
                float(self.request.magnitude[j]),
                float(magnitude[j]),
                sample,
                centred=True,
            )
            seen = (
                _on_device(seen)
                if isinstance(data, mx.array) or isinstance(self.request.queries, mx.array)
                else seen
            )
            out = distances[j], indices[j]
            products = (
                self.request.proximity.product or self.request.proximity.name == "euclidean"
            ) and not seen.parallel
            for lo in range(0, q, self.tile[0]):
                which = np.arange(lo, min(q, lo + self.tile[0]))
                known = np.full(len(which), np.inf) if before is None else before[0][j, which, -1]
                which = which[
                    self._search(j, which, data, seen, skipped, known, out, products=products)
                ]
                if len(which):
                    known = known[which - lo]
                    self._look_again(j, which, data, seen, skipped, known, out)
        return distances, indices

    def _tiles(self, data: Any, results: int) -> tuple[int, int]:
        """Queries and rows of a tile."""
        (_, q, d), n = self.request.queries.shape, data.shape[1]
        fixed = results + 64 * RANKED + (1 << 20)
        per_value = 24 + 32 * self.request.proximity.unit  # unit rows may be made on the host

        def need(queries: int, rows: int) -> int:
            return 16 * queries * (rows + 4 * self.keep) + per_value * d * (queries + rows)

        rows = min(n, max(4096, 4 * self.keep))
        least = need(1, min(n, self.keep)) + 12 * min(n, self.keep) * d
        self.request.check_cap(fixed + least, f"on the {self.backend} backend")
        room = min(TILE_BYTES, self.request.room - fixed)
        queries = min(q, 4096)
        while need(queries, rows) > room and (queries > 1 or rows > self.keep):
            if queries > 1 and (queries > 64 or rows <= self.keep):
                queries = -(-queries // 2)
            else:
                rows = max(self.keep, rows // 2)
        return queries, max(1, rows)

    def _search(
        self,
        j: int,
        which: np.ndarray,
        data: Any,
        seen: View,
        skipped: np.ndarray,
        known: np.ndarray,
        out: Found,
        *,
        products: bool,
    ) -> np.ndarray:
        """Fill the results `out` of some queries of batch element j; returns a mask of those whose candidates may not be the best.

        What is farther than known (len(which),) may be left out.
        """
        raw = self._take(self.request.queries[j], which)
        score, index = self._candidates(
            self._read_queries(raw, seen, products), data[j], seen, products=products
        )
        m, norms = out[0].shape[1], np.zeros(len(which))
        bases, step = np.zeros(len(which)), max(1, RANKED // (self.keep * data.shape[2]))
        for lo in range(0, len(which), step):
            some = slice(lo, lo + step)
            own = to_numpy(raw[some]).astype(np.float64)
            flat = index[some].reshape(-1)
            rows = (
                to_numpy(self._take(data[j], flat))
                .astype(np.float64)
                .reshape(*index[some].shape, -1)
            )
            value = self.request.proximity.distances(own, rows)
            row = index[some].copy()
            gone = row == skipped[which[some]][:, None]
            value[gone], row[gone] = np.inf, NOTHING
            order = np.lexsort([row, value])[:, :m]
            value, row = np.take_along_axis(value, order, 1), np.take_along_axis(row, order, 1)
            out[0][which[some]], out[1][which[some]] = value, row
            norms[some], bases[some] = self._measure(own, seen, products)
        if self.keep == data.shape[1]:
            return np.zeros(len(which), bool)
        tau = np.minimum(out[0][which, -1], known)
        doubtful = score.min(1) > self._least(tau, norms, bases, seen, products, self._rounding())
        if products:
            return doubtful & (norms > 0) if self.request.proximity.unit else doubtful
        return (
            doubtful if self.request.proximity.unit else doubtful & (tau > 0)
        )  # equal rows score 0, the first are kept

    def _look_again(
        self,
        j: int,
        which: np.ndarray,
        data: Any,
        seen: View,
        skipped: np.ndarray,
        known: np.ndarray,
        out: Found,
    ) -> None:
        """Put every row that may be among the nearest of the queries `which` of batch element j into their results `out`."""
        products = self.request.proximity.similarity
        raw = self._take(self.request.queries[j], which)
        queries, wide = self._read_queries(raw, seen, products), to_numpy(raw).astype(np.float64)
        norms, bases = self._measure(wide, seen, products)
        step = max(1, RANKED // data.shape[2])
        for lo in range(0, data.shape[1], self.tile[1]):
            raw_rows = data[j, lo : lo + self.tile[1]]
            scores = np.array(
                self._score(queries, self._read_rows(raw_rows, seen, products), products)
            )
            tau = np.minimum(out[0][which, -1], known)
            least = self._least(tau, norms, bases, seen, products, product_rounding())
            for i in np.flatnonzero((scores > least[:, None]).any(1)).tolist():
                own = out[0][which[i]], out[1][which[i]]
                near = np.flatnonzero(scores[i] > least[i])
                near = near[~np.isin(near + lo, own[1]) & (near + lo != skipped[which[i]])]
                for some in np.split(near, range(step, len(near), step)):
                    rows = to_numpy(self._take(raw_rows, some)).astype(np.float64)
                    value = np.concatenate(
                        [own[0], self.request.proximity.distances(wide[i], rows)]
                    )
                    row = np.concatenate([own[1], some + lo])
                    order = np.lexsort([row, value])[: len(own[0])]
                    own[0][:], own[1][:] = value[order], row[order]

    def _least(
        self,
        tau: np.ndarray,
        norms: np.ndarray,
        bases: np.ndarray,
        seen: View,
        products: bool,
        rounding: float,
    ) -> np.ndarray:
        """(Q,) float32: what a row must exceed as it scores to be as near as tau (Q,), for all that rounding may do."""
        proximity, d = self.request.proximity, self.request.queries.shape[2]
        if not products:
            return least_by_differences(proximity, tau, norms, d, seen.row_scale, rounded=True)
        if proximity.unit:
            return least_by_products(proximity, tau, norms, d, rounded=rounding + (d + 16) * EPS)
        if not proximity.product:
            return least_by_expansion(tau, norms, d, seen.row_scale, self._reach, rounded=rounding)
        shift = (
            0.0
            if seen.row_shift is None
            else float(np.linalg.norm(seen.row_shift)) / seen.row_scale
        )
        scale = seen.query_scale * seen.row_scale
        return least_by_products(
            proximity,
            tau,
            norms,
            d,
            bases=bases,
            reach=self._reach,
            offset=shift,
            scale=scale,
            rounded=rounding,
        )

    def _measure(
        self, own: np.ndarray, seen: View, products: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) norms of queries (Q, D) float64, given as they are, as they are read; (Q,) their products with the shift."""
        proximity = self.request.proximity
        bases = (
            np.zeros(len(own))
            if seen.row_shift is None or not proximity.product
            else own @ seen.row_shift
        )
        if proximity.unit:
            return np.where(own.any(1), 1.0, 0.0) if products else np.full(len(own), 2.0), bases
        inner = (
            own / seen.query_scale
            if seen.query_shift is None
            else (own - seen.query_shift) / seen.query_scale
        )
        order = {"l1": 1, "linf": np.inf}.get(proximity.name, 2)
        return np.asarray(np.linalg.norm(inner, order, axis=1)), bases

    def _read_queries(self, raw: Any, seen: View, products: bool) -> mx.array:
        """Queries (Q, D) as they are compared with rows."""
        if self.request.proximity.unit:
            return self._read_unit(raw, seen, products)
        return framed(raw, seen.query_shift, seen.query_scale)

    def _read_rows(self, raw: Any, seen: View, products: bool) -> mx.array:
        """Rows (N, D) as they are compared with queries."""
        if self.request.proximity.unit:
            return self._read_unit(raw, seen, products)
        return framed(raw, seen.row_shift, seen.row_scale)

    def _read_unit(self, raw: Any, seen: View, products: bool) -> mx.array:
        if not products:
            return mx.array((unit_rows(to_numpy(raw)) - seen.centre).astype(np.float32))
        if self._enlarge or (isinstance(raw, np.ndarray) and raw.dtype == np.float64):
            wide = to_numpy(raw).astype(np.float64)
            raw = np.ldexp(wide, -np.frexp(np.abs(wide).max(1, keepdims=True))[1])
        return unit(framed(raw, None, 1.0))

    def _candidates(
        self, queries: mx.array, data: Any, seen: View, *, products: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """(T, keep) scores and int64 rows, in no order, of queries (T, D) as read: the best, ties to the lowest row."""
        best = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        reach = mx.array(0.0)
        for lo in range(0, data.shape[0], self.tile[1]):
            rows = self._read_rows(data[lo : lo + self.tile[1]], seen, products)
            reach = mx.maximum(reach, mx.square(rows).sum(1).max())
            index, score = self._top(
                self._score(queries, rows, products), min(self.keep, len(rows))
            )
            mx.eval(index, score, reach)
            every = (
                np.concatenate([best[0], np.array(score)], 1),
                np.concatenate([best[1], np.array(index, np.int64) + lo], 1),
            )
            order = np.lexsort([every[1], -every[0]])[:, : self.keep]
            best = np.take_along_axis(every[0], order, 1), np.take_along_axis(every[1], order, 1)
        self._set_reach(reach)
        return best

    def _set_reach(self, square: mx.array) -> None:
        """The largest norm of the rows as they are read, at least, from its square."""
        d = self.request.queries.shape[2]
        self._reach = float(np.sqrt(np.array(square, np.float64))) * (1.0 + (d + 8) * EPS)

    def _rounding(self) -> float:
        """The relative error of the products of `_candidates` beyond that of float32."""
        return product_rounding()

    def _score(self, queries: mx.array, rows: mx.array, products: bool) -> mx.array:
        """(t, T) scores of rows (T, D) for queries (t, D): the larger, the nearer."""
        if products and self.request.proximity.product:
            return queries @ rows.T
        if products:
            return mx.addmm(-0.5 * mx.square(rows).sum(1)[None], queries, rows.T)
        step = max(1, self.tile[0] * self.tile[1] // (len(rows) * rows.shape[1]))
        return mx.concatenate(
            [self._differences(queries[i : i + step], rows) for i in range(0, len(queries), step)]
        )

    def _differences(self, queries: mx.array, rows: mx.array) -> mx.array:
        """Minus the sums (t, T) of differences, or of their squares."""
        gap = mx.abs(queries[:, None] - rows[None])
        name = self.request.proximity.name
        scores = -(
            gap.sum(2) if name == "l1" else gap.max(2) if name == "linf" else mx.square(gap).sum(2)
        )
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
        x = np.subtract(x, 0.0 if shift is None else shift, dtype=np.float64) / scale
    return mx.array(np.ascontiguousarray(x, np.float32))


def unit(x: mx.array) -> mx.array:
    """Rows of norm 1; zero rows stay zero."""
    largest = mx.abs(x).max(1, keepdims=True)
    x = x / mx.where(largest > 0, largest, 1.0)
    norm = mx.sqrt(mx.square(x).sum(1, keepdims=True))
    return x / mx.where(norm > 0, norm, 1.0)


def _on_device(seen: View) -> View:
    """The view with shifts that are float32 numbers, as MLX takes them."""
    shifts = (
        None if s is None else s.astype(np.float32).astype(np.float64)
        for s in (seen.query_shift, seen.row_shift)
    )
    return replace(seen, query_shift=next(shifts), row_shift=next(shifts))


def _smallest(x: Any) -> float:
    """The least magnitude of a row (N, D) of any batch element that is not 0; Inf if all are."""
    step, least = max(1, PIECE // x.shape[2]), np.inf
    for b in range(x.shape[0]):
        for lo in range(0, x.shape[1], step):
            size = np.abs(to_numpy(x[b, lo : lo + step])).max(1)
            least = min(least, float(size.min(where=size > 0, initial=np.inf)))
    return least
