"""Exact search on the CPU: candidates by the kernels of topk.py, distances in float64 by those of finish.py."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...frame import EPS, VIEW_ROWS, View, inside, view
from ...validation import check_magnitude
from ..bounds import least_by_differences, least_by_products
from ..neighbours import Found, Neighbours, Request, largest
from . import kernels
from .cut import ALONE, TILE_VALUES, Cut, cut
from .store import Rows, empty_lines
from .tree import Tree, order, tree_bytes, tree_is_faster
from .workers import Workers, thread_count

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CpuNeighbours"]

PIECE_ROWS = 2048  # that are looked at before the nearest of them are taken, where candidates were not enough
SOME = 1 << 14  # queries that are proven at a time
NO_ROW = -(1 << 60)
MOST_WHOLE = 1 << 24  # whole numbers up to which float32 is exact


@dataclass(frozen=True)
class _Marks:
    """What proves candidates: found in a first pass over the rows.

    Attributes:
        norms: (B, Q) of the queries as they are read.
        bases: (B, Q) products of the queries with the shift of the rows, for DOT.
        lowest: (B, Q) float32, the score that no row that was left out exceeds; -inf where none was.
        squares: (B,) the largest sum of squares of a row as read, for DOT.
        peaks: (B,) int32, the bits of the largest magnitude among the rows as read.
    """

    norms: np.ndarray
    bases: np.ndarray
    lowest: np.ndarray
    squares: np.ndarray
    peaks: np.ndarray


class CpuNeighbours(Neighbours):
    """Queries are SIMD lanes; a task is some queries against all rows or, where there are few queries, some of the rows.

    Candidates are found by products or differences in float32, and their distances computed in float64. Queries for which
    rounding might hide a neighbour are asked again: every row that scores so well that it may be one is then looked at.
    """

    backend = "cpu"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.queries = Rows(request.queries)
        self._zero = np.zeros(request.queries.shape[2])
        names = {
            "euclidean": "SQUARES",
            "cosine": "COSINE",
            "dot": "DOT",
            "l1": "L1",
            "linf": "LINF",
        }
        self.op = int(getattr(kernels.scores, names[request.proximity.name]))

    def __enter__(self) -> Self:
        self._exit = ExitStack()
        self.threads = thread_count()
        self.workers = Workers(self.threads)
        self._exit.callback(self.workers.close)
        return self

    def __exit__(self, *exc: object) -> None:
        self._exit.close()

    def merge(self, best: Found, more: Found) -> None:
        for b in range(len(best[0])):
            kernels.finish.merge_lists(best[0][b], best[1][b], more[0][b], more[1][b])

    def nearest(self, data: Any, offset: int, before: Found | None) -> Found:
        request, rows = self.request, Rows(data)
        (b, q, d), n = request.queries.shape, data.shape[1]
        m = min(request.k, n)
        results = 16 * b * q * m + (1 << 20)
        if (
            request.proximity.name == "euclidean"
            and tree_is_faster(q, n, d, m)
            and results + tree_bytes(q, n, d) <= request.room
        ):
            return self._by_trees(rows, m, offset)
        results += 36 * b * q  # for proofs
        sizes = cut(b, q, n, d, m, self.threads, request.room - results)
        self.workers.n = sizes.threads
        request.check_cap(results + sizes.threads * sizes.slot_bytes(d), "on the cpu backend")
        distances, indices = np.empty((b, q, m)), np.empty((b, q, m), np.int64)
        todo, views = list(range(b)), [View(None, 1.0, None, 1.0, self._zero)] * b
        if (
            not request.proximity.unit or b * q * n * (d + 8) >= ALONE
        ):  # or no view is worth a look at the rows
            views = [self._view(j, rows, None) for j in range(b)]
        known = None if before is None else before[0][..., -1]  # what is farther may be left out
        lowest = np.empty((b, q), np.float32)
        marks = _Marks(
            np.zeros((b, q)), np.zeros((b, q)), lowest, np.zeros(b), np.zeros(b, np.int32)
        )
        while todo:
            self._search(todo, views, rows, sizes, known, offset, (distances, indices), marks)
            again, todo = (
                [j for j in todo if not self._inside(j, views[j], int(marks.peaks[j]))],
                [],
            )
            for j in again:  # NaN, Inf, or values that the sample did not show
                magnitude = largest(data[j : j + 1])
                check_magnitude(magnitude, tuple(data.shape), "data")
                wider = self._view(j, rows, float(magnitude[0]))
                if wider.row_scale != views[j].row_scale:
                    views[j] = wider
                    todo.append(j)
        for j in range(b if sizes.keep < n else 0):
            limit = None if known is None else known[j]
            which = self._doubtful(j, views[j], rows, distances[j], limit, marks)
            if len(which):
                room = request.room - results
                self._look_again(
                    j, which, views[j], rows, limit, offset, (distances[j], indices[j]), marks, room
                )
        return distances, indices

    def _by_trees(self, rows: Rows, m: int, offset: int) -> Found:
        """`nearest` by a tree for each batch element."""
        (b, q, _), self.workers.n = self.request.queries.shape, self.threads
        distances, indices = np.empty((b, q, m)), np.empty((b, q, m), np.int64)
        skip = -offset if self.request.exclude_self else NO_ROW
        for j in range(b):
            data, asked = rows.x[j], self.queries.x[j]
            queries = self.queries.decode(asked).astype(np.float64, order="C")
            same = (
                data.__array_interface__ == asked.__array_interface__
                and rows.name == self.queries.name
            )
            values = queries if same else rows.decode(data).astype(np.float64)
            check_magnitude(
                np.maximum(values.max(), -values.min())[None], tuple(rows.x.shape), "data"
            )
            tree = Tree(values, self.workers)
            tree.search(
                queries,
                tree.order if same else order(queries, self.workers),
                skip,
                (distances[j], indices[j]),
            )
        return distances, indices

    def _view(self, b: int, rows: Rows, magnitude: float | None) -> View:
        """How batch element b is read; the magnitude of its rows, where it is not known, is that of a sample."""
        element = rows.x[b]
        sample = rows.decode(element[:: max(1, len(element) // VIEW_ROWS)]).astype(np.float64)
        if magnitude is None:
            magnitude = float(np.abs(sample).max(where=np.isfinite(sample), initial=0.0))
        centred = "float64" in (
            rows.name,
            self.queries.name,
        )  # differences of float32 need no origin
        return view(
            self.request.proximity,
            float(self.request.magnitude[b]),
            magnitude,
            sample,
            centred=centred,
        )

    def _inside(self, b: int, view: View, peak: int) -> bool:
        """Whether the largest magnitude of the rows as they were read, given by its bits, is one that squares may have."""
        if peak >= 0x7F800000:
            return False
        magnitude = float(np.int32(peak).view(np.float32))
        if not self.request.proximity.product:
            magnitude = max(magnitude, float(self.request.magnitude[b]) / view.query_scale)
        return inside(self.request.proximity, magnitude)

    def _least(
        self,
        op: int,
        view: View,
        rows: Rows,
        tau: np.ndarray,
        norms: np.ndarray,
        bases: np.ndarray,
        square: float,
    ) -> np.ndarray:
        """(Q,) float32: what a row must exceed as it scores by `op` to be as near as tau (Q,), for all that rounding may do."""
        proximity, d = self.request.proximity, rows.x.shape[2]
        if op == kernels.scores.COSINE:
            return least_by_products(proximity, tau, 1.0, d)
        if op == kernels.scores.DOT:
            shift = (
                0.0
                if view.row_shift is None
                else float(np.linalg.norm(view.row_shift)) / view.row_scale
            )
            reach, scale = (
                np.sqrt(square) * (1.0 + (d + 8) * EPS),
                view.query_scale * view.row_scale,
            )
            return least_by_products(
                proximity, tau, norms, d, bases=bases, reach=reach, offset=shift, scale=scale
            )
        return least_by_differences(
            proximity, tau, norms, d, view.row_scale, rounded=self._rounds(op, rows)
        )

    def _rounds(self, op: int, rows: Rows) -> bool:
        """Whether reading queries and rows rounds differences."""
        return op == kernels.scores.CHORD or "float64" in (rows.name, self.queries.name)

    def _doubtful(
        self,
        b: int,
        view: View,
        rows: Rows,
        distances: np.ndarray,
        known: np.ndarray | None,
        marks: _Marks,
    ) -> np.ndarray:
        """The queries of batch element b for which a row that was left out may be among the nearest.

        Those found have `distances` (Q, k); what is farther than known (Q,) does not count.
        """
        op, found, whole = self._op(view), [], None
        for lo in range(0, len(distances), SOME):
            some = slice(lo, lo + SOME)
            tau = (
                distances[some, -1]
                if known is None
                else np.minimum(distances[some, -1], known[some])
            )
            norms, lowest, square = (
                marks.norms[b, some],
                marks.lowest[b, some],
                float(marks.squares[b]),
            )
            doubtful = lowest > self._least(
                op, view, rows, tau, norms, marks.bases[b, some], square
            )
            if not doubtful.any():
                continue
            if op in (kernels.scores.COSINE, kernels.scores.DOT):
                doubtful &= self.queries.x[b, some].any(1)  # or all products are 0
            elif op != kernels.scores.CHORD:
                doubtful &= tau > 0  # equal rows score 0, the first of them are kept
            if op not in (kernels.scores.COSINE, kernels.scores.CHORD):
                whole = self._whole(b, view, rows) if whole is None else whole
                size = (
                    norms * np.sqrt(square)
                    if op == kernels.scores.DOT
                    else -lowest.astype(np.float64)
                )
                doubtful &= (size >= MOST_WHOLE) | (not whole)
            found.append(lo + np.flatnonzero(doubtful))
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def _whole(self, b: int, view: View, rows: Rows) -> bool:
        """Whether queries and rows of batch element b are read as whole numbers: then small sums are exact, and ties are."""
        tile = np.empty((8, rows.x.shape[2]), np.float32)
        queries = self.queries.source(b, view.query_shift, view.query_scale)
        if not kernels.finish.are_whole(queries, 0, self.queries.x.shape[1], tile):
            return False
        return kernels.finish.are_whole(
            rows.source(b, view.row_shift, view.row_scale), 0, rows.x.shape[1], tile
        )

    def _op(self, view: View) -> int:
        """How rows score at first."""
        return kernels.scores.CHORD if view.parallel else self.op

    def _search(
        self,
        elements: list[int],
        views: list[View],
        rows: Rows,
        sizes: Cut,
        known: np.ndarray | None,
        offset: int,
        out: Found,
        marks: _Marks,
    ) -> None:
        """Fill the results `out` and the marks of some batch elements; rows farther than known (B, Q) may be left out."""
        (_, q, d), n = self.request.queries.shape, rows.x.shape[1]
        group, shards = sizes.group, sizes.shards
        groups = -(-q // group)
        slots = [
            self._slot(sizes.group, sizes.capacity, sizes.tile, d) for _ in range(sizes.threads)
        ]
        parts = np.zeros(
            (len(elements) * groups, shards, group, sizes.keep) if shards > 1 else (0,), np.uint64
        )
        peaks = np.zeros((len(elements), groups, shards), np.int32)
        squares = np.zeros((len(elements), groups, shards))
        bounds = [n * s // shards for s in range(shards + 1)]

        def search(slot: int, i: int) -> None:
            task, s = divmod(i, shards)
            j, g = divmod(task, groups)
            b, lo, hi = elements[j], g * group, min(q, (g + 1) * group)
            view, op, (_, _, counts, least, scratch) = views[b], self._op(views[b]), slots[slot]
            lanes, keys = self._load(op, self.queries, b, lo, hi, view, slots[slot])
            counts.fill(0)
            norms = marks.norms[b, lo:hi]
            if op == kernels.scores.DOT or self._rounds(op, rows):
                kernels.topk.measure_queries(op, lanes, norms)
            if op == kernels.scores.DOT and view.row_shift is not None:
                kernels.finish.products_with(
                    self.queries.source(b), lo, view.row_shift, scratch[0], marks.bases[b, lo:hi]
                )
            least[: hi - lo] = -np.inf
            if known is not None and op != kernels.scores.DOT:
                least[: hi - lo] = self._least(op, view, rows, known[b, lo:hi], norms, norms, 0.0)
            skip = lo - offset if self.request.exclude_self else NO_ROW
            span = bounds[s], bounds[s + 1], skip, sizes.keep
            peaks[j, g, s], squares[j, g, s] = self._pass(
                op, b, view, rows, (lanes, keys, counts, least, scratch), *span
            )
            kernels.topk.settle(sizes.keep, keys, counts[: hi - lo])
            found = keys[:, : sizes.keep]
            if shards > 1:
                parts[task, s, : hi - lo] = found
            else:
                finish(b, lo, hi, found, scratch[0])

        def finish(b: int, lo: int, hi: int, found: np.ndarray, tile: np.ndarray) -> None:
            best = np.ascontiguousarray(np.sort(found, axis=1)[:, -sizes.keep :])
            own = out[0][b, lo:hi], out[1][b, lo:hi], marks.lowest[b, lo:hi]
            kernels.finish.finish_rows(
                self.op, self.queries.source(b), lo, rows.source(b), best, *own, tile
            )

        def gather(slot: int, task: int) -> None:
            j, g = divmod(task, groups)
            lo, hi = g * group, min(q, (g + 1) * group)
            found = parts[task, :, : hi - lo].transpose(1, 0, 2).reshape(hi - lo, -1)
            finish(elements[j], lo, hi, found, slots[slot][4][0])

        self.workers.run(search, len(elements) * groups * shards)
        if shards > 1:
            self.workers.run(gather, len(elements) * groups)
        for j, b in enumerate(elements):
            marks.peaks[b], marks.squares[b] = peaks[j].max(), squares[j].max()

    def _look_again(
        self,
        b: int,
        which: np.ndarray,
        view: View,
        rows: Rows,
        known: np.ndarray | None,
        offset: int,
        out: Found,
        marks: _Marks,
        room: int,
    ) -> None:
        """Put every row that may be among the nearest of the queries `which` of batch element b into their results `out`."""
        (_, n, d), m = rows.x.shape, out[0].shape[1]
        op, view = (
            (kernels.scores.CHORD, self._view(b, rows, None))
            if self.request.proximity.unit
            else (self.op, view)
        )
        banned = self.skipped(offset, n)
        threads = self.threads if len(which) * n * (d + 8) >= ALONE else 1
        group, piece, tile = (
            min(256, -(-len(which) // threads)),
            min(n, PIECE_ROWS),
            min(n, max(24, TILE_VALUES // d)),
        )

        def size() -> int:
            return Cut(m, piece + 1, group, 1, tile, 1).slot_bytes(d) + group * (
                8 * d + 32 + 16 * m
            )

        while threads * size() > room and threads * group * piece > 1:
            if threads > 1:
                threads -= 1
            elif group > 1:
                group = -(-group // 2)
            else:
                piece = -(-piece // 2)
        slots = [self._slot(group, piece + 1, tile, d) for _ in range(threads)]

        def search(slot: int, g: int) -> None:
            mine, (_, _, counts, least, scratch) = which[g * group : (g + 1) * group], slots[slot]
            queries = self.queries.some(b, mine)
            lanes, keys = self._load(op, queries, 0, 0, len(mine), view, slots[slot])
            norms, bases, square = (
                np.empty(len(mine)),
                marks.bases[b, mine],
                float(marks.squares[b]),
            )
            kernels.topk.measure_queries(op, lanes, norms)
            own, nearest, limit = (
                out[0][mine],
                out[1][mine],
                np.inf if known is None else known[mine],
            )
            for lo in range(0, n, piece):
                tau = np.minimum(own[:, -1], limit)
                least[: len(mine)] = self._least(op, view, rows, tau, norms, bases, square)
                counts.fill(0)
                span = lo, min(n, lo + piece), NO_ROW, piece
                self._pass(op, b, view, rows, (lanes, keys, counts, least, scratch), *span)
                given = queries.source(0), rows.source(b)
                kernels.finish.take_nearer(
                    self.op, *given, banned[mine], keys, counts, own, nearest, scratch[0]
                )
            out[0][mine], out[1][mine] = own, nearest

        self.workers.n = threads
        self.workers.run(search, -(-len(which) // group))

    def _load(
        self, op: int, queries: Rows, b: int, lo: int, hi: int, view: View, slot: tuple
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read queries lo:hi of batch element b: returns their lanes, and places for their keys."""
        lanes, keys, _, least, scratch = slot
        lanes = lanes[: -(-(hi - lo) // kernels.scores.WIDE)]
        source = queries.source(b, view.query_shift, view.query_scale)
        kernels.topk.read_queries(
            op, source, lo, hi - lo, scratch[0], lanes, self._centre(op, view), scratch[4]
        )
        least.fill(np.inf)
        return lanes, keys[: hi - lo]

    def _pass(
        self,
        op: int,
        b: int,
        view: View,
        rows: Rows,
        slot: tuple,
        lo: int,
        hi: int,
        skip: int,
        keep: int,
    ) -> tuple[int, float]:
        """Let rows lo:hi of batch element b pass by the queries in a slot; see `search_rows`."""
        lanes, keys, counts, least, scratch = slot
        source, centre = rows.source(b, view.row_shift, view.row_scale), self._centre(op, view)
        counts = counts[: len(keys)]
        return kernels.topk.search_rows(
            op, lanes, len(keys), source, lo, hi, skip, keep, keys, counts, least, centre, scratch
        )

    def _centre(self, op: int, view: View) -> np.ndarray:
        """What is taken off unit rows."""
        return view.centre if op == kernels.scores.CHORD else self._zero

    def _slot(self, group: int, capacity: int, tile: int, d: int) -> tuple:
        """What a thread works in: lanes, keys, counts, least and the kernel's own scratch."""
        blocks = -(-group // kernels.scores.WIDE)
        scratch = (
            empty_lines((tile, d)),
            empty_lines((kernels.scores.NARROW_ROWS, kernels.scores.WIDE)),
            np.zeros(kernels.scores.NARROW_ROWS, np.uint64),
            np.zeros((kernels.scores.NARROW_ROWS, d), np.float32),
            np.empty(d),
        )
        keys = np.empty((group, capacity), np.uint64)
        lanes, least = (
            empty_lines((blocks, d, kernels.scores.WIDE)),
            empty_lines((blocks * kernels.scores.WIDE,)),
        )
        return lanes, keys, np.zeros(group, np.int64), least, scratch
