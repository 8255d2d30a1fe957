"""Exact search by MLX operations.

Candidates are found in float32 on the device, proven or found again, and ranked on the host in
float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ...frame import EPS, VIEW_ROWS, View, view
from ...metrics import Proximity, unit_rows
from ...validation import check_magnitude, to_numpy
from ..bounds import (
    least_by_differences,
    least_by_expansion,
    least_by_products,
    product_rounding,
)
from ..neighbours import NOTHING, Found, Neighbours, largest
from .reading import framed, on_device, smallest_row, take, unit

__all__ = ["Chunk", "PortableNeighbours"]

TILE_BYTES = 64 << 20  # for scores and rows on the device
RANKED = 1 << 16  # values of candidates' rows that are in float64 together
SMALL = 2.0**-100  # magnitudes below are too near denormals for unit rows


@dataclass(frozen=True)
class Chunk:
    """A batch element of a chunk of data, and how it is searched.

    Attributes:
        rows: (M, D) as the caller gave them.
        queries: (Q, D) as the caller gave them.
        view: The coordinates in which queries and rows are read.
        products: Whether candidates are found by products, not by differences.
        skipped: (Q,) the row that each query must not get, or -1.
        distances: (Q, m) float64, the results, written in place.
        indices: (Q, m) int64, the results, written in place.
    """

    rows: Any
    queries: Any
    view: View
    products: bool
    skipped: np.ndarray
    distances: np.ndarray
    indices: np.ndarray


class PortableNeighbours(Neighbours):
    """Search in tiles of queries against tiles of rows.

    Euclidean candidates are found by ``<q, x> - ||x||^2 / 2``, those of "cosine" and "dot" by
    products, others by differences. Where rounding could hide a neighbour, because a row that was
    left out scores too close to the k-th, the query is searched again, by differences where the
    distance has any, and every row whose score allows it to be nearer is compared in float64.
    """

    backend = "portable"

    def nearest(self, data: Any, offset: int, before: Found | None) -> Found:
        n_batch, n_queries, _ = self.request.queries.shape
        n = data.shape[1]
        m = min(self.request.k, n)
        self.keep = min(n, m + 8 + m // 8 + self.request.exclude_self)
        self.tile = self._tiles(data, 16 * n_batch * n_queries * m)
        magnitude = largest(data)
        check_magnitude(magnitude, tuple(data.shape), "data")
        smallest = smallest_row(self.request.queries), smallest_row(data)
        # A device may take denormals for 0: unit rows are then made from larger ones.
        self._enlarge = self.request.proximity.unit and min(smallest) < SMALL
        distances = np.full((n_batch, n_queries, m), np.inf)
        indices = np.full((n_batch, n_queries, m), NOTHING)
        skipped = self.skipped(offset, n)
        proximity = self.request.proximity
        by_products = proximity.product or proximity.name == "euclidean"
        for b in range(n_batch):
            element_view = self._view(b, data, float(magnitude[b]))
            chunk = Chunk(
                rows=data[b],
                queries=self.request.queries[b],
                view=element_view,
                products=by_products and not element_view.parallel,
                skipped=skipped,
                distances=distances[b],
                indices=indices[b],
            )
            for lo in range(0, n_queries, self.tile[0]):
                which = np.arange(lo, min(n_queries, lo + self.tile[0]))
                known = np.full(len(which), np.inf) if before is None else before[0][b, which, -1]
                doubtful = self._search(chunk, which, known)
                if doubtful.any():
                    self._search_again(chunk, which[doubtful], known[doubtful])
        return distances, indices

    def _view(self, b: int, data: Any, magnitude: float) -> View:
        """Return the view of batch element b; `magnitude` is the largest of its rows."""
        sample = to_numpy(data[b, :: max(1, data.shape[1] // VIEW_ROWS)]).astype(np.float64)
        of_queries = float(self.request.magnitude[b])
        chosen = view(self.request.proximity, of_queries, magnitude, sample, centred=True)
        if isinstance(data, mx.array) or isinstance(self.request.queries, mx.array):
            return on_device(chosen)
        return chosen

    def _tiles(self, data: Any, results: int) -> tuple[int, int]:
        """Return the queries and rows of a tile that fit the cap beside `results` bytes."""
        _, n_queries, d = self.request.queries.shape
        n = data.shape[1]
        fixed = results + 64 * RANKED + (1 << 20)
        per_value = 24 + 32 * self.request.proximity.unit  # unit rows may be made on the host

        def need(queries: int, rows: int) -> int:
            return 16 * queries * (rows + 4 * self.keep) + per_value * d * (queries + rows)

        rows = min(n, max(4096, 4 * self.keep))
        least = need(1, min(n, self.keep)) + 12 * min(n, self.keep) * d
        self.request.check_cap(fixed + least, f"on the {self.backend} backend")
        room = min(TILE_BYTES, self.request.room - fixed)
        queries = min(n_queries, 4096)
        while need(queries, rows) > room and (queries > 1 or rows > self.keep):
            if queries > 1 and (queries > 64 or rows <= self.keep):
                queries = -(-queries // 2)
            else:
                rows = max(self.keep, rows // 2)
        return queries, max(1, rows)

    def _search(self, chunk: Chunk, which: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Write the results of the queries `which`.

        Args:
            chunk: The data.
            which: (T,) queries.
            known: (T,) distances; rows farther away may be left out.

        Returns:
            (T,) bool: the queries whose candidates may not be the best.
        """
        raw = take(chunk.queries, which)
        read = self._read(raw, chunk, of_queries=True)
        scores, index = self._candidates(read, chunk)
        m = chunk.distances.shape[1]
        norms = np.zeros(len(which))
        bases = np.zeros(len(which))
        step = max(1, RANKED // (self.keep * chunk.rows.shape[1]))
        for lo in range(0, len(which), step):
            part = slice(lo, lo + step)
            queries = to_numpy(raw[part]).astype(np.float64)
            rows = to_numpy(take(chunk.rows, index[part].reshape(-1))).astype(np.float64)
            rows = rows.reshape(*index[part].shape, -1)
            values = self.request.proximity.distances(queries, rows)
            row = index[part].copy()
            is_skipped = row == chunk.skipped[which[part]][:, None]
            values[is_skipped] = np.inf
            row[is_skipped] = NOTHING
            order = np.lexsort([row, values])[:, :m]
            chunk.distances[which[part]] = np.take_along_axis(values, order, 1)
            chunk.indices[which[part]] = np.take_along_axis(row, order, 1)
            norms[part], bases[part] = self._measure(queries, chunk)
        if self.keep == chunk.rows.shape[0]:
            return np.zeros(len(which), bool)
        tau = np.minimum(chunk.distances[which, -1], known)
        least = self._least(tau, norms, bases, chunk, self._rounding())
        doubtful = scores.min(1) > least
        if chunk.products:
            return doubtful & (norms > 0) if self.request.proximity.unit else doubtful
        # Equal rows score 0, and the first of them are kept.
        return doubtful if self.request.proximity.unit else doubtful & (tau > 0)

    def _search_again(self, chunk: Chunk, which: np.ndarray, known: np.ndarray) -> None:
        """Put every row that may be among the nearest of the queries `which` into the results."""
        chunk = replace(chunk, products=self.request.proximity.similarity)
        raw = take(chunk.queries, which)
        read = self._read(raw, chunk, of_queries=True)
        queries = to_numpy(raw).astype(np.float64)
        norms, bases = self._measure(queries, chunk)
        step = max(1, RANKED // chunk.rows.shape[1])
        for lo in range(0, chunk.rows.shape[0], self.tile[1]):
            raw_rows = chunk.rows[lo : lo + self.tile[1]]
            rows = self._read(raw_rows, chunk, of_queries=False)
            scores = np.array(self._score(read, rows, chunk.products))
            tau = np.minimum(chunk.distances[which, -1], known)
            least = self._least(tau, norms, bases, chunk, product_rounding())
            for i in np.flatnonzero((scores > least[:, None]).any(1)).tolist():
                distances = chunk.distances[which[i]]
                indices = chunk.indices[which[i]]
                near = np.flatnonzero(scores[i] > least[i])
                is_new = ~np.isin(near + lo, indices) & (near + lo != chunk.skipped[which[i]])
                near = near[is_new]
                for part in np.split(near, range(step, len(near), step)):
                    compared = to_numpy(take(raw_rows, part)).astype(np.float64)
                    values = self.request.proximity.distances(queries[i], compared)
                    values = np.concatenate([distances, values])
                    row = np.concatenate([indices, part + lo])
                    order = np.lexsort([row, values])[: len(distances)]
                    distances[:] = values[order]
                    indices[:] = row[order]

    def _least(
        self,
        tau: np.ndarray,
        norms: np.ndarray,
        bases: np.ndarray,
        chunk: Chunk,
        rounding: float,
    ) -> np.ndarray:
        """Return (Q,) float32 scores: rows that score no more are not nearer than tau (Q,)."""
        proximity = self.request.proximity
        d = self.request.queries.shape[2]
        if not chunk.products:
            return least_by_differences(
                proximity, tau, norms, d, chunk.view.row_scale, rounded=True
            )
        if proximity.unit:
            return least_by_products(proximity, tau, norms, d, rounded=rounding + (d + 16) * EPS)
        if not proximity.product:
            return least_by_expansion(
                tau, norms, d, chunk.view.row_scale, self._reach, rounded=rounding
            )
        offset = 0.0
        if chunk.view.row_shift is not None:
            offset = float(np.linalg.norm(chunk.view.row_shift)) / chunk.view.row_scale
        return least_by_products(
            proximity,
            tau,
            norms,
            d,
            bases=bases,
            reach=self._reach,
            offset=offset,
            scale=chunk.view.query_scale * chunk.view.row_scale,
            rounded=rounding,
        )

    def _measure(self, queries: np.ndarray, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Return (Q,) norms of queries as they are read, and (Q,) their products with the shift.

        Args:
            queries: (Q, D) float64 as given.
            chunk: The data, whose view reads them.
        """
        proximity: Proximity = self.request.proximity
        bases = np.zeros(len(queries))
        if chunk.view.row_shift is not None and proximity.product:
            bases = queries @ chunk.view.row_shift
        if proximity.unit:
            norms = np.where(queries.any(1), 1.0, 0.0)
            return (norms if chunk.products else np.full(len(queries), 2.0)), bases
        shifted = queries if chunk.view.query_shift is None else queries - chunk.view.query_shift
        order = {"l1": 1, "linf": np.inf}.get(proximity.name, 2)
        return np.asarray(np.linalg.norm(shifted / chunk.view.query_scale, order, axis=1)), bases

    def _read(self, raw: Any, chunk: Chunk, *, of_queries: bool) -> mx.array:
        """Return queries or rows (N, D) as they are compared, float32."""
        if self.request.proximity.unit:
            return self._read_unit(raw, chunk)
        if of_queries:
            return framed(raw, chunk.view.query_shift, chunk.view.query_scale)
        return framed(raw, chunk.view.row_shift, chunk.view.row_scale)

    def _read_unit(self, raw: Any, chunk: Chunk) -> mx.array:
        """Return rows (N, D) of norm 1; less the centre where differences are compared."""
        if not chunk.products:
            return mx.array((unit_rows(to_numpy(raw)) - chunk.view.centre).astype(np.float32))
        if self._enlarge or (isinstance(raw, np.ndarray) and raw.dtype == np.float64):
            wide = to_numpy(raw).astype(np.float64)
            raw = np.ldexp(wide, -np.frexp(np.abs(wide).max(1, keepdims=True))[1])
        return unit(framed(raw, None, 1.0))

    def _candidates(self, queries: mx.array, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Return the `keep` best rows of queries (T, D) as read; ties go to the lowest row.

        Returns:
            (T, keep) float32 scores and int64 rows, in no order.
        """
        scores = np.zeros((len(queries), 0), np.float32)
        index = np.zeros((len(queries), 0), np.int64)
        reach = mx.array(0.0)
        for lo in range(0, chunk.rows.shape[0], self.tile[1]):
            rows = self._read(chunk.rows[lo : lo + self.tile[1]], chunk, of_queries=False)
            reach = mx.maximum(reach, mx.square(rows).sum(1).max())
            tile_scores = self._score(queries, rows, chunk.products)
            tile_index, tile_scores = self._top(tile_scores, min(self.keep, len(rows)))
            mx.eval(tile_index, tile_scores, reach)
            scores = np.concatenate([scores, np.array(tile_scores)], 1)
            index = np.concatenate([index, np.array(tile_index, np.int64) + lo], 1)
            order = np.lexsort([index, -scores])[:, : self.keep]
            scores = np.take_along_axis(scores, order, 1)
            index = np.take_along_axis(index, order, 1)
        self._set_reach(reach)
        return scores, index

    def _set_reach(self, square: mx.array) -> None:
        """Keep an upper bound of the rows' norms as they are read, from the largest square."""
        d = self.request.queries.shape[2]
        self._reach = float(np.sqrt(np.array(square, np.float64))) * (1.0 + (d + 8) * EPS)

    def _rounding(self) -> float:
        """Return the relative error of the products of `_candidates` beyond that of float32."""
        return product_rounding()

    def _score(self, queries: mx.array, rows: mx.array, products: bool) -> mx.array:
        """Return scores (t, T) of rows (T, D) for queries (t, D): the larger, the nearer."""
        if products and self.request.proximity.product:
            return queries @ rows.T
        if products:
            return mx.addmm(-0.5 * mx.square(rows).sum(1)[None], queries, rows.T)
        step = max(1, self.tile[0] * self.tile[1] // (len(rows) * rows.shape[1]))
        parts = range(0, len(queries), step)
        return mx.concatenate([self._differences(queries[i : i + step], rows) for i in parts])

    def _differences(self, queries: mx.array, rows: mx.array) -> mx.array:
        """Return minus the sums (t, T) of differences, or of their squares."""
        gap = mx.abs(queries[:, None] - rows[None])
        name = self.request.proximity.name
        if name == "l1":
            scores = -gap.sum(2)
        elif name == "linf":
            scores = -gap.max(2)
        else:
            scores = -mx.square(gap).sum(2)
        mx.eval(scores)
        return scores

    def _top(self, scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
        """Return (T, k) indices and scores of the k best of each row; ties to the lowest index."""
        order = mx.argsort(-scores, axis=1)[:, :k]  # a stable sort
        return order, mx.take_along_axis(scores, order, axis=1)
