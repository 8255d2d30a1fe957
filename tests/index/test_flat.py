"""IndexFlat against float64 brute force, and what all indexes share: ids, shapes, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exact_neighbours import METRICS, truth
from helpers import BACKENDS, digits

from flash_kmeans_mlx.index import Index, IndexFlat, IndexIVFFlat, load_index
from flash_kmeans_mlx.metrics import PROXIMITIES

X = digits()


def filled(metric: str = "euclidean", **options: Any) -> IndexFlat:
    index = IndexFlat(64, metric, **options)
    for lo in range(0, 1000, 300):
        index.add(X[lo : min(1000, lo + 300)])
    return index


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_search_is_exact(backend: str, metric: str) -> None:
    n = 300 if backend == "metal" else 1000
    index = IndexFlat(64, metric, backend=backend)
    index.add(X[:n])
    distances, ids = index.search(X[-5:], 7)
    every = truth(X[-5:].astype(np.float64), X[:n].astype(np.float64), metric)
    order = np.argsort(every, axis=1, kind="stable")[:, :7]
    sign = -1 if metric == "dot" else 1
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(distances, sign * np.take_along_axis(every, order, 1), rtol=1e-6)
    assert distances.dtype == np.float32 and ids.dtype == np.int64


def test_queries_of_mlx_get_mlx() -> None:
    index = filled()
    parts = [*index.search(mx.array(X[:3]), 2), *index.range_search(mx.array(X[:3]), 300.0)]
    assert all(isinstance(part, mx.array) for part in parts)
    assert [str(part.dtype) for part in parts] == [
        f"mlx.core.{name}" for name in ("float32", "int64", "int64", "float32", "int64")
    ]


def test_ids_of_ones_own() -> None:
    rng = np.random.default_rng(0)
    index, own = IndexFlat(64), rng.permutation(5000)[:1000]
    for lo in range(0, 1000, 250):
        index.add(X[lo : lo + 250], own[lo : lo + 250])
    np.testing.assert_array_equal(index.search(X[:1000], 1)[1][:, 0], own)
    index.add(X[1000:1010])
    np.testing.assert_array_equal(
        index.search(X[1000:1010], 1)[1][:, 0], own.max() + 1 + np.arange(10)
    )
    np.testing.assert_array_equal(index.reconstruct(int(own[7])), X[7])


def test_equal_distances_are_ranked_by_id() -> None:
    index = IndexFlat(2)
    index.add(np.ones((6, 2)), ids=[9, 3, 7, 1, 8, 2])
    index.add(np.ones((3, 2)), ids=[0, 5, 6])
    np.testing.assert_array_equal(index.search(np.ones((1, 2)), 4)[1], [[0, 1, 2, 3]])


@pytest.mark.parametrize("make", [lambda: IndexFlat(64), lambda: IndexIVFFlat(64, 5, nprobe=5)])
def test_ids_end_where_int64_does(make: Any, tmp_path: Path) -> None:
    index: Index = make()
    index.train(X)
    index.add(X[:2], [5, 2**63 - 4])
    for n in (3, 1000):
        with pytest.raises(
            ValueError,
            match=rf"ids must be < 2\*\*63 - 1, the next {n} would begin at 9223372036854775805",
        ):
            index.add(X[:n])
    index.add(X[2:4])
    with pytest.raises(
        ValueError,
        match=r"the next 1 would begin at 9223372036854775807: give ids of your own, or make a new",
    ):
        index.add(X[:1])
    index.add(X[4:5], [6])
    assert index.search(X[:5], 1)[1][:, 0].tolist() == [5, 2**63 - 4, 2**63 - 3, 2**63 - 2, 6]
    index.save(tmp_path / "index")
    again = load_index(tmp_path / "index")
    assert again.remove_ids([2**63 - 2, 2**63 - 1, -(2**63), -1]) == 1 and again.ntotal == 4
    with pytest.raises(ValueError, match=r"the next 1 would begin at 9223372036854775807"):
        again.add(X[:1])


@pytest.mark.parametrize("make", [lambda: IndexFlat(64), lambda: IndexIVFFlat(64, 5, nprobe=5)])
def test_removed_vectors_are_not_found(make: Any) -> None:
    index: Index = make()
    index.train(X)
    index.add(X[:1000])
    gone = np.random.default_rng(0).choice(1000, 400, replace=False)
    assert (
        index.remove_ids([*gone.tolist(), 5000, *gone[:3].tolist()]) == 400 and index.ntotal == 600
    )
    assert index.remove_ids(mx.array(gone)) == 0 == index.remove_ids([])
    left = np.setdiff1d(np.arange(1000), gone)
    _, ids = index.search(X[:1000], 3)
    every = truth(X[:1000].astype(np.float64), X[left].astype(np.float64), "euclidean")
    np.testing.assert_array_equal(ids, left[np.argsort(every, axis=1, kind="stable")[:, :3]])
    with pytest.raises(ValueError, match=rf"id={gone[0]} is not in the index \(ntotal=600\)"):
        index.reconstruct(gone[0])
    index.add(X[gone], gone)
    np.testing.assert_array_equal(index.reconstruct_batch(range(1000)), X[:1000])
    assert index.remove_ids(np.arange(1000)) == 1000 and index.ntotal == 0
    assert (index.search(X[:2], 2)[1] == -1).all() and index.remove_ids([3]) == 0
    index.add(X[:1])
    assert index.search(X[:1], 1)[1] == 1000, "ids are not given twice"


@pytest.mark.parametrize("make", [lambda m: IndexFlat(64, m), lambda m: IndexIVFFlat(64, 5, m, 5)])
@pytest.mark.parametrize("metric", ["euclidean", "dot"])
def test_fewer_than_k(make: Any, metric: str) -> None:
    index: Index = make(metric)
    index.train(X)
    none = np.float32(-np.inf if metric == "dot" else np.inf)
    for n in (0, 3):
        if n:
            index.add(X[:n])
        distances, ids = index.search(X[:4], 6)
        assert (
            distances.shape == ids.shape == (4, 6)
            and distances.dtype == np.float32
            and ids.dtype == np.int64
        )
        assert (ids[:, n:] == -1).all() and (distances[:, n:] == none).all()
        assert (ids[:, :n] >= 0).all() and np.isfinite(distances[:, :n]).all()


@pytest.mark.parametrize("make", [lambda m: IndexFlat(64, m), lambda m: IndexIVFFlat(64, 5, m, 5)])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_range_search(make: Any, metric: str) -> None:
    index: Index = make(metric)
    index.train(X)
    lims, distances, ids = index.range_search(X[:9], 1.0)
    assert lims.tolist() == [0] * 10 and len(distances) == len(ids) == 0
    index.add(X[:1500])
    every = truth(X[:30].astype(np.float64), X[:1500].astype(np.float64), metric)
    sign = -1 if metric == "dot" else 1
    # So many of each query on average: fewer and more than are ranked at first.
    for n_inside in (0, 10, 200, 1499):
        radius = sign * float(np.sort(every.reshape(-1))[30 * n_inside])
        lims, distances, ids = index.range_search(X[:30], radius)
        assert lims.dtype == ids.dtype == np.int64 and distances.dtype == np.float32
        for i in range(30):
            inside = np.flatnonzero(every[i].astype(np.float32) < np.float32(sign * radius))
            order = inside[np.argsort(every[i, inside], kind="stable")]
            if metric == "cosine":  # where rounding decides between equal angles
                np.testing.assert_allclose(
                    distances[lims[i] : lims[i + 1]], every[i, order], atol=1e-6
                )
            else:
                np.testing.assert_array_equal(ids[lims[i] : lims[i + 1]], order)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda i: i.add(np.ones((3, 5))),
            ValueError,
            r"x must have shape \(N, D\)=\(N, 64\), got \(3, 5\)",
        ),
        (
            lambda i: i.add(np.ones((1, 3, 64))),
            ValueError,
            r"x must have shape \(N, D\)=\(N, 64\), got \(1, 3, 64\)",
        ),
        (lambda i: i.search(np.ones(64), 1), ValueError, r"x must have shape \(N, D\) or"),
        (
            lambda i: i.search(np.full((2, 64), np.nan), 1),
            ValueError,
            r"x must be finite, got NaN or Inf \(x.shape=\(2, 64\)\)",
        ),
        (lambda i: i.add(np.full((2, 64), 1e300)), ValueError, r"x must fit in float32"),
        (lambda i: i.search(np.ones((1, 64)), 0), ValueError, "k=0 must be >= 1"),
        (lambda i: i.search(np.ones((1, 64)), 2.0), TypeError, "k=2.0 must be an integer"),
        (
            lambda i: i.add(np.ones((3, 64)), [1, 2]),
            ValueError,
            r"ids must have shape \(N,\)=\(3,\), got \(2,\)",
        ),
        (
            lambda i: i.add(np.ones((2, 64)), [[1, 2]]),
            ValueError,
            r"ids must have shape \(N,\), got \(1, 2\)",
        ),
        (
            lambda i: i.add(np.ones((3, 64)), [1.0, 2.0, 3.0]),
            TypeError,
            "ids must be integers, got dtype float64",
        ),
        (
            lambda i: i.add(np.ones((3, 64)), [1, -2, 3]),
            ValueError,
            "ids must be >= 0 and < 2.*, got -2",
        ),
        (
            lambda i: i.add(np.ones((1, 64)), [2**63 - 1]),
            ValueError,
            "ids must be >= 0 and < 2.*, got 9223372036854775807",
        ),
        (
            lambda i: i.add(np.ones((1, 64)), np.array([2**63], np.uint64)),
            ValueError,
            "ids must be < 2.*, got 9223372036854775808",
        ),
        (
            lambda i: i.add(np.ones((3, 64)), [5, 5, 6]),
            ValueError,
            r"ids must be distinct, got 5 more than once \(ids.shape=\(3,\)\)",
        ),
        (
            lambda i: i.add(np.ones((2, 64)), [5000, 7]),
            ValueError,
            r"ids must be new, got 7, which the index holds",
        ),
        (lambda i: i.reconstruct(1000), ValueError, r"id=1000 is not in the index \(ntotal=1000\)"),
        (lambda i: i.reconstruct("a"), TypeError, "id='a' must be an integer"),
        (
            lambda i: i.reconstruct_batch([3, 1000]),
            ValueError,
            r"id=1000 is not in the index \(ntotal=1000\)",
        ),
        (
            lambda i: i.reconstruct_batch([0.5]),
            TypeError,
            "ids must be integers, got dtype float64",
        ),
        (
            lambda i: i.reconstruct_batch([[1]]),
            ValueError,
            r"ids must have shape \(N,\), got \(1, 1\)",
        ),
        (lambda i: i.remove_ids([1.5]), TypeError, "ids must be integers, got dtype float64"),
        (
            lambda i: i.remove_ids([-1, 2**63]),
            ValueError,
            "ids must be >= 0 and < 2.*, got 9223372036854775808",
        ),
        (
            lambda i: i.remove_ids([1, -(2**70)]),
            ValueError,
            "ids must be >= 0 and < 2.*, got -1180591620717411303424",
        ),
        (lambda i: i.remove_ids([True]), TypeError, "ids must be integers, got dtype bool"),
        (lambda i: i.remove_ids(None), TypeError, "ids must be integers, got dtype object"),
        (lambda i: i.remove_ids(5), ValueError, r"ids must have shape \(N,\), got \(\)"),
        (
            lambda i: i.reconstruct(2**70),
            ValueError,
            "ids must be >= 0 and < 2.*, got 1180591620717411303424",
        ),
        (
            lambda i: i.range_search(np.ones((1, 64)), np.inf),
            ValueError,
            "radius=inf must be a finite number",
        ),
        (
            lambda i: i.range_search(np.ones((1, 64)), "1"),
            ValueError,
            "radius='1' must be a finite number",
        ),
        (lambda _: IndexFlat(0), ValueError, "d=0 must be >= 1"),
        (
            lambda _: IndexFlat(3, "l2"),
            ValueError,
            f"metric='l2' must be one of {', '.join(map(repr, PROXIMITIES))}",
        ),
        (lambda _: IndexFlat(3, backend="gpu"), ValueError, "backend='gpu' must be one of"),
    ],
)
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_wrong_arguments(kind: str, call: Any, error: type[Exception], message: str) -> None:
    index = IndexFlat(64) if kind == "flat" else IndexIVFFlat(64, 5)
    index.train(X)
    index.add(X[:1000])
    with pytest.raises(error, match=message):
        call(index)
    assert index.ntotal == 1000
