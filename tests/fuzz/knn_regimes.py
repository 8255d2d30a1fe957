"""Regimes of searches on the backends, and functions that name them when they are met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine import Watch

from flash_kmeans_mlx.backends import cpu
from flash_kmeans_mlx.backends.cpu import codes as cpu_codes
from flash_kmeans_mlx.backends.cpu import first_look, int8_look, kernels, second_look
from flash_kmeans_mlx.backends.cpu import neighbours as cpu_topk
from flash_kmeans_mlx.backends.cpu import scan as cpu_scan
from flash_kmeans_mlx.backends.cpu.scoring import Scoring
from flash_kmeans_mlx.backends.cpu.tasks import ONE_THREAD_PRODUCTS, ScanSizes, SearchSizes
from flash_kmeans_mlx.backends.portable import neighbours as topk
from flash_kmeans_mlx.backends.portable import scan as portable_scan

CPU_REGIMES = {
    "a few queries",
    "a few queries, threads",
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
if kernels.ir.INT8:
    CPU_REGIMES |= {"bytes", "bytes given up"}
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
    "lists read together",
    "distances by list",
    "nearest list first",
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
    "codes in memory",
    "bytes",
    "float16",
    "codes asked again",
    "codes, one thread",
    "codes, threads",
    "codes, shards",
    "MLX",
    "MLX, asked again",
    "distances of some rows",
    "distances of some rows, threads",
}
if kernels.ir.LOOKUPS:
    SCAN_REGIMES |= {"codes in registers"}


def watch_cpu(watch: Watch) -> None:
    """Have the regimes named of CpuNeighbours."""
    searches = cpu_topk.CpuNeighbours
    ops = {
        getattr(kernels.scores, name): name
        for name in ("COSINE", "CHORD", "DOT", "SQUARES", "L1", "LINF")
    }

    def sizes(sizes: SearchSizes, b: int, q: int, n: int, *_: Any) -> Iterator[str]:
        yield (
            "every row a candidate"
            if sizes.keep == n
            else "candidates in order"
            if sizes.keep == sizes.capacity
            else "candidates selected"
        )
        yield "one thread" if sizes.threads == 1 else "threads"
        yield "one group" if sizes.group >= q else "groups"
        yield "one shard" if sizes.shards == 1 else "shards"
        yield "one tile" if sizes.tile >= n else "tiles"
        yield (
            "a narrow block"
            if (min(sizes.group, q) - 1) % kernels.scores.WIDE < kernels.scores.NARROW
            else "wide blocks"
        )

    passes: list[Any] = []

    def search(self: Any, scorings: Any, *_: Any) -> Iterator[str]:
        for scoring in scorings:
            view = scoring.view
            yield ops[scoring.op]
            plain = view.row_shift is None and view.row_scale == view.query_scale == 1
            yield (
                "read as it is" if plain else "shifted" if view.row_shift is not None else "scaled"
            )
        rows = scorings[0].rows
        if passes and passes[-1] is rows:
            yield "a misleading sample"
        passes.append(rows)
        yield "all rows"
        yield "one chunk" if self.limit is None else "chunks"

    def again(scoring: Any, *_: Any, room: int, **__: Any) -> Iterator[str]:
        pieces = scoring.rows.x.shape[1] > second_look.SECOND_ROWS
        yield "asked again in pieces" if pieces else "asked again"
        if room < 1 << 60:
            yield "asked again with less memory"

    watch.after(cpu_topk, "search_sizes", sizes)

    def by_bytes(left: list[tuple[int, int]], self: Any, *_: Any) -> Iterator[str]:
        yield "bytes given up" if left == [(0, self.request.queries.shape[1])] else "bytes"

    watch.before(first_look.FirstLook, "run", search)
    watch.after(int8_look.Int8Look, "run", by_bytes)
    watch.before(searches, "_of_few", lambda *_: ["a few queries"])
    watch.before(cpu_topk, "nearest_of_few", lambda *_: ["a few queries, threads"])
    watch.before(searches, "_by_trees", lambda *_: ["tree"])
    watch.after(cpu_topk, "doubtful_queries", lambda found, *_: [] if len(found) else ["proven"])
    watch.after(
        Scoring,
        "reads_whole_numbers",
        lambda whole, *_: ["whole numbers"] if whole else [],
    )
    watch.before(cpu_topk, "look_again", again)


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
        _self: Any,
        op: int,
        queries: Any,
        probes: Any,
        _k: int,
        keep: int,
        n_rows: int,
        least: Any,
    ) -> Iterator[str]:
        alone = n_rows * (queries.shape[1] + 8) < cpu_scan.ONE_THREAD_SCANNED
        threads = 1 if alone else cpu_scan.thread_count()
        yield ops[op]
        in_order = keep <= cpu_scan.KEPT_SORTED
        yield "candidates in order" if in_order else "candidates selected"
        yield "one thread" if threads == 1 else "threads"
        shards = probes.shape[1] if len(queries) < threads else 1
        if threads > 1:
            yield "shards" if shards > 1 else "groups"
        n_probes = -(-probes.shape[1] // min(shards, threads))
        if in_order and (n_probes - 1) * keep <= cpu_scan.MAX_TOGETHER:
            yield "lists read together"
        else:
            yield "nearest list first"
            if queries.shape[1] >= cpu_scan.BY_LIST_DIMS and keep <= cpu_scan.BY_LIST_KEPT:
                yield "distances by list"
        if least is not None:
            yield "asked again"

    def sizes_of_codes(sizes: ScanSizes, *_: Any, **__: Any) -> Iterator[str]:
        yield "codes, one thread" if sizes.threads == 1 else "codes, threads"
        if sizes.shards > 1:
            yield "codes, shards"

    def some_rows(_proximity: Any, queries: Any, _rows: Any, places: Any) -> Iterator[str]:
        alone = places.size * (queries.shape[1] + 8) < ONE_THREAD_PRODUCTS or len(queries) == 1
        is_one = alone or cpu_scan.thread_count() == 1
        yield "distances of some rows" if is_one else "distances of some rows, threads"

    watch.before(cpu_scan._Scan, "nearest", some)
    watch.before(kernels.codes, "scan_codes", lambda *_: ["codes in memory"])
    watch.before(
        kernels.scalar,
        "scan_scalar",
        lambda _op, scalar, *_: ["bytes" if scalar.steps.size else "float16"],
    )
    watch.after(
        cpu_codes._Scan,
        "nearest",
        lambda found, *_: ["codes asked again"] if found[2].any() else [],
    )
    watch.before(kernels.nibbles, "scan_nibbles", lambda *_: ["codes in registers"])
    watch.after(cpu_codes, "scan_sizes", sizes_of_codes)
    watch.before(cpu, "measure_rows", some_rows)
    watch.before(portable_scan, "_scan_some", lambda *_: rounds.append(0) or ["MLX"])
    watch.before(portable_scan, "scan_reference", lambda *_: ["MLX, asked again"] if rounds else [])
