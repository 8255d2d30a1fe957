"""Indexes of faiss: trained by us, and converted both ways."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import faiss
import numpy as np
import pytest
from exact_neighbours import truth
from helpers import Array, digits, low_rank
from small_indexes import State, restore_index, state

from flash_kmeans_mlx.index import (
    Index,
    IndexFlat,
    from_faiss,
    index_factory,
    to_faiss,
    train_faiss,
)

X = digits()
pytestmark = pytest.mark.usefixtures("faiss_on_one_thread")
METRICS = {"euclidean": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}
DESCRIPTIONS = ["Flat", "IVF8,Flat", "PQ8x3", "IVF8,PQ8x3", "OPQ8,IVF8,PQ8x3", "OPQ8,PQ8x3"]


@cache
def trained_state(description: str, metric: str) -> State:
    index: Any = index_factory(64, description, metric)
    if description.startswith("OPQ"):
        index.transform.niter = 2
    index.train(X)
    return state(index)


def filled(description: str, metric: str, ids: Array | None) -> Index:
    index = restore_index(*trained_state(description, metric))
    index.add(X, ids)
    return index


def same_search(ours: Any, theirs: Any) -> None:
    """Ids may differ where codes are equal: what matters is that theirs stand for vectors at these distances in ours."""
    distances, ids = theirs.search(X[:20], 6)
    np.testing.assert_allclose(ours.search(X[:20], 6)[0], distances, rtol=1e-4, atol=1e-2)
    for query, row, own in zip(X.astype(np.float64), distances, ids, strict=False):
        kept = ours.reconstruct_batch(own).astype(np.float64)
        expected = truth(query[None], kept, ours.metric)[0]
        np.testing.assert_allclose(
            -expected if ours.metric == "dot" else expected, row, rtol=1e-4, atol=1e-2
        )


@pytest.mark.parametrize(
    "ids", [None, np.random.default_rng(0).permutation(5000)[:1797]], ids=["own", "given"]
)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_there_and_back(description: str, metric: str, ids: Array | None) -> None:
    index = filled(description, metric, ids)
    inner: Any = getattr(index, "index", index)
    if "IVF" in description:
        inner.nprobe = 3
    twin = to_faiss(index)
    assert isinstance(twin, faiss.Index) and twin.ntotal == 1797 and twin.is_trained
    same_search(index, twin)
    again: Any = from_faiss(twin)
    assert type(again) is type(index) and again.metric == metric and again.ntotal == 1797
    for mine, other in zip(index.search(X[:50], 6), again.search(X[:50], 6), strict=True):
        np.testing.assert_array_equal(mine, other)
    name = 0 if ids is None else int(ids[0])
    np.testing.assert_array_equal(again.reconstruct(name), index.reconstruct(name))
    again.add(X[:1])
    assert again.ntotal == 1798


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("description", ["SQ8", "IVF8,SQ8", "IVF8,SQfp16"])
def test_scalar_quantizers_there_and_back(description: str, metric: str) -> None:
    """Up to rounding: ranges of faiss have no mean."""
    index: Any = filled(description, metric, None)
    if "IVF" in description:
        index.nprobe = 3
    again: Any = from_faiss(to_faiss(index))
    assert type(again) is type(index) and again.qtype == index.qtype and again.ntotal == 1797
    for one in (index, again):
        same_search(one, to_faiss(index))
    theirs = faiss.index_factory(64, description, METRICS[metric])
    theirs.train(X)
    theirs.add(X)
    same_search(from_faiss(theirs), theirs)


def test_scalar_quantizers_that_are_not_converted() -> None:
    index = index_factory(64, "SQfp16")
    assert index.is_trained and to_faiss(index).is_trained
    index.train(X)
    with pytest.raises(ValueError, match="vectors are coded less their mean"):
        to_faiss(index)
    for qtype in (faiss.ScalarQuantizer.QT_4bit, faiss.ScalarQuantizer.QT_8bit_uniform):
        theirs = faiss.IndexScalarQuantizer(64, qtype)
        theirs.train(X)
        with pytest.raises(ValueError, match="must be QT_8bit or QT_fp16"):
            from_faiss(theirs)


def test_empty_indexes_too() -> None:
    for description in DESCRIPTIONS[:4]:
        index = index_factory(64, description)
        index.train(X)
        again = from_faiss(to_faiss(index))
        assert again.is_trained and again.ntotal == 0
        again.add(X[:3])
        index.add(X[:3])
        np.testing.assert_array_equal(again.search(X[:3], 2)[0], index.search(X[:3], 2)[0])


@pytest.mark.parametrize("metric", ["l1", "linf"])
def test_flat_indexes_of_other_metrics(metric: str) -> None:
    index = IndexFlat(64, metric)
    index.add(X)
    same_search(index, to_faiss(index))
    assert from_faiss(to_faiss(index)).metric == metric


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "description",
    ["IVF8,Flat", "PQ8x3", "IVF8,PQ8x3", "IDMap2,IVF8,Flat", "Flat", "IVF8,Flat,RFlat"],
)
def test_training(description: str, metric: str) -> None:
    index: Any = faiss.index_factory(64, description, METRICS[metric])
    index = train_faiss(index, X, seed=1)
    assert index.is_trained
    if description.startswith("IDMap"):
        index.add_with_ids(X, np.arange(1797))
    else:
        index.add(X)
    ours = from_faiss(index)
    same_search(ours, index)
    if "IVF" in description:
        lists: Any = faiss.extract_index_ivf(index)
        assert lists.invlists.imbalance_factor() < 3


def test_training_of_rotations() -> None:
    x = low_rank(11000, 16, 6)
    index: Any = faiss.IndexPreTransform(faiss.OPQMatrix(16, 4), faiss.IndexPQ(16, 4, 8))
    train_faiss(index, x, max_iters=3)
    rotation: Any = faiss.downcast_VectorTransform(index.chain.at(0))
    matrix = faiss.vector_to_array(rotation.A).reshape(16, 16)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-5)
    plain: Any = faiss.IndexPQ(16, 4, 8)
    train_faiss(plain, x, max_iters=3)
    error = []
    for one in (index, plain):
        one.add(x)
        error.append(np.square(one.reconstruct_n(0, len(x)) - x).sum())
    assert error[0] < 0.8 * error[1]


def test_training_is_as_good_as_that_of_faiss() -> None:
    x = low_rank(6000, 32, 8)
    queries, x = x[:200], x[200:]
    best = faiss.knn(queries, x, 10)[1]
    recall = []
    for train in (lambda index: train_faiss(index, x), lambda index: index.train(x)):
        index: Any = faiss.index_factory(32, "IVF16,PQ8x6")
        # It would order codewords for searches that are not made here, which takes seconds.
        index.do_polysemous_training = False
        train(index)
        index.add(x)
        index.nprobe = 4
        found = index.search(queries, 10)[1]
        recall.append(
            np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, best, strict=True)])
        )
    ours = index_factory(32, "IVF16,PQ8x6")
    ours.train(x)
    ours.add(x)
    found = ours.search(queries, 10, nprobe=4)[1]  # pyright: ignore[reportCallIssue]
    recall.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, best, strict=True)]))
    assert recall[0] > recall[1] - 0.01 and recall[2] > recall[1] - 0.01


def test_ids_around_lists_are_kept() -> None:
    """The ids in lists are places among those of an IndexIDMap."""
    index: Any = faiss.index_factory(64, "IVF4,Flat")
    train_faiss(index, X)
    outer: Any = faiss.IndexIDMap2(index)
    ids = np.random.default_rng(0).permutation(5000)[:1797]
    outer.add_with_ids(X, ids)
    np.testing.assert_array_equal(from_faiss(outer).reconstruct_batch(ids[:50]), X[:50])


def test_options_reach_both_fits() -> None:
    one, other, same = (
        train_faiss(faiss.index_factory(64, "IVF8,PQ8x3"), X, seed=seed, max_iters=2, backend="cpu")
        for seed in (0, 1, 0)
    )
    for values in (
        lambda i: i.quantizer.reconstruct_n(0, 8),
        lambda i: faiss.vector_to_array(i.pq.centroids),
    ):
        np.testing.assert_array_equal(values(one), values(same))
        assert (values(one) != values(other)).any()
    with pytest.raises(ValueError, match="max_iters=-1 must be >= 0"):
        train_faiss(faiss.index_factory(64, "PQ8x3"), X, max_iters=-1)


def test_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = index_factory(64, "PQ8x3")
    with pytest.raises(ValueError, match="to_faiss needs a trained index"):
        to_faiss(trained)
    with pytest.raises(ValueError, match="metric='cosine' is none of faiss's"):
        to_faiss(IndexFlat(64, "cosine"))
    with pytest.raises(TypeError, match="index must be an Index, got int"):
        to_faiss(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="index must be an index of faiss, got IndexPQ"):
        train_faiss(trained, X)
    with pytest.raises(TypeError, match="faiss's class IndexHNSWFlat is not supported"):
        from_faiss(faiss.IndexHNSWFlat(64, 8))
    with pytest.raises(TypeError, match="faiss's class IndexHNSWFlat is not supported"):
        train_faiss(faiss.IndexHNSWFlat(64, 8), X)
    with pytest.raises(ValueError, match="from_faiss needs a trained index"):
        from_faiss(faiss.IndexPQ(64, 8, 3))
    with pytest.raises(ValueError, match="nbits=9 must be <= 8"):
        train_faiss(faiss.IndexPQ(64, 8, 9), np.repeat(X, 12, axis=0))
    flat = faiss.IndexFlatL2(64)
    flat.add(X)
    with pytest.raises(
        ValueError, match="train_faiss needs an empty index, this one holds ntotal=1797"
    ):
        train_faiss(flat, X)
    twice = faiss.IndexIDMap2(faiss.IndexFlatL2(64))
    twice.add_with_ids(X[:2], np.array([4, 4]))
    with pytest.raises(ValueError, match="ids must be distinct, got 4 more than once"):
        from_faiss(twice)
    lists: Any = faiss.index_factory(64, "IVF4,PQ8x3")
    lists.by_residual = False
    lists.train(X)
    with pytest.raises(ValueError, match="by_residual=False"):
        from_faiss(lists)
    monkeypatch.setitem(sys.modules, "faiss", None)
    for call in (
        lambda: to_faiss(IndexFlat(64)),
        lambda: from_faiss(flat),
        lambda: train_faiss(flat, X),
    ):
        with pytest.raises(ImportError, match="faiss is not installed: pip install faiss-cpu"):
            call()
