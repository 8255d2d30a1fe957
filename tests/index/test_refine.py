"""Searches of IndexRefine against exact search and brute force; its arguments, and those of faiss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exact_neighbours import truth
from helpers import every_backend
from refined_indexes import DESCRIPTIONS, IDS, QUERIES, RNG, ROWS, N, flat, refined, same
from small_indexes import D, fingerprint, restore_index

from flash_kmeans_mlx.index import (
    Index,
    IndexFlat,
    IndexIVFPQ,
    IndexPQ,
    IndexPreTransform,
    IndexRefine,
    IndexRefineSearchParameters,
    NormalizationTransform,
    SearchParametersIVF,
    from_faiss,
    index_factory,
    to_faiss,
)


@pytest.mark.parametrize("metric", Index.metrics)
@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_with_every_vector_a_candidate(description: str, metric: str) -> None:
    index = refined(description, metric)
    options: dict[str, Any] = {"k_factor": 1e9, "nprobe": 5}
    for k in (1, 30, N, N + 5):
        same(index.search(QUERIES, k, **options), flat(metric).search(QUERIES, k))
    distances, _ = flat(metric).search(QUERIES, 200)
    radius = float(distances[5, 170])
    if "HNSW" not in description:
        expected = flat(metric).range_search(QUERIES, radius)
        same(index.range_search(QUERIES, radius, **options), expected)
    index.remove_ids(IDS[:300])
    options["exclude"] = IDS[300:310]
    same(index.search(QUERIES, 9, **options), flat(metric).search(QUERIES, 9, ids=IDS[310:]))
    same((index.reconstruct_batch(IDS[300:]),), (ROWS[300:],))


@every_backend
@pytest.mark.parametrize("metric", Index.metrics)
def test_on_every_backend(metric: str, backend: str) -> None:
    index = refined("PQ4x3", metric, backend)
    same(index.search(QUERIES, 20, k_factor=N), flat(metric, backend).search(QUERIES, 20))
    assert index.search(QUERIES[:0], 3)[1].shape == (0, 3)


@pytest.mark.parametrize("k_factor", [1, 1.7, 6])
@pytest.mark.parametrize("metric", Index.metrics)
@pytest.mark.parametrize("description", ["PQ4x3", "OPQ4,IVF5,PQ4x3"])
def test_with_some_candidates(description: str, metric: str, k_factor: float) -> None:
    """The candidates are those of the base index, ranked by brute force."""
    index, k = refined(description, metric), 7
    of_id = dict(zip(IDS.tolist(), ROWS, strict=True))
    _, candidates = index.base_index.search(QUERIES, int(k * k_factor), nprobe=2)
    distances, ids = index.search(QUERIES, k, nprobe=2, k_factor=k_factor)
    for query, among, near, found in zip(QUERIES, candidates, distances, ids, strict=True):
        held = np.sort(among[among >= 0])
        rows = np.stack([of_id[i] for i in held.tolist()]).astype(np.float64)
        every = truth(query[None].astype(np.float64), rows, metric)[0]
        order = np.lexsort((held, every))[:k]
        sign = -1 if metric == "dot" else 1
        np.testing.assert_array_equal(found[: len(order)], held[order])
        np.testing.assert_allclose(near[: len(order)], sign * every[order], rtol=1e-6, atol=1e-6)
        assert (found[len(order) :] == -1).all()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
@pytest.mark.parametrize("outer", [False, True])
def test_filters_are_as_if_there_were_no_others(share: float, outer: bool) -> None:
    index = refined("PQ4x3")
    if outer:
        index = IndexPreTransform(NormalizationTransform(D), index)
    kept = IDS[RNG.random(N) < share]
    other = restore_index(type(index).__name__, *index.state())
    other.remove_ids(np.setdiff1d(IDS, kept))
    for k_factor in (1, 3):
        found = index.search(QUERIES, 8, ids=kept, k_factor=k_factor)
        same(found, other.search(QUERIES, 8, k_factor=k_factor))
    places = other._places(other._snapshot, np.sort(kept)[:40])
    same(
        other._search(other._snapshot, QUERIES, 8, places),
        other.search(QUERIES, 8, ids=np.sort(kept)[:40]),
    )


def test_range_search_with_some_candidates() -> None:
    index = refined("PQ4x3")
    lims, distances, ids = index.range_search(QUERIES, 6.0, k_factor=1)
    every = flat().range_search(QUERIES, 6.0)
    assert 0 < len(ids) <= len(every[2]) and (distances < 6.0).all()
    for i in range(len(QUERIES)):
        found, true = ids[lims[i] : lims[i + 1]], every[2][every[0][i] : every[0][i + 1]]
        assert len(np.unique(found)) == len(found) and np.isin(found, true).all()


def test_more_candidates_find_more() -> None:
    index, (_, true) = refined("PQ2x3"), flat().search(ROWS[:100], 5)
    shares = []
    for k_factor in (1, 4, 40):
        found = index.search(ROWS[:100], 5, k_factor=k_factor)[1]
        shares.append(np.mean([np.isin(a, b).mean() for a, b in zip(found, true, strict=True)]))
    assert shares == sorted(shares) and shares[0] < shares[1] - 0.1 < shares[2] - 0.2


def test_k_factor() -> None:
    index = refined("IVF5,PQ4x3")
    assert index.k_factor == 4.0 and index.search(QUERIES, 3)[1].shape == (13, 3)
    params = IndexRefineSearchParameters(
        sel=range(2000), k_factor=50, base_index_params=SearchParametersIVF(nprobe=5)
    )
    expected = index.search(QUERIES, 3, k_factor=50, nprobe=5, ids=range(2000))
    same(index.search(QUERIES, 3, params=params), expected)
    same(index.search(QUERIES, 3, params=params, k_factor=50.0), expected)
    index.k_factor, index.nprobe = 50, 5
    same(index.search(QUERIES, 3, ids=range(2000)), expected)
    assert index.base_index.nprobe == 5 and (index.nlist, index.k_factor) == (5, 50.0)
    outer: Any = IndexPreTransform(NormalizationTransform(D), index)
    outer.k_factor = 2
    assert (outer.k_factor, index.k_factor) == (2.0, 2.0)
    for wrong in (0.5, np.nan, np.inf, -1):
        with pytest.raises(ValueError, match=r"k_factor=.* must be >= 1 and finite"):
            index.k_factor = wrong
        with pytest.raises(ValueError, match=r"k_factor=.* must be >= 1 and finite"):
            index.search(QUERIES, 3, k_factor=wrong)
    for wrong in ("4", True):
        with pytest.raises(TypeError, match=r"k_factor=.* must be a number"):
            index.search(QUERIES, 3, params=SimpleNamespace(k_factor=wrong))
    same(flat().search(QUERIES, 3, k_factor=9), flat().search(QUERIES, 3))  # without effect
    with pytest.raises(AttributeError, match="base_index of an IndexRefine is fixed"):
        index.base_index = flat()
    with pytest.raises(AttributeError, match="did you mean 'k_factor'"):
        index.k_facto = 3


def test_arguments() -> None:
    for wrong in (None, IndexRefine(IndexPQ(D, 4))):
        with pytest.raises(TypeError, match="base_index must be an Index and no IndexRefine"):
            IndexRefine(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="refine_index must be an IndexFlat or None, got IndexPQ"):
        IndexRefine(IndexPQ(D, 4), IndexPQ(D, 4))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"refine_index.d=5 must be base_index.d=8"):
        IndexRefine(IndexPQ(D, 4), IndexFlat(5))
    with pytest.raises(ValueError, match=r"refine_index.metric='dot' must be base_index.metric="):
        IndexRefine(IndexPQ(D, 4), IndexFlat(D, "dot"))
    with pytest.raises(ValueError, match=r"refine_index.ntotal=0 must be >= base_index.ntotal=640"):
        IndexRefine(flat())
    other = IndexFlat(D)
    other.add(ROWS)
    with pytest.raises(ValueError, match="refine_index must hold all ids of base_index, and lacks"):
        IndexRefine(flat(), other)
    index = IndexRefine(flat("euclidean"), flat("euclidean"))
    same(index.search(QUERIES, 4), flat().search(QUERIES, 4))
    assert "l1" in IndexRefine.metrics and IndexRefine(IndexFlat(3, "l1")).metric == "l1"


@pytest.mark.parametrize("wrong", ["Refine(SQ8)", "Refine(PQ4)", "Refine(IVF4,Flat)", "Refine()"])
def test_other_refinements_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"Refine\(\) takes 'Flat' alone"):
        index_factory(D, f"PQ4,{wrong}")


@pytest.mark.parametrize("own_ids", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "dot"])
@pytest.mark.parametrize("description", ["PQ4x3", "IVF5,PQ4x3", "OPQ4,IVF5,PQ4x3", "IVF5,Flat"])
@pytest.mark.usefixtures("faiss_on_one_thread")
def test_faiss_there_and_back(description: str, metric: str, own_ids: bool) -> None:
    faiss = pytest.importorskip("faiss")
    index: Any = index_factory(D, f"{description},Refine(Flat)", metric)
    index.train(ROWS)
    index.add(ROWS, IDS if own_ids else None)
    index.k_factor = N
    if "IVF" in description:
        index.nprobe = 3
    before = fingerprint(index)
    twin = to_faiss(index)
    assert fingerprint(index) == before
    assert type(twin).__name__ == ("IndexIDMap2" if own_ids else "IndexRefineFlat")
    expected, found = index.search(QUERIES, 6), twin.search(QUERIES, 6)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
    again: Any = from_faiss(twin)
    assert isinstance(again, IndexRefine) and again.k_factor == N
    assert type(again.base_index) is type(index.base_index)
    same(again.search(QUERIES, 6), expected)
    same((again.reconstruct_batch(IDS[:5] if own_ids else range(5)),), (ROWS[:5],))
    kinds = {"IVF5,PQ4x3": IndexIVFPQ, "PQ4x3": IndexPQ}
    assert isinstance(again.base_index, kinds.get(description, Index))
    empty = from_faiss(faiss.index_factory(D, "Flat,RFlat"))
    assert empty.ntotal == 0 and isinstance(empty, IndexRefine) and empty.k_factor == 1.0
    other = faiss.index_factory(D, "Flat,Refine(SQ8)")
    other.train(ROWS)
    with pytest.raises(TypeError, match=r"SQ|ScalarQuantizer"):
        from_faiss(other)
