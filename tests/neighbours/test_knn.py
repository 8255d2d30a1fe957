"""Exact neighbours against float64 brute force: by regret, and by equality where ties are crafted."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exact_neighbours import judge, truth
from helpers import BACKENDS, duplicates, given, tolerance
from numpy.typing import NDArray

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends import bounds
from flash_kmeans_mlx.backends.cpu import neighbours as cpu_neighbours
from flash_kmeans_mlx.backends.portable import neighbours as topk
from flash_kmeans_mlx.neighbours.search import Search

Array = NDArray[Any]
METRICS = ("euclidean", "cosine", "dot", "l1", "linf")


def check(
    queries: Any,
    data: Any,
    k: int,
    metric: str,
    found: tuple[Any, Any],
    banned: Array | None = None,
) -> None:
    """The k nearest up to rounding of the float32 search; the distances of those up to rounding to float32; sorted."""
    if len(queries.shape) == 3:
        for b in range(queries.shape[0]):
            check(queries[b], data[b], k, metric, (found[0][b], found[1][b]))
        return
    q, x = (
        np.array(a.astype(mx.float32) if isinstance(a, mx.array) else a, np.float64)
        for a in (queries, data)
    )
    distances, indices = np.array(found[0], np.float64), np.array(found[1])
    assert np.asarray(found[0]).dtype == np.float32 and indices.dtype == np.int64
    assert distances.shape == indices.shape == (len(q), k)
    assert indices.min() >= 0 and indices.max() < len(x)
    assert all(len(set(row)) == k for row in indices.tolist())
    every = truth(q, x, metric)
    if banned is not None:
        assert not (indices == banned[:, None]).any()
        every[np.arange(len(q)), banned] = np.inf
    own = np.take_along_axis(every, indices, 1)
    best = np.sort(every, axis=1)[:, :k]
    size = {
        "cosine": 1.0,
        "dot": np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1).max(),
    }.get(metric, best)
    assert (own - best <= tolerance(q.shape[1]) * size + 1e-300).all()
    reported = -distances if metric == "dot" else distances
    assert (np.diff(reported, axis=1) >= 0).all()
    np.testing.assert_allclose(
        reported, own, rtol=1e-6, atol=1e-13 * np.abs(every[np.isfinite(every)]).max()
    )


def points(n: int, d: int, seed: int = 0, b: int = 0) -> Array:
    return (
        np.random.default_rng([seed, n, d])
        .standard_normal((b, n, d) if b else (n, d))
        .astype(np.float32)
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours(backend: str, metric: str) -> None:
    for q, n, d, k in ((1, 1, 1, 1), (1, 9, 1, 9), (19, 61, 3, 5), (3, 70, 33, 40)):
        queries, data = points(q, d, 1), points(n, d)
        check(queries, data, k, metric, fk.knn(queries, data, k, metric, backend=backend))
    batch = points(33, 6, b=2)
    check(batch[:, :7], batch, 4, metric, fk.knn(batch[:, :7], batch, 4, metric, backend=backend))


@pytest.mark.parametrize(
    "kind", ["numpy-float64", "numpy-float16", "mlx-float32", "mlx-float16", "mlx-bfloat16"]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_types(backend: str, kind: str) -> None:
    x = given(points(50, 6), kind)
    for metric in ("euclidean", "cosine", "l1"):
        found = fk.knn(x[:20], x, 3, metric, backend=backend)
        assert (
            isinstance(found[0], mx.array)
            == isinstance(found[1], mx.array)
            == kind.startswith("mlx")
        )
        check(x[:20], x, 3, metric, found)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_queries", [1, 7, 16, 17, 63, 130, 300])
def test_shapes_on_the_cpu_backend(n_queries: int, metric: str) -> None:
    for n, d, k in ((5, 20, 5), (23, 2, 3), (1000, 7, 10), (4100, 17, 1), (700, 40, 600)):
        queries, data = points(n_queries, d, 1), points(n, d)
        check(queries, data, k, metric, fk.knn(queries, data, k, metric, backend="cpu"))


def test_strides_and_other_types() -> None:
    wide = points(300, 40)
    views = [
        wide[::3, ::5],
        wide.T[:8].T,
        wide.astype(">f4")[:, :6],
        (100 * wide[:, :5]).astype(np.int64),
        wide.astype(bool),
    ]
    for x in views:
        check(x[:40], x, 3, "euclidean", fk.knn(x[:40], x, 3, backend="cpu"))
    check(
        mx.array(wide).T,
        mx.array(wide).T,
        3,
        "l1",
        fk.knn(mx.array(wide).T, mx.array(wide).T, 3, "l1", backend="cpu"),
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lowest_index(backend: str) -> None:
    rng = np.random.default_rng(0)
    lattice = rng.integers(-1, 2, (90, 4)).astype(
        np.float32
    )  # many equal rows, many equal distances
    for metric in ("euclidean", "l1", "linf", "dot"):
        for k in (1, 6, 90):
            _, indices = fk.knn(lattice[:30], lattice, k, metric, backend=backend)
            expected = np.argsort(truth(lattice[:30], lattice, metric), axis=1, kind="stable")[
                :, :k
            ]
            np.testing.assert_array_equal(indices, expected)
    same = np.ones((40, 5), np.float32)
    for metric in METRICS:
        np.testing.assert_array_equal(
            fk.knn(same[:3], same, 4, metric, backend=backend)[1], [[0, 1, 2, 3]] * 3
        )


def test_many_ties_on_the_cpu_backend() -> None:
    x = np.random.default_rng(0).integers(-2, 3, (3000, 3)).astype(np.float32)
    for k in (1, 20, 200):
        for metric in ("euclidean", "linf"):
            _, indices = fk.knn(x[:200], x, k, metric, backend="cpu")
            expected = np.argsort(truth(x[:200], x, metric), axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(indices, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_rows_have_cosine_distance_one(backend: str) -> None:
    x = np.array([[0, 0], [1, 0], [-1, 0], [0, 2]], np.float32)
    distances, indices = fk.knn(x, x, 4, "cosine", backend=backend)
    np.testing.assert_allclose(
        distances, [[1, 1, 1, 1], [0, 1, 1, 2], [0, 1, 1, 2], [0, 1, 1, 1]], atol=1e-7
    )
    np.testing.assert_array_equal(indices, [[0, 1, 2, 3], [1, 0, 3, 2], [2, 0, 3, 1], [3, 0, 1, 2]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_exclude_self(backend: str, metric: str) -> None:
    x = points(40, 5)
    x[7] = x[3]  # a duplicate is not oneself
    for k in (1, 4, 39):
        found = fk.knn(x, x, k, metric, exclude_self=True, backend=backend)
        check(x, x, k, metric, found, np.arange(40))
    distances, indices = fk.knn(x, x, 1, exclude_self=True, backend=backend)
    assert np.asarray(indices)[3, 0] == 7 and np.asarray(distances)[3, 0] == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_chunks_give_what_the_whole_gives(backend: str, metric: str) -> None:
    x = duplicates(60, 40, 5)
    for k, exclude in ((3, True), (20, False)):
        whole = fk.knn(x, x, k, metric, backend=backend, exclude_self=exclude)
        with Search(x, k, metric, backend=backend, exclude_self=exclude) as search:
            for lo, hi in ((0, 1), (1, 8), (8, 40), (40, 60)):
                search.add(x[lo:hi], lo)
            parts = search.result()
        np.testing.assert_array_equal(parts[0], whole[0])
        if metric != "cosine":  # equal directions of different lengths may round apart
            np.testing.assert_array_equal(parts[1], whole[1])


def test_large_chunks_on_the_cpu_backend() -> None:
    queries, x = points(100, 24, 1), points(20_000, 24)
    for metric in METRICS:
        whole = fk.knn(queries, x, 30, metric, backend="cpu")
        with Search(queries, 30, metric, backend="cpu") as search:
            for lo in range(0, 20_000, 3000):
                search.add(x[lo : lo + 3000], lo)
            assert search.rows == 20_000 and search.backend == "cpu"
            for one, other in zip(search.result(), whole, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "reference"])
def test_far_from_the_origin(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = 100 + 1e-3 * rng.standard_normal((200, 20))
    tight = 50 * rng.integers(-4, 5, (200, 20))[
        rng.integers(6, size=200)
    ] + 1e-3 * rng.standard_normal((200, 20))
    for data in (
        x,
        x.astype(np.float32),
        1e6 + 1e-3 * rng.standard_normal((200, 20)),
        tight.astype(np.float32),
    ):
        for metric in ("euclidean", "l1", "linf"):
            check(data[:30], data, 5, metric, fk.knn(data[:30], data, 5, metric, backend=backend))


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e15, 1e30])
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "reference"])
def test_extreme_magnitudes(backend: str, scale: float) -> None:
    x = np.concatenate([np.zeros((3, 9)), points(60, 9)])
    for metric in METRICS:
        _, indices = fk.knn(
            (x * scale).astype(np.float32),
            (x * scale).astype(np.float32),
            4,
            metric,
            backend=backend,
        )
        if scale > 1e-40:
            check(x, x, 4, metric, (fk.knn(x, x, 4, metric, backend="reference")[0], indices))
        assert np.asarray(indices).max() < 63


def test_values_that_a_sample_does_not_show() -> None:
    x = points(5000, 4)
    x[4001] *= 1e25
    check(x[:50], x, 3, "l1", fk.knn(x[:50], x, 3, "l1", backend="cpu"))
    for bad in (np.nan, np.inf):
        x[4001, 2] = bad
        for metric in METRICS:
            with pytest.raises(
                ValueError,
                match=r"data must be finite, got NaN or Inf \(data.shape=\(1, 5000, 4\)\)",
            ):
                fk.knn(x[:50], x, 3, metric, backend="cpu")


def test_a_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    for q, n, d, k in ((3, 30_000, 60, 20), (700, 3000, 30, 5)):
        queries, data = points(q, d, 1), points(n, d)
        for metric in ("euclidean", "cosine"):
            results = []
            for threads in ("1", "2", "5"):
                monkeypatch.setenv("FLASH_KMEANS_THREADS", threads)
                results.append(fk.knn(queries, data, k, metric, backend="cpu"))
            for distances, indices in results[1:]:
                np.testing.assert_array_equal(distances, results[0][0])
                np.testing.assert_array_equal(indices, results[0][1])


def test_knn_class() -> None:
    x = points(2, 5, 3, b=3)[0]
    data = points(30, 5)
    model = fk.KNN(data, "l1", backend="reference")
    for one, other in zip(
        model.query(x), fk.knn(x, data, 1, "l1", backend="reference"), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert model.query(data, 2, exclude_self=True)[1].shape == (30, 2)
    with pytest.raises(ValueError, match="k=31 must be <= N=30"):
        model.query(x, 31)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (np.ones((2, 3)), np.ones((5, 4)), 1),
            {},
            ValueError,
            r"data must have shape \(N, D\)=\(N, 3\), got \(5, 4\) \(queries",
        ),
        (
            (np.ones((2, 3)), np.ones((1, 5, 3)), 1),
            {},
            ValueError,
            r"data must have shape \(N, D\)=\(N, 3\), got \(1, 5, 3\)",
        ),
        (
            (np.ones((2, 2, 3)), np.ones((1, 5, 3)), 1),
            {},
            ValueError,
            r"data must have shape \(B, N, D\)=\(2, N, 3\), got",
        ),
        (
            (np.ones(3), np.ones((5, 3)), 1),
            {},
            ValueError,
            r"queries must have shape \(N, D\) or \(B, N, D\), got 1 dimensions",
        ),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 6),
            {},
            ValueError,
            r"k=6 must be <= N=5 \(data.shape=\(5, 3\)\)",
        ),
        (
            (np.ones((5, 3)), np.ones((5, 3)), 5),
            {"exclude_self": True},
            ValueError,
            r"k=5 must be <= N - 1=4",
        ),
        (
            (np.ones((4, 3)), np.ones((5, 3)), 2),
            {"exclude_self": True},
            ValueError,
            r"queries that are the data, got queries",
        ),
        ((np.ones((2, 3)), np.ones((5, 3)), 0), {}, ValueError, r"k=0 must be >= 1"),
        ((np.ones((2, 3)), np.ones((5, 3)), 1.5), {}, TypeError, r"k=1.5 must be an integer"),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 1),
            {"metric": "l2"},
            ValueError,
            r"metric='l2' must be one of 'euclidean', 'cosine'",
        ),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 1),
            {"exclude_self": 1},
            TypeError,
            r"exclude_self=1 must be True or False",
        ),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 1),
            {"max_mem_gb": -1},
            ValueError,
            r"max_mem_gb=-1 must be finite and >= 0",
        ),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 1),
            {"backend": "gpu"},
            ValueError,
            r"backend='gpu' must be one of",
        ),
        (
            (np.full((2, 3), np.nan), np.ones((5, 3)), 1),
            {},
            ValueError,
            r"queries must be finite, got NaN or Inf",
        ),
        (
            (np.ones((2, 3)), np.full((5, 3), 1e300), 1),
            {},
            ValueError,
            r"data must fit in float32, got a magnitude of 1e\+300",
        ),
    ],
)
def test_wrong_arguments(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fk.knn(*arguments, **options)


def test_a_search_of_too_few_rows() -> None:
    with Search(points(3, 2), 5, exclude_self=True) as search:
        search.add(points(5, 2), 0)
        with pytest.raises(ValueError, match=r"k=5 must be <= N - 1=4 \(queries.shape=\(3, 2\)\)"):
            search.result()


def test_a_chunk_of_too_many_rows() -> None:
    rows = np.broadcast_to(
        np.zeros((1, 2), np.float32), (1 << 32, 2)
    )  # all of them one row in memory
    with (
        Search(points(3, 2), 5) as search,
        pytest.raises(ValueError, match="fewer than 4294967296 rows at a time, got 4294967296"),
    ):
        search.add(rows, 0)


def nearly_parallel(n: int, d: int, spread: float) -> Array:
    """(N, D) float64 unit rows, and others of their directions."""
    rng = np.random.default_rng([n, d])
    rows = rng.standard_normal(d) / np.sqrt(d) + spread * rng.standard_normal((n, d)) / np.sqrt(d)
    return rows * rng.uniform(0.5, 2, (n, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nearly_parallel_rows(backend: str, dtype: str) -> None:
    for x in (
        nearly_parallel(300, 40, 1e-3),
        nearly_parallel(300, 40, 1e-6),
        300 + points(300, 40),
    ):
        data = x.astype(dtype)
        for metric in ("cosine", "dot"):
            judge(data[:20], data, 5, metric, fk.knn(data[:20], data, 5, metric, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bundles_of_nearly_parallel_rows(backend: str) -> None:
    x = points(6, 33)[np.arange(240) % 6] + np.float32(1e-5) * points(
        240, 33
    )  # whose mean is no origin for any of them
    for metric in METRICS:
        judge(x[:24], x, 7, metric, fk.knn(x[:24], x, 7, metric, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_float32_cannot_tell_apart(backend: str) -> None:
    x = points(4, 9).astype(np.float64)[np.arange(200) % 4] * 1e3 + 1e-6 * points(200, 9)
    for metric in METRICS:
        judge(x[:12], x, 5, metric, fk.knn(x[:12], x, 5, metric, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_unlike_magnitudes(backend: str) -> None:
    sizes = 10.0 ** np.random.default_rng(0).uniform(-35, 35, (200, 1))
    for x in (
        (points(200, 9) * sizes).astype(np.float32),
        1e-200 * points(200, 9).astype(np.float64),
    ):
        for metric in METRICS if x.dtype == np.float32 else ("cosine", "dot"):
            judge(x[:12], x, 5, metric, fk.knn(x[:12], x, 5, metric, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_angles_are_those_of_the_rows(backend: str) -> None:
    angle = np.array([0.0, 1e-9, 1e-7, 1e-4, 1e-2, 1.0])
    rows = np.stack([np.cos(angle), np.sin(angle)], 1) * [[1], [3], [5], [7], [9], [11]]
    distances, indices = fk.knn(rows[:1], rows[::-1], 6, "cosine", backend=backend)
    np.testing.assert_array_equal(indices, [[5, 4, 3, 2, 1, 0]])
    np.testing.assert_allclose(distances, 2 * np.sin(angle[None] / 2) ** 2, rtol=1e-6)
    parallel = points(1, 30).astype(np.float64) * np.arange(40, 0, -1)[:, None] / 7
    np.testing.assert_array_equal(
        fk.knn(parallel[:2], parallel, 9, "cosine", backend=backend)[1], [range(9)] * 2
    )


def test_products_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(a: mx.array) -> mx.array:
        return (a.view(mx.uint32) + 0x1000 & 0xFFFFE000).view(mx.float32)

    def score(self: Any, queries: mx.array, rows: mx.array, products: bool) -> mx.array:
        if not products:
            return original(self, queries, rows, products)
        square = 0 if self.request.proximity.product else 0.5 * mx.square(rows).sum(1)
        return rounded(queries) @ rounded(rows).T - square

    original = topk.PortableNeighbours._score
    monkeypatch.setattr(topk.PortableNeighbours, "_score", score)
    monkeypatch.setattr(topk, "product_rounding", lambda: bounds.TF32)
    x = points(600, 30)
    for metric in ("euclidean", "cosine", "dot"):
        judge(x[:30], x, 5, metric, fk.knn(x[:30], x, 5, metric, backend="portable"))


def test_only_doubtful_queries_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = cpu_neighbours.look_again

    def look_again(scoring: Any, which: Array, *rest: Any, **options: Any) -> None:
        asked.append(len(which))
        original(scoring, which, *rest, **options)

    monkeypatch.setattr(cpu_neighbours, "look_again", look_again)
    x = points(900, 20)
    whole = np.rint(x).astype(np.float32)
    for data in (
        x,
        whole,
        whole[np.arange(900) % 5],
        x[np.arange(900) % 5],
    ):  # ties, and rows that are equal
        for metric in ("euclidean", "l1", "linf"):
            fk.knn(data[:300], data, 5, metric, backend="cpu")
    for metric in ("cosine", "dot"):
        fk.knn(x[:300], x, 5, metric, backend="cpu")
        fk.knn(np.zeros((3, 20)), x, 5, metric, backend="cpu")
    assert not asked
    bundle = x[0] + np.float32(1e-6) * x
    for metric in ("cosine", "dot"):
        fk.knn(
            np.concatenate([x[:50], bundle[:30]]),
            np.concatenate([x[1:], bundle]),
            5,
            metric,
            backend="cpu",
        )
    assert len(asked) == 2 and all(1 <= n < 80 for n in asked)
