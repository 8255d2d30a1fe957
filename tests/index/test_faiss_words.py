"""What users of faiss write: run on faiss and on our indexes where faiss has it, and by kind of index."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_indexes import MAKE, NLIST, D, X, fingerprint, trained, with_gaps

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import index as ours
from flash_kmeans_mlx.index import (
    IndexFlat,
    IndexIVFFlat,
    IndexPQ,
    SearchParametersIVF,
    deserialize_index,
    index_factory,
    serialize_index,
)

KINDS = list(MAKE)
LISTS = [kind for kind in KINDS if "ivf" in kind]
Q = X[390:]


@pytest.fixture(params=["ours", "faiss"])
def lib(request: pytest.FixtureRequest) -> Any:
    """This package or faiss: what both understand must give the same results."""
    return ours if request.param == "ours" else pytest.importorskip("faiss")


def flat(lib: Any) -> Any:
    index = lib.index_factory(D, "Flat", lib.METRIC_L2)
    index.add(X[:100])
    return index


def lists(lib: Any, metric: str = "METRIC_L2") -> Any:
    index = lib.index_factory(D, "IVF4,Flat", getattr(lib, metric))
    index.train(X)
    index.add(X[:200])
    return index


@pytest.mark.parametrize("metric", ["METRIC_L2", "METRIC_INNER_PRODUCT"])
def test_both_search_alike(lib: Any, metric: str) -> None:
    scores = X[:200].astype(float) @ Q.T
    if metric == "METRIC_L2":
        scores = np.square(X[:200, None].astype(float) - Q).sum(2)
    best = np.argsort(-scores if metric != "METRIC_L2" else scores, axis=0)[:3].T
    index = lists(lib, metric)
    index.nprobe = 64  # more than there are
    assert index.metric_type == getattr(lib, metric) and not index.verbose
    index.verbose = False
    np.testing.assert_array_equal(index.search(Q, 3)[1], best)
    np.testing.assert_array_equal(index.assign(Q, 3), best)
    distances, ids, rows = index.search_and_reconstruct(Q, 3)
    np.testing.assert_allclose(distances, np.take_along_axis(scores, best.T, 0).T, rtol=1e-5)
    np.testing.assert_array_equal(rows, X[ids])
    assert index.quantizer.ntotal == 4 and index.quantizer.reconstruct_n(0, 4).shape == (4, D)


def test_both_take_empty_batches(lib: Any) -> None:
    for index in (flat(lib), lists(lib)):
        n = index.ntotal
        index.add(X[:0])
        assert index.ntotal == n
        distances, ids = index.search(X[:0], 3)
        assert distances.shape == ids.shape == (0, 3)
        lims, distances, ids = index.range_search(X[:0], 1.0)
        assert lims.tolist() == [0] and len(distances) == len(ids) == 0


def test_both_take_parameters(lib: Any) -> None:
    index = lists(lib)
    index.nprobe = 1
    chosen = [
        (lib.IDSelectorRange(20, 40), range(20, 40)),
        (lib.IDSelectorBatch(np.array([3, 50, 7])), [3, 50, 7]),
        (lib.IDSelectorArray(np.array([3, 50, 7])), [3, 50, 7]),
        (lib.IDSelectorBitmap(np.array([1, 128], np.uint8)), [0, 15]),
    ]
    for selector, expected in chosen:
        params = lib.SearchParametersIVF(sel=selector, nprobe=4)
        found = index.search(Q, 30, params=params)[1]
        assert set(found[0].tolist()) - {-1} == set(expected)
        found = flat(lib).search(Q, 30, params=lib.SearchParameters(sel=selector))[1]
        assert set(found[0].tolist()) - {-1} == set(expected)
    for selector, n in zip([s for s, _ in chosen], (20, 3, 0, 2), strict=True):
        assert index.remove_ids(selector) == n
    assert index.ntotal == 175


def test_both_know_the_verbs(lib: Any) -> None:
    index = lists(lib)
    other = lists(lib)
    other.reset()
    assert other.ntotal == 0 and other.is_trained
    other.add_with_ids(X[:5], np.arange(500, 505))
    other.nprobe = index.nprobe = 4
    assert other.search(X[:5], 1)[1].ravel().tolist() == [500, 501, 502, 503, 504]
    index.merge_from(other, 10)
    assert (index.ntotal, other.ntotal) == (205, 0)
    assert sorted(index.search(X[:1], 2)[1][0]) == [0, 510]
    index.copy_subset_to(other, 1, 100, 7)
    index.copy_subset_to(other, 0, 10, 13)
    assert sorted(other.search(X[:1], 9)[1][0])[-5:] == [7, 10, 11, 12, 107]
    np.testing.assert_array_equal(flat(lib).reconstruct_n(4, 3), X[4:7])
    assert flat(lib).reconstruct_n().shape == (100, D)
    index = lists(lib)
    if lib is not ours:
        index.make_direct_map()
    index.update_vectors(np.array([5, 100]), X[300:302])
    np.testing.assert_array_equal(index.reconstruct_batch([5, 100]), X[300:302])


def test_both_write_bytes(lib: Any) -> None:
    index = lists(lib)
    data = lib.serialize_index(index)
    assert data.dtype == np.uint8 and data.ndim == 1
    again = lib.deserialize_index(data)
    np.testing.assert_array_equal(again.search(Q, 3)[1], index.search(Q, 3)[1])
    assert copy.deepcopy(index).ntotal == 200


def test_codes_are_those_of_faiss() -> None:
    pytest.importorskip("faiss")
    index = trained("pq")
    assert isinstance(index, IndexPQ)
    codes = index.sa_encode(X)
    theirs = ours.to_faiss(index)
    np.testing.assert_array_equal(codes, theirs.sa_encode(X))
    np.testing.assert_array_equal(index.sa_decode(codes), theirs.sa_decode(codes))


def test_a_selector_of_faiss_is_taken() -> None:
    faiss = pytest.importorskip("faiss")
    selector = faiss.IDSelectorNot(faiss.IDSelectorRange(2, 398))
    params = faiss.SearchParametersIVF(sel=selector, nprobe=NLIST)
    index = trained("ivf")
    index.add(X)
    index.nprobe = 1
    assert set(index.search(Q, 9, params=params)[1][0].tolist()) == {0, 1, 398, 399, -1}
    assert index.remove_ids(selector) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_attributes(kind: str) -> None:
    index: Any = with_gaps(kind)
    name = type(index).__name__
    for wrong in ("nprobes", "verbos", "zzz"):
        with pytest.raises(AttributeError, match=f"an {name} has no attribute '{wrong}'"):
            setattr(index, wrong, 1)
    with pytest.raises(AttributeError, match="did you mean 'verbose'"):
        index.verbos = True
    with pytest.raises(AttributeError, match=f"metric of an {name} is fixed"):
        index.metric = "dot"
    with pytest.raises(AttributeError):
        index.ntotal = 0
    if kind in LISTS:
        with pytest.raises(AttributeError, match="did you mean 'nprobe'"):
            index.nprobs = 1
        with pytest.raises(AttributeError, match=r"nlist of an IndexIVF\w+ is fixed"):
            index.nlist = 9
        index.nprobe = 1
        one = index.search(Q, 150)[1]
        index.nprobe = 64
        assert (index.nprobe, index.nlist) == (NLIST, NLIST)
        assert (index.search(Q, 150)[1] >= 0).sum() > (one >= 0).sum()
    else:
        with pytest.raises(AttributeError):
            index.nprobe = 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_index_takes_nprobe_and_parameters(kind: str) -> None:
    index = with_gaps(kind)
    few, many = index.search(Q, 130, nprobe=1), index.search(Q, 130, nprobe=10**6)
    np.testing.assert_array_equal(many[1], index.search(Q, 130)[1])
    assert ((few[1] < 0).any()) == (kind in LISTS)
    params = SearchParametersIVF(sel=range(50), nprobe=1)
    expected = index.search(Q, 150, ids=range(50), nprobe=1)
    np.testing.assert_array_equal(index.search(Q, 150, params=params)[1], expected[1])
    np.testing.assert_array_equal(
        index.search(Q, 150, params=SimpleNamespace(nprobe=1), ids=range(50))[1], expected[1]
    )
    radius = float(few[0][0, 5])
    found = index.range_search(Q, radius, params=params)
    np.testing.assert_array_equal(
        found[2], index.range_search(Q, radius, ids=range(50), nprobe=1)[2]
    )
    with pytest.raises(ValueError, match=r"ids must be None where params.sel is given"):
        index.search(Q, 1, params=params, ids=[3])
    with pytest.raises(ValueError, match="nprobe=0 must be >= 1"):
        index.search(Q, 1, nprobe=0)
    with pytest.raises(TypeError, match="nprobe='2' must be an integer"):
        index.search(Q, 1, nprobe="2")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", KINDS)
def test_copies(kind: str) -> None:
    index: Any = with_gaps(kind)
    index.verbose = True
    before = fingerprint(index)
    copies: list[Any] = [
        copy.copy(index),
        copy.deepcopy(index),
        pickle.loads(pickle.dumps(index)),
        deserialize_index(serialize_index(index)),
    ]
    for other in copies:
        assert fingerprint(other) == before
        other.remove_ids(np.arange(0, 2000, 2))
        other.add(X[:50])
        assert fingerprint(index) == before
    assert [other.verbose for other in copies] == [True, True, True, False]
    with pytest.raises(AttributeError):
        copies[0].nprobes = 1


def test_copies_keep_the_backend() -> None:
    index: Any = index_factory(D, "OPQ4,IVF3,PQ4x3", backend="reference")
    other = copy.deepcopy(index)
    parts = (other, other.index, other.index.pq, other.transform._quantizer)
    assert [part.backend for part in parts] == ["reference"] * 4
    assert not other.is_trained
    other.backend = "portable"
    assert other.index.backend == "portable"


def test_damaged_bytes_are_refused() -> None:
    data = serialize_index(with_gaps("ivfpq"))
    for at in (3, 40, len(data) // 2, len(data) - 1):
        wrong = data.copy()
        wrong[at] ^= 255
        with pytest.raises(ValueError, match=r"damaged|format|header|JSON|save"):
            deserialize_index(wrong)
    with pytest.raises(ValueError, match="truncated"):
        deserialize_index(data[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batches(kind: str) -> None:
    index = with_gaps(kind)
    before = fingerprint(index)
    index.add(X[:0])
    index.add(X[:0], [])
    index.add_with_ids(X[:0], np.zeros(0, np.int64))
    index.update_vectors([], X[:0])
    assert index.remove_ids([]) == 0 and index.reconstruct_n(0, 0).shape == (0, D)
    assert fingerprint(index) == before
    for other in (index, trained(kind)):
        assert [a.shape for a in other.search(X[:0], 3)] == [(0, 3)] * 2
        assert [a.shape for a in other.search_and_reconstruct(X[:0], 3)] == [
            (0, 3),
            (0, 3),
            (0, 3, D),
        ]
        assert [a.tolist() for a in other.range_search(X[:0], 1.0)] == [[0], [], []]
    with pytest.raises(ValueError, match="no empty dimension"):
        index.search(np.zeros((0, D + 1)), 1)
    with pytest.raises(ValueError, match="ids must have shape"):
        index.add(X[:0], [1])


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
@pytest.mark.parametrize("kind", KINDS)
def test_verbs(kind: str, metric: str) -> None:
    index, one, two = (trained(kind, metric) for _ in range(3))
    index.add(X[:300])
    one.add(X[:200])
    two.add(X[200:300])
    with pytest.raises(ValueError, match="ids must be new, got 0, which the index holds"):
        one.merge_from(two)
    assert (one.ntotal, two.ntotal) == (200, 100)
    one.merge_from(two, one.ntotal)
    two.merge_from(trained(kind, metric))
    assert (one.ntotal, two.ntotal) == (300, 0)
    np.testing.assert_array_equal(one.search(Q, 300)[1], index.search(Q, 300)[1])
    one.add(X[300:301])
    assert one.reconstruct(300).shape == (D,)

    index.copy_subset_to(two, 1, 7, 3)
    index.copy_subset_to(two, 0, 291, 293)
    kept = sorted({*range(3, 300, 7), 291, 292})
    assert sorted(two.search(Q[:1], 300)[1][0].tolist())[-len(kept) :] == kept
    np.testing.assert_array_equal(two.reconstruct_batch(kept), index.reconstruct_batch(kept))

    index.update_vectors([7, 3], X[350:352])
    assert index.ntotal == 300
    with pytest.raises(ValueError, match="1 of ids are not in the index"):
        index.update_vectors([7, 999], X[:2])
    fresh = trained(kind, metric)
    fresh.add(X[350:352], [7, 3])
    np.testing.assert_array_equal(index.reconstruct_batch([7, 3]), fresh.reconstruct_batch([7, 3]))
    distances, ids, rows = index.search_and_reconstruct(Q, 310, exclude=[5])
    assert rows.shape == (len(Q), 310, D) and np.isnan(rows[ids < 0]).all()
    np.testing.assert_array_equal(rows[0, :299], index.reconstruct_batch(ids[0, :299]))
    np.testing.assert_array_equal(distances, index.search(Q, 310, exclude=[5])[0])

    index.reset()
    assert (index.ntotal, index.is_trained) == (0, True)
    index.add(X[:2])
    assert index.assign(X[:2]).tolist() == [[0], [1]] or "pq" in kind
    assert index.remove_ids(range(1, 10**9)) == 1
    assert index.remove_ids(np.ones(3, bool)) == 1


def test_what_does_not_merge() -> None:
    index = IndexFlat(D)
    with pytest.raises(TypeError, match="other must be an IndexFlat, got IndexPQ"):
        index.merge_from(trained("pq"))
    with pytest.raises(TypeError, match="other must be an IndexFlat, got list"):
        index.merge_from([])
    with pytest.raises(ValueError, match="other must be another index"):
        index.merge_from(index)
    with pytest.raises(ValueError, match="metric of other must be the same"):
        index.merge_from(IndexFlat(D, "dot"))
    other = IndexIVFFlat(D, NLIST, niter=0)
    other.train(X[:200])
    with pytest.raises(ValueError, match="centroids of other must be the same"):
        trained("ivf").merge_from(other)
    with pytest.raises(fk.NotFittedError):
        IndexIVFFlat(D, NLIST).merge_from(IndexIVFFlat(D, NLIST))


def test_metrics_by_number() -> None:
    for kind in (IndexFlat, lambda d, m: IndexIVFFlat(d, 3, m), lambda d, m: IndexPQ(d, 4, 3, m)):
        assert kind(D, ours.METRIC_INNER_PRODUCT).metric == "dot"
        assert kind(D, ours.METRIC_L2).metric_type == ours.METRIC_L2
        index = kind(D, "cosine")
        assert not hasattr(index, "metric_type")
    index = ours.IndexIVFPQ(D, 3, 4, 3, metric=ours.METRIC_INNER_PRODUCT, niter=1)
    index.train(X)
    index.add(X)
    assert index.search(Q, 3)[0][0, 0] > 0
    with pytest.raises(ValueError, match="metric=7 must be one of"):
        IndexFlat(D, 7)


def test_the_attribute_verbose_prints(capsys: pytest.CaptureFixture[str]) -> None:
    index: Any = index_factory(D, "IVF3,Flat")
    index.verbose = True
    index.train(X)
    assert "lists: iteration 1" in capsys.readouterr().out
