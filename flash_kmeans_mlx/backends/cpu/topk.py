"""Exact search on the CPU: candidates by the kernels of topk.py, distances in float64 by those of finish.py."""

from __future__ import annotations

from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ...validation import check_magnitude
from ..bounds import EPS, least_by_differences, least_by_products
from ..neighbours import Found, Neighbours, Request, largest
from ..view import SAMPLE_ROWS, View, inside, view
from .store import empty_lines
from .tree import Tree, order, pays, tree_bytes
from .workers import Workers, thread_count

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CpuNeighbours", "Cut", "cut"]

KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}  # as in kernels/cpu/rows.py
LANE_VALUES = 1 << 17  # of the queries of a task: they stay in L2 while tiles of rows pass by
GROUP = (256, 1024)  # queries of a task: fewer read the data too often, more leave no cache to the rows
SHARD_ROWS = 2048
BUFFER_BYTES = 8 << 20  # for the candidates of a task
ALONE = 4_000_000  # products that are not worth waking other threads for
SORTED = 32  # candidates that are kept in order as they come; more are collected, and the best selected now and then
TILE_VALUES = 1 << 15  # of the rows that pass by
PIECE_ROWS = 2048  # that are looked at before the nearest of them are taken, where candidates were not enough
MOST_WHOLE = 1 << 24  # whole numbers up to which float32 is exact


@cache
def kernels() -> SimpleNamespace:
    """The functions of kernels/cpu that search, imported when first needed."""
    found: dict[str, object] = {}
    for name in ("scores", "topk", "finish"):
        found.update(vars(import_module(f"flash_kmeans_mlx.kernels.cpu.{name}")))
    return SimpleNamespace(**{k: v for k, v in found.items() if not k.startswith("_")})


@dataclass(frozen=True)
class Cut:
    """Sizes of one search: they change its speed and its memory, not its result.

    Attributes:
        keep: candidates of a query; more than k, as distances are computed again before they are compared.
        capacity: places for them before the best are kept; where it is no more, they are kept in order.
        group: queries of a task.
        shards: parts of the rows, each a task.
        tile: rows that are read at a time.
        threads: threads to use.
    """

    keep: int
    capacity: int
    group: int
    shards: int
    tile: int
    threads: int

    def slot_bytes(self, d: int) -> int:
        """Memory of a thread."""
        lanes = (self.group + 64) * (4 * d + 4)
        keys = self.group * (8 * self.capacity + 8 * self.keep + 16)
        return lanes + keys + 4 * d * (self.tile + 24) + 40 * self.keep + 8192


def cut(b: int, q: int, n: int, d: int, k: int, threads: int, room: int) -> Cut:
    """Cut up a search of k of n rows for b times q queries, within `room` bytes if that is possible."""
    keep = min(n, k + 2 + k // 16)
    capacity = keep if keep <= SORTED else max(keep + 1, min(n, 2 * keep))
    if b * q * n * (d + 8) < ALONE:  # 8: to look for the best among them
        threads = 1
    low, high = GROUP
    group = min(high, max(low, LANE_VALUES // d), max(low, -(-q // (2 * threads))), max(1, BUFFER_BYTES // (8 * capacity)))
    group = min(q, group if group < 64 else group // 64 * 64)
    tile = min(n, max(24, TILE_VALUES // d))
    found = Cut(keep, capacity, group, 1, tile, threads)
    while found.threads * found.slot_bytes(d) > room and (found.threads > 1 or found.group > 1):
        t, g = (found.threads - 1, found.group) if found.threads > 1 else (1, -(-found.group // 2))
        found = Cut(keep, capacity, g, 1, tile, t)
    tasks = b * -(-q // found.group)
    if tasks < 2 * found.threads and found.threads > 1:
        shards = min(-(-2 * found.threads // tasks), -(-n // SHARD_ROWS))
        parts = 8 * tasks * shards * found.group * keep
        if found.threads * found.slot_bytes(d) + 2 * parts <= room:
            found = Cut(keep, capacity, found.group, shards, tile, found.threads)
    return found


class Rows:
    """A batch (B, N, D) in host memory, never copied."""

    def __init__(self, x: Any) -> None:
        name = ""
        if isinstance(x, mx.array) and x.dtype == mx.bfloat16:
            x, name = x.view(mx.uint16), "bfloat16"
        array = np.asarray(x)
        self.name = name or str(array.dtype)
        self.x = array.view(np.uint16) if self.name == "float16" else array

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Some of x's values as floats."""
        if self.name == "float16":
            return values.view(np.float16)
        return (values.astype(np.uint32) << 16).view(np.float32) if self.name == "bfloat16" else values

    def some(self, b: int, index: np.ndarray) -> Rows:
        """A copy of some rows of member b."""
        own = copy(self)
        own.x = self.x[b : b + 1, index]
        return own

    def source(self, b: int, shift: np.ndarray | None = None, scale: float = 1.0) -> tuple:
        """Member b as kernels take it: see kernels/cpu/rows.py."""
        member = self.x[b]
        plain = shift is None and scale == 1.0
        direct = plain and self.name == "float32" and member.flags.c_contiguous
        shift = np.zeros(member.shape[1]) if shift is None else shift
        return (int(member.ctypes.data), *map(int, member.strides), KINDS[self.name], bool(direct), shift, float(1.0 / scale))


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
        self.kernels = kernels()
        self.queries = Rows(request.queries)
        names = {"euclidean": "SQUARES", "cosine": "COSINE", "dot": "DOT", "l1": "L1", "linf": "LINF"}
        self.op = int(getattr(self.kernels, names[request.proximity.name]))

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
            self.kernels.merge_lists(best[0][b], best[1][b], more[0][b], more[1][b])

    def nearest(self, data: Any, offset: int, before: Found | None) -> Found:
        request, rows = self.request, Rows(data)
        (b, q, d), n = request.queries.shape, data.shape[1]
        m = min(request.k, n)
        results = 16 * b * q * m + (1 << 20)
        if request.proximity.name == "euclidean" and pays(q, n, d, m) and results + tree_bytes(q, n, d) <= request.room:
            return self._by_trees(rows, m, offset)
        results += 28 * b * q
        sizes = cut(b, q, n, d, m, self.threads, request.room - results)
        self.workers.n = sizes.threads
        request.check_cap(results + sizes.threads * sizes.slot_bytes(d), "on the cpu backend")
        distances, indices = np.empty((b, q, m)), np.empty((b, q, m), np.int64)
        todo, views = list(range(b)), [self._view(j, rows, None) for j in range(b)]
        known = np.full((b, q), np.inf) if before is None else before[0][..., -1]  # what may be farther may be left out
        marks = _Marks(np.empty((b, q)), np.zeros((b, q)), np.empty((b, q), np.float32), np.zeros(b), np.zeros(b, np.int32))
        while todo:
            self._search(todo, views, rows, sizes, known, offset, (distances, indices), marks)
            again, todo = [j for j in todo if not self._inside(j, views[j], int(marks.peaks[j]))], []
            for j in again:  # NaN, Inf, or values that the sample did not show
                magnitude = largest(data[j : j + 1])
                check_magnitude(magnitude, tuple(data.shape), "data")
                wider = self._view(j, rows, float(magnitude[0]))
                if wider.row_scale != views[j].row_scale:
                    views[j] = wider
                    todo.append(j)
        for j in range(b):
            if len(which := self._doubtful(j, views[j], rows, np.minimum(distances[j, :, -1], known[j]), marks)):
                self._look_again(j, which, views[j], rows, known[j], offset, (distances[j], indices[j]), marks, results)
        return distances, indices

    def _by_trees(self, rows: Rows, m: int, offset: int) -> Found:
        """`nearest` by a tree for each member."""
        (b, q, _), self.workers.n = self.request.queries.shape, self.threads
        distances, indices = np.empty((b, q, m)), np.empty((b, q, m), np.int64)
        skip = -offset if self.request.exclude_self else -(1 << 60)
        for j in range(b):
            data, asked = rows.x[j], self.queries.x[j]
            queries = self.queries.decode(asked).astype(np.float64, order="C")
            same = data.__array_interface__ == asked.__array_interface__ and rows.name == self.queries.name
            values = queries if same else rows.decode(data).astype(np.float64)
            check_magnitude(np.maximum(values.max(), -values.min())[None], tuple(rows.x.shape), "data")
            tree = Tree(values, self.workers)
            tree.search(queries, tree.order if same else order(queries, self.workers), skip, (distances[j], indices[j]))
        return distances, indices

    def _view(self, b: int, rows: Rows, magnitude: float | None) -> View:
        """How member b is read; the magnitude of its rows, where it is not known, is that of a sample."""
        member = rows.x[b]
        sample = rows.decode(member[:: max(1, len(member) // SAMPLE_ROWS)]).astype(np.float64)
        if magnitude is None:
            magnitude = float(np.abs(sample).max(where=np.isfinite(sample), initial=0.0))
        centred = "float64" in (rows.name, self.queries.name)  # differences of float32 need no origin
        return view(self.request.proximity, float(self.request.magnitude[b]), magnitude, sample, centred=centred)

    def _inside(self, b: int, view: View, peak: int) -> bool:
        """Whether the largest magnitude of the rows as they were read, given by its bits, is one that squares may have."""
        if peak >= 0x7F800000:
            return False
        magnitude = float(np.int32(peak).view(np.float32))
        if not self.request.proximity.product:
            magnitude = max(magnitude, float(self.request.magnitude[b]) / view.query_scale)
        return inside(self.request.proximity, magnitude)

    def _least(
        self, op: int, view: View, rows: Rows, tau: np.ndarray, norms: np.ndarray, bases: np.ndarray, square: float
    ) -> np.ndarray:
        """(Q,) float32: what a row must exceed as it scores by `op` to be as near as tau (Q,), for all that rounding may do."""
        k, proximity, d = self.kernels, self.request.proximity, rows.x.shape[2]
        norms = norms * (1.0 + 2.0**-20)
        if op == k.COSINE:
            return least_by_products(proximity, tau, norms, d)
        if op == k.DOT:
            shift = 0.0 if view.row_shift is None else float(np.linalg.norm(view.row_shift)) / view.row_scale
            reach, scale = np.sqrt(square) * (1.0 + (d + 8) * EPS), view.query_scale * view.row_scale
            return least_by_products(proximity, tau, norms, d, bases=bases, reach=reach, offset=shift, scale=scale)
        rounded = proximity.unit or view.row_shift is not None or "float64" in (rows.name, self.queries.name)
        return least_by_differences(proximity, tau, norms, d, view.row_scale, rounded=rounded)

    def _doubtful(self, b: int, view: View, rows: Rows, tau: np.ndarray, marks: _Marks) -> np.ndarray:
        """The queries of member b for which a row that was left out may be nearer than tau (Q,)."""
        k, op = self.kernels, self._op(view)
        norms, lowest = marks.norms[b], marks.lowest[b]
        least = self._least(op, view, rows, tau, norms, marks.bases[b], float(marks.squares[b]))
        doubtful = lowest > least
        if op == k.COSINE:
            doubtful &= norms > 0  # or all distances are 1
        elif op not in (k.DOT, k.CHORD):
            doubtful &= tau > 0  # equal rows score 0, the first of them are kept
        if doubtful.any() and op not in (k.COSINE, k.CHORD) and self._whole(b, view, rows):
            size = norms * np.sqrt(marks.squares[b]) if op == k.DOT else -lowest.astype(np.float64)
            doubtful &= size >= MOST_WHOLE
        return np.flatnonzero(doubtful)

    def _whole(self, b: int, view: View, rows: Rows) -> bool:
        """Whether queries and rows of member b are read as whole numbers: then small sums are exact, and ties are."""
        tile = np.empty((64, rows.x.shape[2]), np.float32)
        return all(
            self.kernels.are_whole(x.source(b, shift, scale), 0, x.x.shape[1], tile)
            for x, shift, scale in (
                (self.queries, view.query_shift, view.query_scale), (rows, view.row_shift, view.row_scale),
            )
        )  # fmt: skip

    def _op(self, view: View) -> int:
        """How rows score at first."""
        return self.kernels.CHORD if view.parallel else self.op

    def _search(
        self, members: list[int], views: list[View], rows: Rows, sizes: Cut, known: np.ndarray, offset: int, out: Found,
        marks: _Marks,
    ) -> None:  # fmt: skip
        """Fill the results `out` and the marks of some members; rows farther than known (B, Q) may be left out."""
        (_, q, d), n = self.request.queries.shape, rows.x.shape[1]
        k, group, shards = self.kernels, sizes.group, sizes.shards
        groups = -(-q // group)
        slots = [self._slot(sizes.group, sizes.capacity, sizes.tile, d) for _ in range(sizes.threads)]
        parts = np.zeros((len(members) * groups, shards, group, sizes.keep) if shards > 1 else (0,), np.uint64)
        peaks = np.zeros((len(members), groups, shards), np.int32)
        squares = np.zeros((len(members), groups, shards))
        bounds = [n * s // shards for s in range(shards + 1)]

        def search(slot: int, i: int) -> None:
            task, s = divmod(i, shards)
            j, g = divmod(task, groups)
            b, lo, hi = members[j], g * group, min(q, (g + 1) * group)
            lanes, keys, counts, least, scratch = slots[slot]
            lanes, keys, counts = lanes[: -(-(hi - lo) // k.WIDE)], keys[: hi - lo], counts[: hi - lo]
            view, op = views[b], self._op(views[b])
            queries = self.queries.source(b, view.query_shift, view.query_scale)
            centre = view.centre if op == k.CHORD else np.zeros(d)
            k.read_queries(op, queries, lo, hi - lo, scratch[0], lanes, centre, scratch[4])
            counts.fill(0)
            least.fill(np.inf)
            norms = np.empty(hi - lo)
            k.measure_queries(op, lanes, norms)
            if s == 0:
                marks.norms[b, lo:hi] = norms
                if op == k.DOT and view.row_shift is not None:
                    k.products_with(self.queries.source(b), lo, view.row_shift, scratch[0], marks.bases[b, lo:hi])
            least[: hi - lo] = -np.inf
            if op != k.DOT and np.isfinite(known[b, lo:hi]).any():
                least[: hi - lo] = self._least(op, view, rows, known[b, lo:hi], norms, norms, 0.0)
            source = rows.source(b, view.row_shift, view.row_scale)
            skip = lo - offset if self.request.exclude_self else -(1 << 60)
            peaks[j, g, s], squares[j, g, s] = k.search_rows(
                op, lanes, hi - lo, source, bounds[s], bounds[s + 1], skip, sizes.keep, keys, counts, least, centre, scratch
            )  # fmt: skip
            k.settle(sizes.keep, keys, counts)
            found = keys[:, : sizes.keep]
            if shards > 1:
                parts[task, s, : hi - lo] = found
            else:
                finish(b, lo, hi, found, scratch[0])

        def finish(b: int, lo: int, hi: int, found: np.ndarray, tile: np.ndarray) -> None:
            best = np.ascontiguousarray(np.sort(found, axis=1)[:, -sizes.keep :])
            k.finish_rows(self.op, self.queries.source(b), lo, rows.source(b), best, out[0][b, lo:hi], out[1][b, lo:hi], tile)
            marks.lowest[b, lo:hi] = scores_of(best[:, 0]) if sizes.keep < n else -np.inf

        def gather(slot: int, task: int) -> None:
            j, g = divmod(task, groups)
            lo, hi = g * group, min(q, (g + 1) * group)
            found = parts[task, :, : hi - lo].transpose(1, 0, 2).reshape(hi - lo, -1)
            finish(members[j], lo, hi, found, slots[slot][4][0])

        self.workers.run(search, len(members) * groups * shards)
        if shards > 1:
            self.workers.run(gather, len(members) * groups)
        marks.peaks[members], marks.squares[members] = peaks.max((1, 2)), squares.max((1, 2))

    def _look_again(
        self, b: int, which: np.ndarray, view: View, rows: Rows, known: np.ndarray, offset: int, out: Found, marks: _Marks,
        results: int,
    ) -> None:  # fmt: skip
        """Put every row that may be among the nearest of the queries `which` of member b into their results `out`."""
        k, (_, n, d), m = self.kernels, rows.x.shape, out[0].shape[1]
        op = k.CHORD if self.request.proximity.unit else self.op
        banned = self.skipped(offset, n)
        threads = self.threads if len(which) * n * (d + 8) >= ALONE else 1
        group, piece, tile = min(256, -(-len(which) // threads)), min(n, PIECE_ROWS), min(n, max(24, TILE_VALUES // d))

        def size() -> int:
            return Cut(m, piece + 1, group, 1, tile, 1).slot_bytes(d) + group * (8 * d + 32 + 16 * m)

        while threads * size() > self.request.room - results and threads * group * piece > 1:
            if threads > 1:
                threads -= 1
            elif group > 1:
                group = -(-group // 2)
            else:
                piece = -(-piece // 2)
        slots = [self._slot(group, piece + 1, tile, d) for _ in range(threads)]

        def search(slot: int, g: int) -> None:
            mine = which[g * group : (g + 1) * group]
            lanes, keys, counts, least, scratch = slots[slot]
            lanes, keys, counts = lanes[: -(-len(mine) // k.WIDE)], keys[: len(mine)], counts[: len(mine)]
            queries = self.queries.some(b, mine)
            source = queries.source(0, view.query_shift, view.query_scale)
            k.read_queries(op, source, 0, len(mine), scratch[0], lanes, view.centre, scratch[4])
            norms, bases, square = np.empty(len(mine)), marks.bases[b, mine], float(marks.squares[b])
            k.measure_queries(op, lanes, norms)
            least.fill(np.inf)
            own, nearest, first = out[0][mine], out[1][mine], known[mine]
            for lo in range(0, n, piece):
                tau = np.minimum(own[:, -1], first)
                least[: len(mine)] = self._least(op, view, rows, tau, norms, bases, square)
                counts.fill(0)
                k.search_rows(
                    op, lanes, len(mine), rows.source(b, view.row_shift, view.row_scale), lo, min(n, lo + piece), -(1 << 60),
                    piece, keys, counts, least, view.centre, scratch,
                )  # fmt: skip
                k.take_nearer(
                    self.op, queries.source(0), rows.source(b), banned[mine], keys, counts, own, nearest, scratch[0]
                )
            out[0][mine], out[1][mine] = own, nearest

        self.workers.n = threads
        self.workers.run(search, -(-len(which) // group))

    def _slot(self, group: int, capacity: int, tile: int, d: int) -> tuple:
        """What a thread works in: lanes, keys, counts, least and the kernel's own scratch."""
        k = self.kernels
        blocks = -(-group // k.WIDE)
        scratch = (
            empty_lines((tile, d)), empty_lines((k.NARROW_ROWS, k.WIDE)), np.zeros(k.NARROW_ROWS, np.uint64),
            np.zeros((k.NARROW_ROWS, d), np.float32), np.empty(d),
        )  # fmt: skip
        keys = np.empty((group, capacity), np.uint64)
        lanes, least = empty_lines((blocks, d, k.WIDE)), empty_lines((blocks * k.WIDE,))
        return lanes, keys, np.zeros(group, np.int64), least, scratch


def scores_of(keys: np.ndarray) -> np.ndarray:
    """float32: the scores in keys as kernels make them, -inf for no key."""
    word = (keys >> np.uint64(32)).astype(np.uint32)
    score = np.where(word >> 31, word ^ np.uint32(0x80000000), ~word).view(np.float32)
    return np.where(keys > 0, score, np.float32(-np.inf))
