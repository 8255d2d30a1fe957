"""IndexHNSW: near neighbours along a graph, judged by exact search."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exact_neighbours import KINDS
from helpers import Array, digits

from flash_kmeans_mlx.index import (
    EmbeddingStore,
    IndexFlat,
    IndexHNSW,
    index_factory,
    load_index,
)
from flash_kmeans_mlx.index.growth import bytes_per_vector
from flash_kmeans_mlx.index.hnsw import MOST_WAITING
from flash_kmeans_mlx.metrics import PROXIMITIES

METRICS = ("euclidean", "cosine", "dot")
X = digits()
RNG = np.random.default_rng(0)
SMALL = RNG.standard_normal((1500, 8)).astype(np.float32)


def filled(metric: str = "euclidean", x: Array = SMALL, **options: Any) -> IndexHNSW:
    index = IndexHNSW(x.shape[1], 8, 60, metric, **options)
    index.add(x)
    return index


def recall(found: Array, wanted: Array) -> float:
    shared = [len(np.intersect1d(a, b)) for a, b in zip(found, wanted, strict=True)]
    return float(np.mean(shared)) / wanted.shape[1]


def judge(x: Array, queries: Array, metric: str, found: tuple[Array, Array], least: float) -> None:
    """Distances are those of the ids, in order, and most of the nearest are found."""
    distances, ids = found
    k = ids.shape[1]
    every = PROXIMITIES[metric].distances(queries.astype(np.float64), x.astype(np.float64))
    own = np.take_along_axis(every, ids, 1)
    sign = -1 if metric == "dot" else 1
    np.testing.assert_allclose(sign * distances, own.astype(np.float32), rtol=1e-6, atol=1e-37)
    np.testing.assert_array_equal(np.lexsort((ids, own)), np.broadcast_to(np.arange(k), ids.shape))
    worst = np.sort(every, 1)[:, k - 1 : k]
    assert (own <= worst + 1e-6 * np.abs(worst)).mean() >= least


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["gaussian", "offset", "low rank", "heavy", "tiny", "parallel"])
def test_most_of_the_nearest_are_found(kind: str, metric: str) -> None:
    rng = np.random.default_rng(1)
    made = KINDS[kind](rng.standard_normal((900, 12)), 1.0, rng)
    x = np.clip(made, -1e12, 1e12).astype(np.float32)
    index = filled(metric, x[:800], ef=100)
    judge(x[:800], x[780:], metric, index.search(x[780:], 9), 0.85)


def test_products_where_norms_differ() -> None:
    """The nearest are few long rows."""
    x = RNG.standard_normal((2000, 32)) * RNG.lognormal(0, 0.5, (2000, 1))
    index, flat = filled("dot", x.astype(np.float32)), IndexFlat(32, "dot")
    flat.add(x)
    queries = RNG.standard_normal((100, 32))
    assert recall(index.search(queries, 10)[1], flat.search(queries, 10)[1]) > 0.95


def test_more_candidates_find_more() -> None:
    x = RNG.standard_normal((3000, 32)).astype(np.float32)
    index, flat = IndexHNSW(32, 4, 20, ef=10), IndexFlat(32)
    for one in (index, flat):
        one.add(x)
    wanted = flat.search(x[:100], 10)[1]
    few, more = (recall(index.search(x[:100], 10, ef=ef)[1], wanted) for ef in (10, 200))
    assert few < more - 0.1 and more > 0.8
    assert recall(index.search(x[:100], 10)[1], wanted) == few
    index.ef = 200
    assert recall(index.search(x[:100], 10)[1], wanted) == more
    radius = float(index.search(x[:1], 20)[0][0, -1])
    _, distances, ids = index.range_search(x[:1], radius, ef=300)
    assert len(ids) >= 15 and (distances < radius).all()


@pytest.mark.parametrize("metric", METRICS)
def test_many_neighbours_are_exact(metric: str) -> None:
    index, flat = filled(metric), IndexFlat(8, metric)
    flat.add(SMALL)
    for one in (index, flat):
        one.remove_ids(np.arange(0, 1500, 7))
    for k in (400, 1500):
        for found, wanted in zip(
            index.search(SMALL[:20], k), flat.search(SMALL[:20], k), strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


def test_the_newest_vectors_wait_outside_the_graph() -> None:
    index = filled()
    native = index._snapshot.graph
    for i in range(3):
        index.add(100 + SMALL[i : i + 1], [5000 - i])
        assert index._snapshot.graph is native, "no copy for one vector"
    distances, ids = index.search(100 + SMALL[:3], 2)
    np.testing.assert_array_equal(ids[:, 0], [5000, 4999, 4998])
    assert (distances[:, 0] == 0).all()
    assert index.remove_ids([4999]) == 1
    assert 4999 not in index.search(100 + SMALL[:3], 3)[1]
    np.testing.assert_array_equal(index.reconstruct(5000), 100 + SMALL[0])
    index.add(SMALL[:300])
    assert len(index._snapshot.graph) == 1803 and MOST_WAITING > 300
    np.testing.assert_array_equal(
        np.sort(index.search(SMALL[:300], 2)[1]),
        np.stack([np.arange(300), 5001 + np.arange(300)], 1),
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0, 1000])
def test_more_wait_than_are_wanted(offset: float, metric: str) -> None:
    x = offset + SMALL
    index, flat = filled(metric, x[:1200], ef=400), IndexFlat(8, metric)
    flat.add(x[:1200])
    for one in (index, flat):
        for lo in range(1200, 1350, 50):
            one.add(x[lo : lo + 50])
        one.remove_ids(np.arange(1190, 1350, 3))
    assert len(index._snapshot.graph) == 1200
    queries = x[1200:1400]
    assert recall(index.search(queries, 5)[1], flat.search(queries, 5)[1]) > 0.99


def test_removed_vectors() -> None:
    blob = 50 + 0.1 * SMALL[:200]
    index = filled(x=np.concatenate([SMALL, blob]))
    assert index.remove_ids(np.arange(1500, 1700)) == 200
    distances, ids = index.search(blob[:5], 10)  # all that are near were removed
    flat = IndexFlat(8)
    flat.add(SMALL)
    for found, wanted in zip((distances, ids), flat.search(blob[:5], 10), strict=True):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ValueError, match="id=1500 is not in the index"):
        index.reconstruct(1500)
    index.add(blob[:1], [1500])
    assert index.search(blob[:1], 1)[1] == 1500
    # From a half on, a new graph is made.
    index.remove_ids(np.arange(0, 1300))
    assert len(index._snapshot.graph) == index.ntotal == 201
    np.testing.assert_array_equal(index.search(SMALL[1300:1500], 1)[1][:, 0], np.arange(1300, 1500))
    assert index.remove_ids(np.arange(2000)) == 201 and index.ntotal == 0
    assert index.search(SMALL[:1], 1)[1] == -1
    index.add(SMALL[:50])
    assert index.search(SMALL[:1], 1)[1] == 1700


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("share", [2, 50])
def test_filters(share: int, metric: str) -> None:
    index, flat = filled(metric, ef=200), IndexFlat(8, metric)
    flat.add(SMALL)
    for one in (index, flat):
        one.remove_ids(np.arange(0, 300, 2))
    chosen = np.arange(0, 1500, share)
    how: dict[str, Any]
    for how in ({"ids": chosen}, {"exclude": np.setdiff1d(np.arange(1500), chosen)}):
        found, wanted = (one.search(SMALL[:100], 5, **how)[1] for one in (index, flat))
        assert np.isin(found, chosen).all() and recall(found, wanted) > 0.98
        assert share < 8 or (found == wanted).all()
    radius = float(flat.search(SMALL[:1], 30)[0][0, -1])
    assert np.isin(index.range_search(SMALL[:1], radius, ids=chosen)[2], chosen).all()


def test_a_store_of_a_graph(tmp_path: Path) -> None:
    store = EmbeddingStore(index=IndexHNSW(8, 8, 60))
    store.add(SMALL[:900], metadata=list(range(900)))
    store.save(tmp_path)
    store.add(SMALL[900:950], metadata=list(range(900, 950)))
    store.delete(np.arange(0, 950, 5))
    store.save(tmp_path)
    again = EmbeddingStore.load(tmp_path)
    for one in (store, again):
        hits = one.search(SMALL[:950], k=1)
        alive = np.arange(950) % 5 > 0
        np.testing.assert_array_equal(hits.ids[alive, 0], np.flatnonzero(alive))
        assert [row[0] for row in hits.metadata] == hits.ids[:, 0].tolist()


def test_equal_distances_are_ranked_by_id() -> None:
    x = np.repeat(SMALL[:100], 3, axis=0)
    ids = np.random.default_rng(3).permutation(300)
    index = IndexHNSW(8)
    index.add(x, ids)
    found = index.search(SMALL[:100], 3)
    np.testing.assert_array_equal(found[1], np.sort(ids.reshape(100, 3)))
    assert all(isinstance(part, mx.array) for part in index.search(mx.array(x[:2]), 3))


def test_the_same_calls_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    states, results = [], []
    for threads in ("1", "3"):
        monkeypatch.setenv("FLASH_KMEANS_THREADS", threads)
        index = filled(x=SMALL[:700])
        index.add(SMALL[700:])
        states.append(index.state()[1])
        results.append(index.search(SMALL, 5))
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_memory_limit_of_a_store_counts_graphs() -> None:
    store = EmbeddingStore(index=IndexHNSW(8, 16), max_memory_gb=1000 * (8 + 4 * 8) / 1e9)
    with pytest.raises(ValueError, match="max_memory_gb=4e-05 must be >= "):
        store.add(SMALL[:1000])
    store.max_memory_gb = 1000 * bytes_per_vector(IndexHNSW(8, 16)) / 1e9
    store.add(SMALL[:1000])
    assert store.search(SMALL[:1], k=1).ids == 0


def test_descriptions() -> None:
    for description in ("HNSW32", "HNSW32,Flat"):
        index: Any = index_factory(64, description, "dot")
        assert (type(index), index.m, index.metric) == (IndexHNSW, 32, "dot")
    rotated: Any = index_factory(64, "OPQ16,HNSW8")
    assert type(rotated.index) is IndexHNSW


@pytest.mark.parametrize("metric", METRICS)
def test_real_data(metric: str) -> None:
    index = IndexHNSW(64, metric=metric)
    index.add(X[:1700])
    judge(X[:1700], X[1700:], metric, index.search(X[1700:], 10), 0.98)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: IndexHNSW(8, 1), ValueError, "m=1 must be >= 2"),
        (lambda: IndexHNSW(8, 1025), ValueError, r"m=1025 must be <= 2\*\*10=1024"),
        (lambda: IndexHNSW(8, 8, 0), ValueError, "ef_construction=0 must be >= 1"),
        (lambda: IndexHNSW(8, ef=0), ValueError, "ef=0 must be >= 1"),
        (lambda: IndexHNSW(8, metric="l1"), ValueError, "metric='l1' must be one of"),
        (lambda: filled().search(SMALL[:1], 1, ef=0), ValueError, "ef=0 must be >= 1"),
        (
            lambda: filled().search(1e13 * SMALL[:1], 1),
            ValueError,
            r"x must be of magnitudes <= 2\*\*40",
        ),
        (lambda: filled().add(1e13 * SMALL), ValueError, r"x must be of magnitudes <= 2\*\*40"),
        (lambda: filled().add(SMALL[:, :3]), ValueError, r"x must have shape \(N, D\)=\(N, 8\)"),
        (lambda: IndexHNSW(8).train(SMALL[:, :3]), ValueError, "x must have shape"),
    ],
)
def test_wrong_use(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_without_voyager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    filled(x=SMALL[:50]).save(tmp_path / "index")
    monkeypatch.setitem(sys.modules, "voyager", None)
    for call in (
        lambda: IndexHNSW(8),
        lambda: index_factory(8, "HNSW16"),
        lambda: load_index(tmp_path / "index"),
    ):
        with pytest.raises(ImportError, match=r"pip install 'flash-kmeans-mlx\[hnsw\]'"):
            call()
