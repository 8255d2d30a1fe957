"""Neighbours by a tree: bit for bit what the definition gives in float64, and what all rows give where nothing is nearly tied."""

from __future__ import annotations

import time
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.cpu import neighbours as topk
from flash_kmeans_mlx.backends.cpu import tree
from flash_kmeans_mlx.neighbours.search import Search

Array = NDArray[Any]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "tree_is_faster", lambda *_sizes: True)


def points(n: int, d: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d)).astype(np.float32)


def truth(queries: Array, data: Array, k: int, exclude: bool = False) -> tuple[Array, Array]:
    """Return the ranks by sums of squares made dimension by dimension, ranked by a stable sort."""
    total = np.zeros((len(queries), len(data)))
    for d in range(data.shape[1]):
        total += np.square(queries[:, d, None].astype(np.float64) - data[:, d].astype(np.float64))
    if exclude:
        np.fill_diagonal(total, np.inf)
    order = np.argsort(total, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(total, order, 1), order


def search(queries: Any, data: Any, k: int, *, exclude: bool = False) -> tuple[Array, Array]:
    with Search(
        queries, k, exclude_self=exclude, dtype=np.float64, whole=True, backend="cpu"
    ) as found:
        found.add(data, 0)
        return found.result()


def check(queries: Array, data: Array, *ks: int, exclude: bool = False) -> None:
    expected = truth(queries, data, max(ks), exclude)
    for k in ks:
        for one, other in zip(search(queries, data, k, exclude=exclude), expected, strict=True):
            np.testing.assert_array_equal(one, other[:, :k])


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("d", range(1, 9))
def test_scattered_rows_grids_and_lines(d: int) -> None:
    rng = np.random.default_rng(d)
    x = points(600, d)
    lines = np.outer(rng.integers(-90, 90, 600), rng.integers(-3, 4, d)).astype(np.float32)
    for data in (
        x,
        100 + 1e-3 * x,
        100 + 1e-3 * x.astype(np.float64),
        rng.integers(-3, 4, (600, d)).astype(np.float32),
        lines,
    ):
        check(data, data, 1, 10, 40)
        check(data, data, 1, 10, 40, exclude=True)
        check(points(90, d, 1), data, 1, 10, 40)
        check(data[::-7], data, 10)


@pytest.mark.usefixtures("always")
def test_few_rows() -> None:
    for n in (1, 2, 31, 32, 33, 64, 257, 300):
        x = points(n, 3)
        check(x, x, n)
        check(points(5, 3, 1), x, n)
        if n > 1:
            check(x, x, n - 1, exclude=True)


@pytest.mark.usefixtures("always")
def test_thousands_of_equal_rows() -> None:
    begun = time.thread_time()
    x = np.ones((40_000, 3), np.float32)
    x[30_000:] = np.random.default_rng(0).permutation(10_000)[:, None] % 7
    _, indices = fk.knn(x, x, 10, backend="cpu")
    np.testing.assert_array_equal(indices[:30_000], np.tile(np.arange(10), (30_000, 1)))
    check(x[29_900:30_100], x, 50)
    far = np.array([[0.4, 0.7, 1.1], [-5, 0, 9]], np.float32)
    check(far, x, 50)
    assert time.thread_time() - begun < 5


@pytest.mark.usefixtures("always")
def test_types_batches_chunks_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x = points(900, 3)
    for data in (
        x.astype(np.float16),
        mx.array(x).astype(mx.bfloat16),
        mx.array(x),
        np.asfortranarray(x),
        x[::2, ::-1],
    ):
        plain = np.array(data.astype(mx.float32) if isinstance(data, mx.array) else data)
        for one, other in zip(search(data, data, 5), truth(plain, plain, 5), strict=True):
            np.testing.assert_array_equal(one, other)
    batch = points(600, 2).reshape(2, 300, 2)
    for b, found in enumerate(search(batch, batch, 4)[1]):
        np.testing.assert_array_equal(found, truth(batch[b], batch[b], 4)[1])
    with Search(x, 6, exclude_self=True, dtype=np.float64, backend="cpu") as chunks:
        for lo, hi in ((0, 3), (3, 500), (500, 900)):
            chunks.add(x[lo:hi], lo)
        parts = chunks.result()
    for threads in ("1", "3"):
        monkeypatch.setenv("FLASH_KMEANS_THREADS", threads)
        for one, other in zip(search(x, x, 6, exclude=True), parts, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_all_rows_give(monkeypatch: pytest.MonkeyPatch) -> None:
    x = points(3000, 3)
    for data in (
        x,
        x * 1e20,
        x * 1e-25,
        np.random.default_rng(0).integers(-6, 7, (3000, 3)).astype(np.float32),
    ):
        found = []
        for answer in (True, False):
            monkeypatch.setattr(topk, "tree_is_faster", lambda *_sizes, answer=answer: answer)
            found.append(search(data, data, 6))
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("always")
def test_infinite_rows_are_refused() -> None:
    x = points(500, 3)
    for bad in (np.nan, np.inf, -np.inf):
        x[77, 1] = bad
        with pytest.raises(ValueError, match="data must be finite"):
            fk.knn(points(50, 3), x, 1, backend="cpu")


def test_the_tree_is_used_where_it_pays_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(topk, "Tree", lambda *a: used.append(1) or tree.Tree(*a))
    for metric, cap, uses in (
        ("euclidean", 0, 1),
        ("l1", 0, 0),
        ("euclidean", 0.01, 1),
        ("euclidean", 0.0016, 0),
    ):
        used.clear()
        fk.knn(points(4000, 3), points(5000, 3), 1, metric, max_mem_gb=cap, backend="cpu")
        assert len(used) == uses
