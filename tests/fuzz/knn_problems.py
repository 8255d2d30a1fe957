"""Searches for the fuzz test: `Knn` is one of them, its rows follow from it, and it checks itself."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from engine import environment
from exact_neighbours import DTYPES, KINDS, METRICS, Array, cast, judge, make
from hypothesis import strategies as st
from memory import stated_need

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.neighbours.search import Search


class Knn(NamedTuple):
    """A search, all of it: the rows follow from the seed."""

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
            element: Any = np.s_[b] if self.b > 1 else np.s_[:]
            own = found[0][element], found[1][element]
            judge(queries[element], data[element], self.k, self.metric, own, banned)
        others = []
        with environment(FLASH_KMEANS_THREADS="1"):
            if self.threads > 1:
                others.append(self.run(queries, data))
        if self.capped:
            others.append(self.run(queries, data, max_mem_gb=self.least_cap(queries, data)))
        if self.chunks:
            others.append(self.in_chunks(queries, data))
        for other in others:
            for one, two in zip(found, other, strict=True):
                np.testing.assert_array_equal(np.array(one), np.array(two))

    def problem(self) -> tuple[Any, Any]:
        """Return queries (Q, D) and data (N, D), with a batch dimension where there are several batch elements."""
        rng = np.random.default_rng(self.seed)
        elements = [self._element(rng) for _ in range(self.b)]
        queries, x = (
            np.stack(parts) if self.b > 1 else parts[0] for parts in zip(*elements, strict=True)
        )
        data = cast(x, self.dtype)
        return (data if self.exclude_self else cast(queries, self.query_dtype)), data

    def _element(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return queries (Q, D) and rows (N, D) of one batch element."""
        x = make(self.kind, self.n, self.d, rng)
        if self.exclude_self:
            return x, x
        if self.how == "alike":
            return make(self.kind, self.q, self.d, rng), x
        rows = x[rng.integers(self.n, size=self.q)]
        if self.how == "rows":
            return rows, x
        return rows * (1 + 1e-5 * rng.standard_normal(rows.shape)), x

    def run(self, queries: Any, data: Any, **options: Any) -> tuple[Any, Any]:
        """Return the results of `knn`."""
        options |= {"backend": self.backend, "exclude_self": self.exclude_self}
        with environment(
            FLASH_KMEANS_THREADS=os.environ.get("FLASH_KMEANS_THREADS", str(self.threads))
        ):
            return fk.knn(queries, data, self.k, self.metric, **options)

    def least_cap(self, queries: Any, data: Any) -> float:
        """Return the least cap that is said to suffice."""
        return stated_need(lambda cap: self.run(queries, data, max_mem_gb=cap))

    def in_chunks(self, queries: Any, data: Any) -> tuple[Any, Any]:
        """Return the same, found in a part of the rows at a time."""
        bounds = sorted(
            {0, self.n, *np.random.default_rng(self.seed).integers(0, self.n + 1, 3).tolist()}
        )
        with Search(
            queries, self.k, self.metric, exclude_self=self.exclude_self, backend=self.backend
        ) as search:
            for lo, hi in pairwise(bounds):
                search.add(data[..., lo:hi, :], lo)
            return search.result()


# Q, N and D are drawn between these.
SHAPES = {
    "small": ((1, 20), (1, 60), (1, 20)),
    "middle": ((1, 140), (100, 700), (1, 40)),
    "many queries": ((260, 400), (300, 900), (9, 140)),
    "many rows": ((1, 60), (2100, 5000), (9, 60)),
    "bytes": ((260, 300), (7000, 8000), (75, 90)),
    "few dimensions": ((1000, 1100), (1000, 1500), (1, 8)),
}


@st.composite
def searches(
    draw: st.DrawFn, backends: tuple[str, ...], shapes: tuple[str, ...], dims: tuple[int, ...] = ()
) -> Knn:
    """Searches on one of the backends."""
    q, n, d = (draw(st.integers(*bounds)) for bounds in SHAPES[draw(st.sampled_from(shapes))])
    exclude = draw(st.booleans()) and n > 1 and n < 2000
    b = draw(st.integers(1, 3)) if q * n < 10_000 else 1
    # Many neighbours of many queries take seconds, and no other ways than fewer of them.
    most = min(n - exclude, math.isqrt(30_000_000 // q))
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
    Knn("cpu", "euclidean", "gaussian", "float32", "float32", "alike", 1, 260, 7000, 75, 10, False, 2, True, True, 10),
    Knn("cpu", "cosine", "offset", "float64", "float64", "near rows", 1, 260, 7000, 75, 3, False, 3, False, True, 11),
    Knn("cpu", "dot", "heavy", "mlx-bfloat16", "mlx-bfloat16", "rows", 1, 260, 7000, 75, 100, False, 1, False, False, 12),
    Knn("cpu", "euclidean", "blobs", "float32", "float32", "near rows", 1, 260, 7000, 75, 10, False, 2, False, False, 13),
    Knn("cpu", "cosine", "gaussian", "float32", "float32", "near rows", 1, 4, 16000, 75, 12, False, 2, False, False, 14),
]
FIXED_PORTABLE = [
    Knn("portable", "euclidean", "far", "float64", "float64", "near rows", 1, 20, 300, 5, 5, False, 1, True, False, 0),
    Knn("portable", "cosine", "denormal", "float32", "float32", "rows", 1, 20, 300, 5, 5, False, 1, False, True, 1),
    Knn("portable", "cosine", "parallel", "mlx-float32", "mlx-float32", "rows", 1, 20, 300, 5, 5, False, 1, False, True, 2),
    Knn("portable", "dot", "offset", "mlx-float32", "mlx-float32", "rows", 1, 20, 300, 5, 300, False, 1, True, True, 3),
    Knn("portable", "l1", "grid", "float16", "float16", "rows", 1, 20, 300, 5, 5, False, 1, True, True, 4),
    Knn("portable", "dot", "gaussian", "mlx-float32", "mlx-float32", "alike", 1, 8, 200, 5, 5, False, 1, False, True, 5),
]
# fmt: on
