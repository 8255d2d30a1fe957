"""Exact search on the CPU: candidates by the kernels of topk.py, distances in float64 by those of finish.py."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ...validation import check_magnitude
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
        return lanes + self.group * (8 * self.capacity + 8 * self.keep + 8) + 4 * d * (self.tile + 16) + 40 * self.keep + 8192


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

    def source(self, b: int, shift: np.ndarray | None = None, scale: float = 1.0) -> tuple:
        """Member b as kernels take it: see kernels/cpu/rows.py."""
        member = self.x[b]
        plain = shift is None and scale == 1.0
        direct = plain and self.name == "float32" and member.flags.c_contiguous
        shift = np.zeros(member.shape[1]) if shift is None else shift
        return (int(member.ctypes.data), *map(int, member.strides), KINDS[self.name], bool(direct), shift, float(1.0 / scale))


class CpuNeighbours(Neighbours):
    """Queries are SIMD lanes; a task is some queries against all rows or, where there are few queries, some of the rows."""

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
        sizes = cut(b, q, n, d, m, self.threads, request.room - results)
        self.workers.n = sizes.threads
        request.check_cap(results + sizes.threads * sizes.slot_bytes(d), "on the cpu backend")
        distances, indices = np.empty((b, q, m)), np.empty((b, q, m), np.int64)
        todo, views = list(range(b)), [self._view(j, rows, None) for j in range(b)]
        while todo:
            peaks = self._search(todo, views, rows, sizes, self._least(before), offset, (distances, indices))
            again, todo = [j for j in todo if not self._inside(j, views[j], peaks[j])], []
            for j in again:  # NaN, Inf, or values that the sample did not show
                magnitude = largest(data[j : j + 1])
                check_magnitude(magnitude, tuple(data.shape), "data")
                wider = self._view(j, rows, float(magnitude[0]))
                if wider.row_scale != views[j].row_scale:
                    views[j] = wider
                    todo.append(j)
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
        centred = rows.name == "float64"  # differences of float32 need no origin
        return view(self.request.proximity, float(self.request.magnitude[b]), magnitude, sample, centred=centred)

    def _inside(self, b: int, view: View, peak: int) -> bool:
        """Whether the largest magnitude of the rows as they were read, given by its bits, is one that squares may have."""
        if peak >= 0x7F800000:
            return False
        magnitude = float(np.int32(peak).view(np.float32))
        if not self.request.proximity.product:
            magnitude = max(magnitude, float(self.request.magnitude[b]) / view.query_scale)
        return inside(self.request.proximity, magnitude)

    def _least(self, before: Found | None) -> np.ndarray | None:
        """(B, Q) what a row must score to be among the first k of `before` too, but for rounding."""
        return None if before is None else before[0][..., -1]

    def _start(self, least: np.ndarray, known: np.ndarray | None, view: View, rows: Rows) -> None:
        """least (Q,): what scores of queries must exceed, by the distances of their k-th neighbours so far."""
        least[:] = -np.inf
        if known is None or rows.name == "float64" or self.queries.name == "float64":
            return
        slack = 2.0**-20 * (rows.x.shape[2] + 8)
        if self.op == self.kernels.COSINE:
            least[:] = 1.0 - known - slack
        elif self.op != self.kernels.DOT:
            power = 2 if self.op == self.kernels.SQUARES else 1
            least[:] = -(known / view.row_scale**power) * (1.0 + slack)

    def _search(
        self, members: list[int], views: list[View], rows: Rows, sizes: Cut, before: np.ndarray | None, offset: int, out: Found
    ) -> dict[int, int]:
        """Fill the results `out` of some members; returns the bits of the largest magnitude among their rows as read."""
        (_, q, d), n = self.request.queries.shape, rows.x.shape[1]
        k, group, shards = self.kernels, sizes.group, sizes.shards
        groups = -(-q // group)
        slots = [self._slot(sizes, d) for _ in range(sizes.threads)]
        parts = np.zeros((len(members) * groups, shards, group, sizes.keep) if shards > 1 else (0,), np.uint64)
        peaks = np.zeros((len(members), groups, shards), np.int32)
        bounds = [n * s // shards for s in range(shards + 1)]

        def search(slot: int, i: int) -> None:
            task, s = divmod(i, shards)
            j, g = divmod(task, groups)
            b, lo, hi = members[j], g * group, min(q, (g + 1) * group)
            lanes, keys, counts, least, scratch = slots[slot]
            lanes, keys, counts = lanes[: -(-(hi - lo) // k.WIDE)], keys[: hi - lo], counts[: hi - lo]
            view = views[b]
            k.read_queries(self.op, self.queries.source(b, view.query_shift, view.query_scale), lo, hi - lo, scratch[0], lanes)
            counts.fill(0)
            least.fill(np.inf)
            self._start(least[: hi - lo], None if before is None else before[b, lo:hi], view, rows)
            source = rows.source(b, view.row_shift, view.row_scale)
            skip = lo - offset if self.request.exclude_self else -(1 << 60)
            peaks[j, g, s] = k.search_rows(
                self.op, lanes, hi - lo, source, bounds[s], bounds[s + 1], skip, sizes.keep, keys, counts, least, scratch
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

        def gather(slot: int, task: int) -> None:
            j, g = divmod(task, groups)
            lo, hi = g * group, min(q, (g + 1) * group)
            found = parts[task, :, : hi - lo].transpose(1, 0, 2).reshape(hi - lo, -1)
            finish(members[j], lo, hi, found, slots[slot][4][0])

        self.workers.run(search, len(members) * groups * shards)
        if shards > 1:
            self.workers.run(gather, len(members) * groups)
        return {b: int(peaks[j].max()) for j, b in enumerate(members)}

    def _slot(self, sizes: Cut, d: int) -> tuple:
        """What a thread works in: lanes, keys, counts, least and the kernel's own scratch."""
        k = self.kernels
        blocks = -(-sizes.group // k.WIDE)
        scratch = (
            empty_lines((sizes.tile, d)), empty_lines((k.NARROW_ROWS, k.WIDE)), np.zeros(k.NARROW_ROWS, np.uint64),
            np.zeros((k.NARROW_ROWS, d), np.float32),
        )  # fmt: skip
        keys = np.empty((sizes.group, sizes.capacity), np.uint64)
        lanes, least = empty_lines((blocks, d, k.WIDE)), empty_lines((blocks * k.WIDE,))
        return lanes, keys, np.zeros(sizes.group, np.int64), least, scratch
