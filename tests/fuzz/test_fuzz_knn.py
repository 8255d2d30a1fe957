"""Neighbours against an oracle in extended precision, on problems that Hypothesis draws so that every regime is visited.

With `--fuzz-minutes M` other problems are drawn at every run, for M minutes each.
"""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from exact_neighbours import DTYPES, KINDS, METRICS, Array, cast, distances, judge, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.cpu import first_look, kernels, second_look
from flash_kmeans_mlx.backends.cpu import neighbours as cpu_topk
from flash_kmeans_mlx.backends.cpu import scan as cpu_scan
from flash_kmeans_mlx.backends.cpu.scoring import Scoring
from flash_kmeans_mlx.backends.cpu.tasks import ONE_THREAD_PRODUCTS, SearchSizes
from flash_kmeans_mlx.backends.portable import neighbours as topk
from flash_kmeans_mlx.backends.portable import scan as portable_scan
from flash_kmeans_mlx.index import index_factory
from flash_kmeans_mlx.neighbours.search import Search

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    suppress_health_check=(HealthCheck.too_slow,),
)
FEW = 12  # queries of an index that are judged
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


class Knn(NamedTuple):
    """A search, all of it: the data come from the seed."""

    backend: str
    metric: str
    kind: str
    dtype: str
    query_dtype: str
    how: str
    b: int
    q: int
    n: int
    d: int
    k: int
    exclude_self: bool
    threads: int
    capped: bool
    chunks: bool
    seed: int

    def check(self) -> None:
        """Assert that the nearest are found, with the same bits however the work is cut up."""
        queries, data = self.problem()
        found = self.run(queries, data)
        banned = np.arange(self.n) if self.exclude_self else None
        for b in range(self.b):
            some = (queries[b], data[b]) if self.b > 1 else (queries, data)
            own = (found[0][b], found[1][b]) if self.b > 1 else found
            judge(*some, self.k, self.metric, own, banned)
        with environment(FLASH_KMEANS_THREADS="1"):
            others = [self.run(queries, data)] if self.threads > 1 else []
        others += (
            [self.run(queries, data, max_mem_gb=self.least_cap(queries, data))]
            if self.capped
            else []
        )
        others += [self.in_chunks(queries, data)] if self.chunks else []
        for other in others:
            for one, two in zip(found, other, strict=True):
                np.testing.assert_array_equal(np.array(one), np.array(two))

    def problem(self) -> tuple[Any, Any]:
        """Queries (Q, D) and data (N, D), with a batch dimension where there are more batch elements than one."""
        rng = np.random.default_rng(self.seed)
        elements = [self._element(rng) for _ in range(self.b)]
        x = np.stack([element[1] for element in elements]) if self.b > 1 else elements[0][1]
        data = cast(x, self.dtype)
        if self.exclude_self:
            return data, data
        return cast(
            np.stack([element[0] for element in elements]) if self.b > 1 else elements[0][0],
            self.query_dtype,
        ), data

    def _element(self, rng: np.random.Generator) -> tuple[Array, Array]:
        x = make(self.kind, self.n, self.d, rng)
        if self.exclude_self:
            return x, x
        if self.how == "alike":
            return make(self.kind, self.q, self.d, rng), x
        near = x[rng.integers(self.n, size=self.q)]
        return near if self.how == "rows" else near * (
            1 + 1e-5 * rng.standard_normal(near.shape)
        ), x

    def run(self, queries: Any, data: Any, **options: Any) -> tuple[Any, Any]:
        """`knn`'s results."""
        options |= {"backend": self.backend, "exclude_self": self.exclude_self}
        with environment(
            FLASH_KMEANS_THREADS=os.environ.get("FLASH_KMEANS_THREADS", str(self.threads))
        ):
            return fk.knn(queries, data, self.k, self.metric, **options)

    def least_cap(self, queries: Any, data: Any) -> float:
        """The least that is said to suffice."""
        with pytest.raises(ValueError, match="max_mem_gb") as caught:
            self.run(queries, data, max_mem_gb=1e-9)
        found = re.search(r"must be >= (\S+) GB", str(caught.value))
        assert found
        return float(found[1])

    def in_chunks(self, queries: Any, data: Any) -> tuple[Any, Any]:
        """The same, a part of the rows at a time."""
        bounds = sorted(
            {0, self.n, *np.random.default_rng(self.seed).integers(0, self.n + 1, 3).tolist()}
        )
        with Search(
            queries, self.k, self.metric, exclude_self=self.exclude_self, backend=self.backend
        ) as search:
            for lo, hi in pairwise(bounds):
                search.add(data[..., lo:hi, :], lo)
            return search.result()


class Scan(NamedTuple):
    """A search of an index, all of it: the data come from the seed."""

    backend: str
    description: str
    metric: str
    kind: str
    how: str
    q: int
    n: int
    d: int
    k: int
    nlist: int
    nprobe: int
    threads: int
    seed: int

    def check(self) -> None:
        """Assert that the nearest are found, among the vectors of the lists that are looked at, as the index keeps them."""
        rng = np.random.default_rng(self.seed)
        x = np.clip(make(self.kind, self.n, self.d, rng), -(2.0**40), 2.0**40).astype(np.float32)
        queries = (
            make(self.kind, self.q, self.d, rng)
            if self.how == "alike"
            else x[rng.integers(self.n, size=self.q)]
        )
        queries = np.clip(queries, -(2.0**40), 2.0**40).astype(np.float32)
        ids, order = np.sort(rng.choice(5 * self.n, self.n, replace=False)), rng.permutation(self.n)
        lists = f"IVF{self.nlist}," if self.nlist else ""
        with environment(FLASH_KMEANS_THREADS=str(self.threads)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few training vectors, empty clusters
            index: Any = index_factory(
                self.d, lists + self.description, self.metric, backend=self.backend
            )
            index.train(x)
            index.add(x[order], ids[order])
            how = {"nprobe": self.nprobe} if self.nlist else {}
            found = index.search(queries, self.k, **how)
            with environment(FLASH_KMEANS_THREADS="1"):
                for one, two in zip(found, index.search(queries, self.k, **how), strict=True):
                    np.testing.assert_array_equal(one, two)
            probed = np.ones((self.q, self.n), bool)
            if self.nlist:
                owner = index.lists.owner[index.lists.find(ids) // 16]
                near = fk.knn(
                    queries, index.centroids, self.nprobe, self.metric, backend="reference"
                )[1]
                probed = (owner[None, :, None] == near[:, None]).any(2)
        if self.description != "Flat":
            some = np.unique(np.linspace(0, self.q - 1, FEW).astype(int))
            self.check_codes(
                queries[some],
                index.reconstruct_batch(ids),
                probed[some],
                (found[0][some], found[1][some]),
                ids,
            )
            return
        for i in np.unique(np.linspace(0, self.q - 1, FEW).astype(int)).tolist():
            some = np.flatnonzero(probed[i])
            m = min(self.k, len(some))
            assert (found[1][i, m:] == -1).all()
            if m:
                own = found[0][i : i + 1, :m], found[1][i : i + 1, :m]
                judge(queries[i : i + 1], x[some], m, self.metric, own, ids=ids[some])
        self.check_radius(index, queries[:FEW], how)

    def check_codes(
        self, queries: Array, rows: Array, probed: Array, found: tuple[Array, Array], ids: Array
    ) -> None:
        """Assert that the nearest of the decoded rows (N, D) are found, as far as sums of look-ups in float32 can tell."""
        every, _ = distances(queries.astype(np.float64), rows.astype(np.float64), self.metric)
        every[~probed] = np.inf
        norms = (
            np.linalg.norm(queries.astype(np.float64), axis=1)
            + np.linalg.norm(rows.astype(np.float64), axis=1).max()
        )
        room = (
            2.0**-20
            * (self.d + 8)
            * (np.ones(len(queries)) if self.metric == "cosine" else norms**2)
        )
        for i in range(len(queries)):
            m = min(self.k, int(probed[i].sum()))
            assert (found[1][i, m:] == -1).all()
            mine = np.searchsorted(ids, found[1][i, :m])
            np.testing.assert_array_equal(ids[mine], found[1][i, :m])
            assert len(set(mine.tolist())) == m
            assert (every[i, mine] - np.sort(every[i])[:m] <= room[i]).all(), f"query {i}"

    def check_radius(self, index: Any, queries: Array, how: dict[str, int]) -> None:
        """Assert that a search by radius finds what a search by number does."""
        value, names = index.search(queries, self.n, **how)
        sign = -1 if self.metric == "dot" else 1
        seen = value[np.isfinite(value)]
        radius = float(np.median(seen)) if len(seen) else 1.0
        lims, near, mine = index.range_search(queries, radius, **how)
        inside = (sign * value < sign * radius) & (names >= 0)
        np.testing.assert_array_equal(np.diff(lims), inside.sum(1))
        np.testing.assert_array_equal(mine, names[inside])
        np.testing.assert_array_equal(near, value[inside])


SHAPES = {  # (Q, N, D), between
    "small": ((1, 20), (1, 60), (1, 20)),
    "middle": ((1, 140), (100, 700), (1, 40)),
    "many queries": ((260, 400), (300, 900), (9, 140)),
    "many rows": ((1, 60), (2100, 5000), (9, 60)),
    "few dimensions": ((1000, 1100), (1000, 1500), (1, 8)),
}


@st.composite
def searches(
    draw: st.DrawFn, backends: tuple[str, ...], shapes: tuple[str, ...], dims: tuple[int, ...] = ()
) -> Knn:
    """Searches on one of the backends."""
    (q, n, d) = (draw(st.integers(*bounds)) for bounds in SHAPES[draw(st.sampled_from(shapes))])
    exclude = draw(st.booleans()) and n > 1 and n < 2000
    b = draw(st.integers(1, 3)) if q * n < 10_000 else 1
    most = n - exclude
    k = draw(st.one_of(st.integers(1, min(most, 12)), st.integers(1, most)))
    dtype = draw(st.sampled_from(DTYPES))
    return Knn(
        backend=draw(st.sampled_from(backends)),
        metric=draw(st.sampled_from(METRICS)),
        kind=draw(st.sampled_from(tuple(KINDS))),
        dtype=dtype,
        query_dtype=draw(st.sampled_from((dtype, dtype, "float32", "float64"))),
        how=draw(st.sampled_from(("alike", "rows", "near rows"))),
        b=b,
        q=n if exclude else q,
        n=n,
        d=draw(st.sampled_from(dims)) if dims else d,
        k=k,
        exclude_self=exclude,
        threads=draw(st.integers(1, 4)),
        capped=draw(st.booleans()),
        chunks=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@st.composite
def scans(draw: st.DrawFn, backends: tuple[str, ...]) -> Scan:
    """Searches of an index on one of the backends."""
    backend = draw(st.sampled_from(backends))
    q, n, d = (
        draw(st.integers(1, 40)),
        draw(st.integers(30, 600)),
        draw(st.sampled_from((4, 8, 24, 60))),
    )
    if backend == "cpu" and draw(st.booleans()):
        q, n = draw(st.sampled_from((1, 3, 200, 700))), draw(st.integers(1000, 2000))
    nlist = draw(st.integers(0, 9))
    description = draw(st.sampled_from(("Flat", "Flat", "PQ4x4", "PQ2x3")))
    codes = description != "Flat"
    return Scan(
        backend=backend,
        description=description,
        metric=draw(st.sampled_from(METRICS[:3])),
        kind=draw(st.sampled_from(tuple(KINDS)[:6] if codes else tuple(KINDS))),
        how=draw(st.sampled_from(("alike", "rows"))),
        q=min(q, 300) if codes else q,
        n=n,
        d=d,
        k=draw(st.one_of(st.integers(1, 12), st.integers(1, n))),
        nlist=nlist,
        nprobe=draw(st.sampled_from((nlist, draw(st.integers(1, max(1, nlist)))))),
        threads=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


# fmt: off
FIXED_KNN = [
    #   backend, metric, kind, dtype, query_dtype, how, b, q, n, d, k, exclude_self, threads, capped, chunks, seed
    Knn("cpu", "euclidean", "gaussian", "float32", "float32", "alike", 1, 60, 4600, 17, 5, False, 3, False, True, 0),
    Knn("cpu", "cosine", "blobs", "float32", "float32", "rows", 1, 50, 3000, 9, 5, False, 2, True, False, 1),
    Knn("cpu", "cosine", "parallel", "float64", "float64", "near rows", 1, 300, 900, 140, 40, False, 2, False, True, 2),
    Knn("cpu", "euclidean", "blobs", "float32", "float32", "alike", 1, 1050, 1100, 3, 5, False, 4, False, False, 3),
    Knn("cpu", "l1", "spike", "float32", "float32", "rows", 1, 65, 900, 9, 5, False, 1, False, False, 4),
    Knn("cpu", "linf", "binary", "mlx-float32", "mlx-float32", "rows", 2, 40, 600, 9, 3, False, 1, True, True, 5),
    Knn("cpu", "dot", "far", "float64", "float64", "rows", 1, 33, 700, 33, 60, False, 2, True, False, 6),
    Knn("cpu", "dot", "huge", "float32", "float32", "alike", 1, 5, 40, 3, 40, False, 1, False, False, 7),
    Knn("cpu", "euclidean", "beyond", "float64", "float64", "near rows", 1, 100, 700, 9, 9, False, 2, True, True, 8),
    Knn("cpu", "cosine", "gaussian", "float16", "float16", "rows", 1, 300, 300, 20, 7, True, 3, True, False, 9),
]
FIXED_PORTABLE = [
    Knn("portable", "euclidean", "far", "float64", "float64", "near rows", 1, 20, 300, 5, 5, False, 1, True, False, 0),
    Knn("portable", "cosine", "denormal", "float32", "float32", "rows", 1, 20, 300, 5, 5, False, 1, False, True, 1),
    Knn("portable", "cosine", "parallel", "mlx-float32", "mlx-float32", "rows", 1, 20, 300, 5, 5, False, 1, False, True, 2),
    Knn("portable", "dot", "offset", "mlx-float32", "mlx-float32", "rows", 1, 20, 300, 5, 300, False, 1, True, True, 3),
    Knn("portable", "l1", "grid", "float16", "float16", "rows", 1, 20, 300, 5, 5, False, 1, True, True, 4),
    Knn("portable", "dot", "gaussian", "mlx-float32", "mlx-float32", "alike", 1, 8, 200, 5, 5, False, 1, False, True, 5),
]
FIXED_SCANS = [
    #    backend, description, metric, kind, how, q, n, d, k, nlist, nprobe, threads, seed
    Scan("cpu", "Flat", "cosine", "blobs", "rows", 30, 900, 8, 5, 5, 3, 1, 0),
    Scan("cpu", "Flat", "euclidean", "blobs", "rows", 3, 2500, 600, 400, 6, 6, 4, 1),
    Scan("cpu", "Flat", "dot", "offset", "rows", 150, 2500, 24, 5, 6, 6, 3, 2),
    Scan("cpu", "Flat", "euclidean", "grid", "rows", 150, 900, 4, 5, 6, 6, 3, 3),
    Scan("portable", "Flat", "cosine", "parallel", "rows", 20, 300, 8, 5, 6, 3, 3, 4),
    Scan("portable", "Flat", "euclidean", "duplicates", "rows", 9, 600, 8, 5, 2, 2, 1, 6),
    Scan("portable", "Flat", "dot", "duplicates", "alike", 20, 40, 8, 5, 9, 1, 3, 5),
]
# fmt: on


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def fuzz(
    problems: st.SearchStrategy[Any], examples: int, minutes: float, fixed: Sequence[Any] = ()
) -> None:
    """Check problems, always the same, then random ones for some minutes; a failure shrinks, and says how to repeat it.

    Those that are `fixed` come first: they see to the regimes, whatever this version of Hypothesis draws.
    """

    def check(problem: Any) -> None:
        try:
            problem.check()
        except BaseException as error:
            line = f"PYTHONPATH=tests:tests/fuzz python -c 'from test_fuzz_knn import *; {problem!r}.check()'"
            if sys.version_info >= (3, 11):
                error.add_note(line)
            else:
                print(line)
            raise

    def once(how: settings) -> None:
        how(given(problems)(check))()

    for problem in fixed:
        check(problem)
    if not minutes:
        once(settings(SETTINGS, max_examples=examples))
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        once(settings(SETTINGS, max_examples=examples, derandomize=False))


class Watch:
    """The regimes that were visited: methods are wrapped so that they tell."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: set[str] = set()
        self._patch = patch

    def before(self, owner: Any, name: str, tell: Callable[..., Any]) -> None:
        """tell(*args) names regimes before owner.name is called."""
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            self.seen |= set(tell(*args, **options))
            return original(*args, **options)

        self._patch.setattr(owner, name, wrapped)

    def after(self, owner: Any, name: str, tell: Callable[..., Any]) -> None:
        """tell(result, *args) names regimes after owner.name has returned."""
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            self.seen |= set(tell(result, *args))
            return result

        self._patch.setattr(owner, name, wrapped)


def watch_cpu(watch: Watch) -> None:
    """Tell the regimes of CpuNeighbours."""
    cpu = cpu_topk.CpuNeighbours
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
    watch.before(first_look.FirstLook, "run", search)
    watch.before(cpu, "_by_trees", lambda *_: ["tree"])
    watch.after(cpu_topk, "doubtful_queries", lambda found, *_: [] if len(found) else ["proven"])
    watch.after(
        Scoring,
        "reads_whole_numbers",
        lambda whole, *_: ["whole numbers"] if whole else [],
    )
    watch.before(cpu_topk, "look_again", again)


def watch_portable(watch: Watch) -> None:
    """Tell the regimes of PortableNeighbours."""
    portable = topk.PortableNeighbours

    def tiles(tile: tuple[int, int], self: Any, data: Any, *_: Any) -> Iterator[str]:
        q, n = self.request.queries.shape[1], data.shape[1]
        yield "every row a candidate" if self.keep == n else "one tile"
        if tile[0] < q:
            yield "tiles of queries"
        if tile[1] < n:
            yield "tiles of rows"

    def search(self: Any, *_: Any, products: bool) -> Iterator[str]:
        yield (
            "differences"
            if not products
            else "products"
            if self.request.proximity.product
            else "expanded squares"
        )
        if self._enlarge:
            yield "enlarged"

    watch.after(portable, "_tiles", tiles)
    watch.before(portable, "_search", search)
    watch.after(portable, "_search", lambda doubtful, *_: [] if doubtful.any() else ["proven"])
    watch.before(portable, "_look_again", lambda *_: ["asked again"])


def watch_scans(watch: Watch) -> None:
    """Tell the regimes of scans of inverted lists."""
    ops = {getattr(kernels.scores, name): name for name in ("COSINE", "CHORD", "DOT", "SQUARES")}
    rounds: list[Any] = []

    def some(
        _self: Any,
        op: int,
        queries: Any,
        probes: Any,
        _k: int,
        keep: int,
        n_rows: Any,
        least: Any,
    ) -> Iterator[str]:
        alone = int(n_rows.sum()) * (queries.shape[1] + 8) < ONE_THREAD_PRODUCTS
        threads = 1 if alone else cpu_scan.thread_count()
        yield ops[op]
        in_order = keep <= cpu_scan.KEPT_SORTED
        yield "candidates in order" if in_order else "candidates selected"
        yield "one thread" if threads == 1 else "threads"
        if threads > 1:
            yield "shards" if len(queries) < threads and probes.shape[1] > 1 else "groups"
        if least is not None:
            yield "asked again"

    watch.before(cpu_scan._Scan, "nearest", some)
    watch.before(portable_scan, "_scan_some", lambda *_: rounds.append(0) or ["MLX"])
    watch.before(portable_scan, "scan_reference", lambda *_: ["MLX, asked again"] if rounds else [])


def test_searches_on_the_cpu_backend(monkeypatch: pytest.MonkeyPatch, fuzz_minutes: float) -> None:
    watch = Watch(monkeypatch)
    watch_cpu(watch)
    fuzz(searches(("cpu",), tuple(SHAPES)), 80, fuzz_minutes, FIXED_KNN)
    assert watch.seen == CPU_REGIMES, (
        f"not visited: {CPU_REGIMES - watch.seen}; not in the table: {watch.seen - CPU_REGIMES}"
    )


def test_searches_on_other_backends(monkeypatch: pytest.MonkeyPatch, fuzz_minutes: float) -> None:
    watch = Watch(monkeypatch)
    watch_portable(watch)
    fuzz(
        searches(("portable", "portable", "reference"), ("small", "middle")),
        40,
        fuzz_minutes,
        FIXED_PORTABLE,
    )
    assert watch.seen == PORTABLE_REGIMES, f"not visited: {PORTABLE_REGIMES - watch.seen}"


@pytest.mark.usefixtures("metal")
def test_searches_on_the_metal_backend(fuzz_minutes: float) -> None:
    fuzz(searches(("metal",), ("small",), dims=(3, 17)), 12, fuzz_minutes)


def test_searches_of_indexes(monkeypatch: pytest.MonkeyPatch, fuzz_minutes: float) -> None:
    watch = Watch(monkeypatch)
    watch_scans(watch)
    fuzz(scans(("cpu", "cpu", "portable", "reference")), 50, fuzz_minutes, FIXED_SCANS)
    assert watch.seen == SCAN_REGIMES, (
        f"not visited: {SCAN_REGIMES - watch.seen}; not in the table: {watch.seen - SCAN_REGIMES}"
    )


def test_a_failure_says_how_to_repeat_it() -> None:
    class Wrong(NamedTuple):
        n: int

        def check(self) -> None:
            assert self.n < 7

    with pytest.raises(AssertionError) as caught:
        fuzz(st.integers(0, 100).map(Wrong), 50, 0.0)
    notes = "".join(getattr(caught.value, "__notes__", ["Wrong(n=7).check()"]))
    assert "Wrong(n=7).check()" in notes, "and it shrinks"
