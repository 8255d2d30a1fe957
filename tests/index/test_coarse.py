"""Lists that are found by a graph of their centroids."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.index import (
    IndexIVFFlat,
    IndexIVFPQ,
    coarse,
    index_factory,
    index_file,
    load_index,
)
from flash_kmeans_mlx.index.centroids import Centroids
from flash_kmeans_mlx.index.coarse import MANY, graph_of, list_of, lists_near

METRICS = ("euclidean", "cosine", "dot")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((3000, 16)).astype(np.float32)
CENTROIDS = RNG.standard_normal((1000, 16)).astype(np.float32)


@pytest.fixture
def graph_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are used for any number of vectors."""
    monkeypatch.setattr(coarse, "MANY", 1 << 30)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.usefixtures("graph_for_all")
def test_most_lists_are_the_nearest(metric: str) -> None:
    graph = graph_of(CENTROIDS, metric, "HNSW32")
    labels = list_of(X, CENTROIDS, metric, graph, None)
    assert (labels == np.asarray(fk.assign(X, CENTROIDS, metric))).mean() > 0.99
    found = lists_near(X[:300], Centroids(CENTROIDS, metric), 20, graph, "cpu")
    wanted = np.asarray(fk.knn(X[:300], CENTROIDS, 20, metric)[1])
    assert (found == wanted).mean() > 0.95 and found.dtype == np.int64
    np.testing.assert_array_equal(
        lists_near(X[:5], Centroids(CENTROIDS, metric), 400, graph, "cpu"),
        fk.knn(X[:5], CENTROIDS, 400, metric)[1],
        err_msg="a large share of the lists is found exactly",
    )


def test_many_vectors_are_exact() -> None:
    class Unused:
        def __len__(self) -> int:
            return len(CENTROIDS)

        def search(self, *_: Any) -> None:
            pytest.fail("exact search is faster")

    unused: Any = Unused()
    labels = list_of(X[:MANY], CENTROIDS, "euclidean", unused, None)
    np.testing.assert_array_equal(labels, fk.assign(X[:MANY], CENTROIDS))
    found = lists_near(X[:MANY], Centroids(CENTROIDS, "euclidean"), 3, unused, "cpu")
    np.testing.assert_array_equal(found, fk.knn(X[:MANY], CENTROIDS, 3)[1])


@pytest.mark.usefixtures("graph_for_all")
@pytest.mark.parametrize("codes", ["Flat", "PQ4x4"])
def test_an_index(codes: str, tmp_path: Path) -> None:
    plain, index = (index_factory(16, f"IVF{kind},{codes}") for kind in ("60", "60_HNSW8"))
    for one in (plain, index):
        one.train(X)
        one.add(X[:2000])
    assert isinstance(index, (IndexIVFFlat, IndexIVFPQ)) and isinstance(plain, type(index))
    assert index.coarse_quantizer == "HNSW8" and index._snapshot.graph is not None
    np.testing.assert_array_equal(index.centroids, plain.centroids)
    assert (
        index.search(X[:100], 5, nprobe=8)[1] == plain.search(X[:100], 5, nprobe=8)[1]
    ).mean() > 0.97
    index.save(tmp_path / "index")
    again = load_index(tmp_path / "index")
    for one in (index, again):
        one.add(X[2000:2050])
        one.remove_ids(np.arange(500))
    for name, array in index.state()[1].items():
        np.testing.assert_array_equal(array, again.state()[1][name], err_msg=name)
    for found, wanted in zip(index.search(X[:9], 5), again.search(X[:9], 5), strict=True):
        np.testing.assert_array_equal(found, wanted)
    # A file of the same lists without a graph has one made.
    parameters, arrays = index.state()
    graph = arrays.pop("graph")
    index_file.write(tmp_path / "index", type(index).__name__, parameters, arrays)
    np.testing.assert_array_equal(load_index(tmp_path / "index").state()[1]["graph"], graph)


def test_damage(tmp_path: Path) -> None:
    index = IndexIVFFlat(16, 60, coarse_quantizer="HNSW8")
    index.train(X)
    parameters, arrays = index.state()
    other = graph_of(CENTROIDS[:60], "euclidean", "HNSW8")
    fewer = graph_of(index.state()[1]["centroids"][:50], "euclidean", "HNSW8")
    assert other is not None and fewer is not None
    for change, message in (
        ({"graph": other.state()}, "its vectors are not the rows"),
        ({"graph": fewer.state()}, "of 50 centroids must have 60"),
        ({"graph": arrays["graph"][:-4]}, "layers"),
    ):
        index_file.write(tmp_path / "index", "IndexIVFFlat", parameters, arrays | change)
        with pytest.raises(ValueError, match=f"damaged IndexIVFFlat .graph:? .*{message}"):
            load_index(tmp_path / "index")
    index_file.write(
        tmp_path / "index", "IndexIVFFlat", parameters | {"coarse_quantizer": "IVF9"}, arrays
    )
    with pytest.raises(ValueError, match="coarse_quantizer='IVF9' must be None or like 'HNSW32'"):
        load_index(tmp_path / "index")


@pytest.mark.parametrize("wrong", ["hnsw32", "HNSW", "", 32, "HNSW32,Flat"])
def test_other_quantizers_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"coarse_quantizer=.* must be None or like 'HNSW32'"):
        IndexIVFFlat(16, 60, coarse_quantizer=wrong)


def test_impossible_links_are_refused() -> None:
    with pytest.raises(ValueError, match="m=1 must be >= 2"):
        IndexIVFFlat(16, 60, coarse_quantizer="HNSW1")


def test_without_voyager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "voyager", None)
    with pytest.raises(ImportError, match=r"pip install 'flash-kmeans-mlx\[hnsw\]'"):
        index_factory(16, "IVF60_HNSW32,Flat")
