"""Peak memory of a search beyond queries and data, measured, results included."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from memory import check_cap, peak, points

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.cpu.tree import tree_bytes
from flash_kmeans_mlx.neighbours.search import Search


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "linf"])
@pytest.mark.parametrize(
    "shape",
    [(3000, 3000, 16, 5), (4, 60_000, 24, 40), (50, 2000, 8, 2000), (20, 900, 1500, 3)],
    ids=str,
)
def test_a_cap_on_the_cpu_backend(shape: tuple[int, int, int, int], metric: str) -> None:
    q, n, d, k = shape
    queries, data = points(1, q, d)[0], points(1, n, d)[0]
    found = check_cap(lambda cap: fk.knn(queries, data, k, metric, max_mem_gb=cap, backend="cpu"))
    for one, other in zip(found, fk.knn(queries, data, k, metric, backend="cpu"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("library", [np.asarray, mx.array], ids=["numpy", "mlx"])
@pytest.mark.parametrize(
    ("metric", "backend"),
    [("euclidean", "portable"), ("l1", "portable"), ("euclidean", "reference")],
)
def test_a_cap_on_other_backends(metric: str, backend: str, library: Callable[[Any], Any]) -> None:
    for q, n, d, k in ((40, 300, 9, 4), (5, 900, 60, 300)):
        queries, data = library(points(1, q, d)[0]), library(points(1, n, d)[0])
        check_cap(
            lambda cap, a=queries, b=data, k=k: fk.knn(
                a, b, k, metric, max_mem_gb=cap, backend=backend
            )
        )


def test_a_cap_on_conversions_and_mlx_results() -> None:
    x = points(1, 20_000, 12)[0]
    for data in (
        x.astype(">f4"),
        (100 * x).astype(np.int64),
        mx.array(x).astype(mx.bfloat16),
        mx.array(x),
    ):
        check_cap(
            lambda cap, data=data: fk.knn(data[:1500], data, 90, max_mem_gb=cap, backend="cpu")
        )


def test_a_cap_on_chunks() -> None:
    queries, data = points(1, 400, 16)[0], points(1, 20_000, 16)[0]

    def call(max_bytes: int) -> None:
        with Search(
            queries, 50, max_bytes=max_bytes, bytes_in_use=1 << 20, backend="cpu"
        ) as search:
            for lo in range(0, len(data), 4000):
                search.add(data[lo : lo + 4000], lo)
            search.result()

    with pytest.raises(
        ValueError, match=r"queries.shape=\(400, 16\) with k=50 needs on the cpu backend"
    ) as caught:
        call(1)
    found = re.search(r"must be >= (\S+) GB", str(caught.value))
    assert found
    for need in (float(found[1]) * 1e9, 3e7):
        call(int(need))
        assert peak(lambda need=need: call(int(need))) <= need - (1 << 20)


def test_what_a_tree_takes() -> None:
    x, queries = points(1, 30_000, 3)[0], points(1, 20_000, 3)[0]
    for data, asked in ((x, x), (x, queries), (mx.array(x).astype(mx.bfloat16), queries)):
        need = (
            16 * 5 * len(asked) + (1 << 20) + 4 * 5 * len(asked) + tree_bytes(len(asked), len(x), 3)
        )
        fk.knn(asked, data, 5, backend="cpu")
        assert peak(
            lambda data=data, asked=asked: fk.knn(asked, data, 5, backend="cpu")
        ) <= need + 8 * 5 * len(asked)


def test_no_matrix_of_queries_and_rows() -> None:
    x = points(1, 20_000, 8)[0]  # 1.6 GB of scores
    fk.knn(x[:500], x[:5000], 3, backend="cpu")
    assert peak(lambda: fk.knn(x, x, 3, backend="cpu")) < 32e6
