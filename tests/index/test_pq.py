"""Indexes of product-quantized codes against float64 brute force over the vectors that they keep."""

from __future__ import annotations

import warnings
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exact_neighbours import truth
from helpers import BACKENDS, Array, digits, patches

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.index import IndexFlat, IndexIVFPQ, IndexPQ, load_index

X = digits()
METRICS = ("euclidean", "cosine", "dot")


def filled(index: Any, x: Array = X, ids: Array | None = None) -> Any:
    index.train(x)
    for lo in range(0, len(x), 500):
        index.add(x[lo : lo + 500], None if ids is None else ids[lo : lo + 500])
    return index


def rows_and_queries(backend: str) -> tuple[Array, Array]:
    """As many as the backend takes in reasonable time: without a GPU, "metal" is emulated."""
    if backend == "metal":
        return X[:400], X[-6:]
    return X if backend == "cpu" else X[:800], X[-20:]


def kept(index: Any, ids: Array) -> Array:
    return index.reconstruct_batch(ids)


def check(
    index: Any,
    queries: Array,
    ids: Array,
    k: int,
    found: tuple[Array, Array],
    allowed: Array | None = None,
) -> None:
    """The k nearest of the vectors kept under these ids; `allowed` (Q, N) says which ones a query may get."""
    every = truth(queries.astype(np.float64), kept(index, ids).astype(np.float64), index.metric)
    every = np.where(True if allowed is None else allowed, every, np.inf)
    order = np.array([np.lexsort([ids, row])[:k] for row in every])
    expected = np.take_along_axis(every, order, 1)
    distances = -found[0] if index.metric == "dot" else found[0]
    size = np.abs(expected[np.isfinite(expected)]).max()
    np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-6 * size)
    np.testing.assert_array_equal(found[1] == -1, np.isinf(expected))
    place = {int(i): j for j, i in enumerate(ids)}
    own = np.array(
        [
            [every[q, place[int(i)]] if i >= 0 else np.inf for i in row]
            for q, row in enumerate(found[1])
        ]
    )
    np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_codes(backend: str, metric: str) -> None:
    x, queries = rows_and_queries(backend)
    index = filled(IndexPQ(64, 8, 3, metric, backend=backend), x)
    assert index.is_trained and index.ntotal == len(x)
    for k in (1, 10, 100):
        check(index, queries, np.arange(len(x)), k, index.search(queries, k))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_codes_of_the_nearest_lists(backend: str, metric: str) -> None:
    x, queries = rows_and_queries(backend)
    index = filled(IndexIVFPQ(64, 9, 16, 3, metric, backend=backend), x)
    labels = np.asarray(fk.assign(x, index.centroids, metric))
    near = np.argsort(
        truth(queries.astype(np.float64), index.centroids.astype(np.float64), metric),
        axis=1,
        kind="stable",
    )
    for nprobe in (1, 3, 9):
        allowed = (labels[None, :, None] == near[:, None, :nprobe]).any(2)
        check(
            index, queries, np.arange(len(x)), 60, index.search(queries, 60, nprobe=nprobe), allowed
        )
    index.nprobe = 3
    np.testing.assert_array_equal(
        index.search(queries, 5)[1], index.search(queries, 5, nprobe=3)[1]
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_bits(nbits: int, metric: str) -> None:
    x = np.random.default_rng(nbits).standard_normal((max(160, 39 << nbits), 15)).astype(np.float32)
    ids = np.random.default_rng(0).permutation(3 * len(x))[: len(x)]
    for index in (
        IndexPQ(15, 5, nbits, metric, niter=2),
        IndexIVFPQ(15, 4, 5, nbits, metric, nprobe=4, niter=2),
    ):
        filled(index, x, ids)
        check(index, x[:9], ids, 12, index.search(x[:9], 12))


@pytest.mark.parametrize("backend", ["cpu", "portable", "reference"])
@pytest.mark.parametrize("kind", [IndexPQ, IndexIVFPQ])
def test_equal_codes_go_to_the_lowest_ids(kind: Any, backend: str) -> None:
    index = (
        kind(4, 2, 1, backend=backend)
        if kind is IndexPQ
        else kind(4, 2, 2, 1, nprobe=2, backend=backend)
    )
    x = np.random.default_rng(0).integers(-1, 2, (900, 4)).astype(np.float32)
    ids = np.random.default_rng(1).permutation(900)
    filled(index, x, ids)
    rows = kept(index, np.arange(900))
    for k in (1, 5, 50, 300):
        found = index.search(x[:20], k)
        every = truth(x[:20].astype(np.float64), rows.astype(np.float64), "euclidean")
        np.testing.assert_array_equal(found[1], np.argsort(every, axis=1, kind="stable")[:, :k])


def test_residuals_are_kept_better_than_vectors() -> None:
    x = patches(4000)
    plain, lists = filled(IndexPQ(192, 16, 5), x), filled(IndexIVFPQ(192, 20, 16, 5), x)
    error = [float(np.square(kept(index, np.arange(4000)) - x).sum()) for index in (plain, lists)]
    assert error[1] < 0.9 * error[0]


def test_recall_grows_with_the_lists_and_bits() -> None:
    x, queries = X[:1500], X[1500:]
    flat = IndexFlat(64)
    flat.add(x)
    best = flat.search(queries, 1)[1]
    recall = []
    for m, nprobe in ((8, 1), (8, 20), (32, 20)):
        index = filled(IndexIVFPQ(64, 20, m, 5), x)
        recall.append(float((index.search(queries, 10, nprobe=nprobe)[1] == best).any(1).mean()))
    assert recall[0] < recall[1] < recall[2] and recall[2] > 0.99


def test_far_from_the_origin() -> None:
    x = (1e4 + np.random.default_rng(0).standard_normal((2000, 16))).astype(np.float32)
    for index in (IndexPQ(16, 8, 4), IndexIVFPQ(16, 8, 8, 4, nprobe=8)):
        filled(index, x)
        rows = kept(index, np.arange(2000)).astype(np.float64)
        distances = np.sort(truth(x[:30].astype(np.float64), rows, "euclidean"), axis=1)[:, :10]
        np.testing.assert_allclose(index.search(x[:30], 10)[0], distances, rtol=1e-6)


@pytest.mark.parametrize("kind", [IndexPQ, IndexIVFPQ])
def test_any_number_of_threads_gives_the_same_bits(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = patches(4000)
    index = filled(kind(192, 48, 5) if kind is IndexPQ else kind(192, 8, 48, 5, nprobe=8), x)
    for queries in (x[:1], x[:300]):
        found = []
        for threads in ("1", "2", "5"):
            monkeypatch.setenv("FLASH_KMEANS_THREADS", threads)
            found.append(index.search(queries, 20))
        for other in found[1:]:
            np.testing.assert_array_equal(found[0][0], other[0])
            np.testing.assert_array_equal(found[0][1], other[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [IndexPQ, IndexIVFPQ])
def test_removing_reconstructing_and_ranges(kind: Any, metric: str) -> None:
    index = filled(
        kind(64, 8, 3, metric) if kind is IndexPQ else kind(64, 5, 8, 3, metric, nprobe=5)
    )
    before = index.reconstruct(7)
    gone = np.arange(0, 1797, 3)
    assert index.remove_ids(gone) == len(gone) == 1797 - index.ntotal
    left = np.setdiff1d(np.arange(1797), gone)
    np.testing.assert_array_equal(index.reconstruct(7), before)
    with pytest.raises(ValueError, match="id=3 is not in the index"):
        index.reconstruct(3)
    check(index, X[:10], left, 20, index.search(X[:10], 20))
    sign = -1 if metric == "dot" else 1
    every = sign * truth(X[:10].astype(np.float64), kept(index, left).astype(np.float64), metric)
    radius = float(np.median(every)) + 1e-3 * float(np.std(every))
    lims, distances, ids = index.range_search(X[:10], radius)
    for i in range(10):
        inside = left[sign * every[i] < sign * radius]
        assert sorted(ids[lims[i] : lims[i + 1]]) == sorted(inside)
    assert (sign * distances < sign * radius).all()
    index.add(X[gone], gone)
    check(index, X[:10], np.arange(1797), 20, index.search(X[:10], 20))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [IndexPQ, IndexIVFPQ])
def test_saving(kind: Any, metric: str, tmp_path: Any) -> None:
    index = filled(
        kind(64, 8, 3, metric) if kind is IndexPQ else kind(64, 5, 8, 3, metric, nprobe=2)
    )
    index.save(tmp_path / "index")
    again = load_index(tmp_path / "index")
    assert type(again) is kind and again.ntotal == 1797
    for mine, other in zip(index.search(X[:50], 7), again.search(X[:50], 7), strict=True):
        np.testing.assert_array_equal(mine, other)
    again.add(X[:2])
    np.testing.assert_array_equal(again.reconstruct(1798), index.reconstruct(1))
    kind(64, 8, 4).save(tmp_path / "index")
    assert not load_index(tmp_path / "index").is_trained


def test_mlx_in_mlx_out() -> None:
    index = filled(IndexIVFPQ(64, 5, 8, 3))
    distances, ids = index.search(mx.array(X[:4]), 3)
    assert (
        isinstance(distances, mx.array) and distances.dtype == mx.float32 and ids.dtype == mx.int64
    )
    np.testing.assert_array_equal(np.asarray(ids), index.search(X[:4], 3)[1])


def test_the_same_seed_gives_the_same_index() -> None:
    first, again, other = (filled(IndexIVFPQ(64, 5, 8, 3, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.search(X[:50], 5)[0], again.search(X[:50], 5)[0])
    assert (first.search(X[:50], 5)[0] != other.search(X[:50], 5)[0]).any()


def test_fewer_than_k() -> None:
    index = IndexPQ(64, 8, 3)
    index.train(X)
    assert index.search(X[:2], 3)[1].tolist() == [[-1] * 3] * 2
    index.add(X[:2], [5, 3])
    distances, ids = index.search(X[:1], 4)
    assert (
        ids[0, 2:].tolist() == [-1, -1]
        and sorted(ids[0, :2].tolist()) == [3, 5]
        and np.isinf(distances[0, 2:]).all()
    )


def test_arguments() -> None:
    kinds: Any = (
        lambda m, nbits: IndexPQ(64, m, nbits),
        lambda m, nbits: IndexIVFPQ(64, 4, m, nbits),
    )
    for kind in kinds:
        with pytest.raises(ValueError, match="m=7 must divide d=64"):
            kind(7, 8)
        with pytest.raises(ValueError, match="nbits=9 must be <= 8"):
            kind(8, 9)
        index = kind(8, 4)
        for verb in (lambda index=index: index.add(X), lambda index=index: index.search(X, 1)):
            with pytest.raises(fk.NotFittedError, match="needs a trained index: call train first"):
                verb()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(
                ValueError, match="x must have N >= 16 training vectors for 16 centroids, got N=10"
            ):
                index.train(X[:10])
        assert not index.is_trained
        with pytest.warns(
            UserWarning, match="200 training vectors for 16 centroids: 624 or more are advised"
        ) as caught:
            index.train(X[:200])
        assert caught[0].filename == __file__
        with pytest.raises(
            ValueError, match=r"x must have shape \(N, D\)=\(N, 64\), got \(1797, 60\)"
        ):
            index.search(X[:, :60], 1)
