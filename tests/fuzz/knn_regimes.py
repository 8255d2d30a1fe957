"""Regimes of searches on the backends, and functions that name them when they are met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine import Watch

from flash_kmeans_mlx.backends.cpu import kernels
from flash_kmeans_mlx.backends.cpu import neighbours as cpu_topk
from flash_kmeans_mlx.backends.cpu import scan as cpu_scan
from flash_kmeans_mlx.backends.cpu.cut import ALONE, Cut
from flash_kmeans_mlx.backends.portable import neighbours as topk
from flash_kmeans_mlx.backends.portable import scan as portable_scan

CPU_REGIMES = {
    "tree",
    "all rows",
    "COSINE",
    "CHORD",
    "DOT",
    "SQUARES",
    "L1",
    "LINF",
    "candidates in order",
    "candidates selected",
    "every row a candidate",
    "one thread",
    "threads",
    "one group",
    "groups",
    "one shard",
    "shards",
    "one tile",
    "tiles",
    "wide blocks",
    "a narrow block",
    "read as it is",
    "shifted",
    "scaled",
    "a misleading sample",
    "one chunk",
    "chunks",
    "proven",
    "whole numbers",
    "asked again",
    "asked again in pieces",
    "asked again with less memory",
}
PORTABLE_REGIMES = {
    "products",
    "expanded squares",
    "differences",
    "one tile",
    "tiles of queries",
    "tiles of rows",
    "proven",
    "asked again",
    "every row a candidate",
    "enlarged",
}
SCAN_REGIMES = {
    "COSINE",
    "CHORD",
    "DOT",
    "SQUARES",
    "candidates in order",
    "candidates selected",
    "one thread",
    "threads",
    "shards",
    "groups",
    "asked again",
    "MLX",
    "MLX, asked again",
}


def watch_cpu(watch: Watch) -> None:
    """Have the regimes named of CpuNeighbours."""
    cpu = cpu_topk.CpuNeighbours
    ops = {
        getattr(kernels.scores, name): name
        for name in ("COSINE", "CHORD", "DOT", "SQUARES", "L1", "LINF")
    }

    def sizes(cut: Cut, b: int, q: int, n: int, *_: Any) -> Iterator[str]:
        yield (
            "every row a candidate"
            if cut.keep == n
            else "candidates in order"
            if cut.keep == cut.capacity
            else "candidates selected"
        )
        yield "one thread" if cut.threads == 1 else "threads"
        yield "one group" if cut.group >= q else "groups"
        yield "one shard" if cut.shards == 1 else "shards"
        yield "one tile" if cut.tile >= n else "tiles"
        yield (
            "a narrow block"
            if (min(cut.group, q) - 1) % kernels.scores.WIDE < kernels.scores.NARROW
            else "wide blocks"
        )

    passes: list[Any] = []

    def search(
        self: Any,
        elements: Any,
        views: Any,
        rows: Any,
        sizes: Any,
        known: Any,
        offset: int,
        *_: Any,
    ) -> Iterator[str]:
        for view in views:
            yield ops[self._op(view)]
            plain = view.row_shift is None and view.row_scale == view.query_scale == 1
            yield (
                "read as it is" if plain else "shifted" if view.row_shift is not None else "scaled"
            )
        if passes and passes[-1] is rows:
            yield "a misleading sample"
        passes.append(rows)
        yield "one chunk" if known is None else "chunks"

    def again(self: Any, b: int, which: Any, view: Any, rows: Any, *_: Any) -> Iterator[str]:
        yield "asked again in pieces" if rows.x.shape[1] > cpu_topk.PIECE_ROWS else "asked again"
        if self.request.max_bytes:
            yield "asked again with less memory"

    watch.after(cpu_topk, "cut", sizes)
    watch.before(cpu, "_search", search)
    watch.before(cpu, "_search", lambda *_: ["all rows"])
    watch.before(cpu, "_by_trees", lambda *_: ["tree"])
    watch.after(cpu, "_doubtful", lambda found, *_: [] if len(found) else ["proven"])
    watch.after(cpu, "_whole", lambda whole, *_: ["whole numbers"] if whole else [])
    watch.before(cpu, "_look_again", again)


def watch_portable(watch: Watch) -> None:
    """Have the regimes named of PortableNeighbours."""
    portable = topk.PortableNeighbours

    def tiles(tile: tuple[int, int], self: Any, data: Any, *_: Any) -> Iterator[str]:
        q, n = self.request.queries.shape[1], data.shape[1]
        yield "every row a candidate" if self.keep == n else "one tile"
        if tile[0] < q:
            yield "tiles of queries"
        if tile[1] < n:
            yield "tiles of rows"

    def search(self: Any, chunk: Any, *_: Any) -> Iterator[str]:
        yield (
            "differences"
            if not chunk.products
            else "products"
            if self.request.proximity.product
            else "expanded squares"
        )
        if self._enlarge:
            yield "enlarged"

    watch.after(portable, "_tiles", tiles)
    watch.before(portable, "_search", search)
    watch.after(portable, "_search", lambda doubtful, *_: [] if doubtful.any() else ["proven"])
    watch.before(portable, "_search_again", lambda *_: ["asked again"])


def watch_scans(watch: Watch) -> None:
    """Have the regimes named of scans of inverted lists."""
    ops = {getattr(kernels.scores, name): name for name in ("COSINE", "CHORD", "DOT", "SQUARES")}
    rounds: list[Any] = []

    def some(
        op: int,
        lists: Any,
        proximity: Any,
        queries: Any,
        probes: Any,
        k: int,
        keep: int,
        *rest: Any,
    ) -> Iterator[str]:
        threads = (
            1 if int(rest[0].sum()) * (queries.shape[1] + 8) < ALONE else cpu_scan.thread_count()
        )
        yield ops[op]
        yield "candidates in order" if keep <= cpu_scan.SORTED else "candidates selected"
        yield "one thread" if threads == 1 else "threads"
        if threads > 1:
            yield "shards" if len(queries) < threads and probes.shape[1] > 1 else "groups"
        if rest[1] is not None:
            yield "asked again"

    watch.before(cpu_scan, "_scan", some)
    watch.before(portable_scan, "_scan_some", lambda *_: rounds.append(0) or ["MLX"])
    watch.before(portable_scan, "scan_reference", lambda *_: ["MLX, asked again"] if rounds else [])
