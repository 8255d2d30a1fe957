"""IndexRefine: candidates of another index, ranked by their vectors, against exact search and brute force."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exact_neighbours import truth
from helpers import Array, every_backend
from small_indexes import MAKE, D, X, fingerprint, restore_index, trained, with_gaps
from test_faults import fail

from flash_kmeans_mlx.index import (
    EmbeddingStore,
    Index,
    IndexFlat,
    IndexHNSW,
    IndexIVFPQ,
    IndexPQ,
    IndexPreTransform,
    IndexRefine,
    IndexRefineSearchParameters,
    NormalizationTransform,
    SearchParametersIVF,
    from_faiss,
    index_factory,
    index_file,
    load_index,
    to_faiss,
)

RNG = np.random.default_rng(0)
N = 640
ROWS = RNG.standard_normal((N, D)).astype(np.float32)
ROWS[::7] = ROWS[3]  # of equally near vectors, the lowest ids come first
IDS = RNG.permutation(5 * N)[:N]
QUERIES = np.concatenate([ROWS[:4], RNG.standard_normal((9, D)).astype(np.float32)])
DESCRIPTIONS = ["PQ4x3", "IVF5,PQ4x4fs", "OPQ4,IVF5,PQ4x3", "IVF5,Flat", "HNSW8", "Flat"]


def refined(description: str, metric: str = "euclidean", backend: str | None = None) -> Any:
    index = index_factory(D, f"{description},RFlat", metric, backend=backend)
    index.train(ROWS)
    index.add(ROWS, IDS)
    return index


def flat(metric: str = "euclidean", backend: str | None = None) -> IndexFlat:
    index = IndexFlat(D, metric, backend=backend)
    index.add(ROWS, IDS)
    return index


def same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


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


def mapped(index: IndexFlat, folder: Path) -> Any:
    index.save(folder / "vectors")
    return load_index(folder / "vectors", mmap=True)


def test_vectors_in_a_file(tmp_path: Path) -> None:
    """Only the candidates are read, and nothing is copied."""
    d, n = 64, 20_000
    x = np.random.default_rng(1).standard_normal((n, d)).astype(np.float32)
    index = IndexRefine(IndexPQ(d, 8, 4, niter=2, max_points_per_centroid=50))
    index.train(x)
    index.add(x)
    expected = index.search(x[:20], 10)
    other = IndexRefine(index.base_index, mapped(index.refine_index, tmp_path))
    other.search(x[:1], 1)
    tracemalloc.start()
    try:
        found = other.search(x[:20], 10)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes // 8
    finally:
        tracemalloc.stop()
    same(found, expected)
    same((other.reconstruct_batch([5, 3]),), (x[[5, 3]],))
    for change in (lambda: other.add(x[:1]), lambda: other.remove_ids([3]), other.reset):
        with pytest.raises(ValueError, match="mapped from a file can't be changed"):
            change()
    # Ids of mapped vectors are compared by searches.
    few = IndexFlat(d)
    few.add(x, np.arange(n) + 1)
    other = IndexRefine(index.base_index, mapped(few, tmp_path))
    with pytest.raises(ValueError, match=r"refine_index must hold all ids of base_index, .* 0"):
        other.search(x[:1], n)


def test_more_vectors_than_the_candidates_have() -> None:
    base = refined("PQ4x3").base_index
    base.remove_ids(IDS[:100])
    index = IndexRefine(base, flat())
    assert index.ntotal == N - 100
    same(index.search(QUERIES, 9, k_factor=N), flat().search(QUERIES, 9, ids=IDS[100:]))
    with pytest.raises(ValueError, match=rf"ids must be new, got {IDS[5]}, of refine_index"):
        index.add(ROWS[:1], IDS[5:6])
    with pytest.raises(ValueError, match=f"id={IDS[5]} is not in the index"):
        index.reconstruct(int(IDS[5]))
    index.add(ROWS[:3])
    assert index.remove_ids(IDS) == N - 100
    found = index.search(ROWS[:3], 1)[1][:, 0]
    assert found.tolist() == [int(IDS.max()) + i for i in (1, 2, 3)]


def test_a_store_of_refined_vectors(tmp_path: Path) -> None:
    store = EmbeddingStore(index=trained("pq,refine"))
    store.add(X[:90], metadata=list(range(90)))
    store.save(tmp_path)
    store.update(3, X[100:101])
    store.delete([5])
    store.save(tmp_path)
    for one in (store, EmbeddingStore.load(tmp_path)):
        assert len(one) == 89
        np.testing.assert_array_equal(one.get([3])[0], X[100:101])
        hits = one.search(X[100:101], 2)
        assert hits.ids[0][0] == 3 and hits.distances[0][0] == 0


def failing(*_: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize("part", ["base_index", "refine_index"])
@pytest.mark.parametrize("verb", ["add", "remove"])
def test_both_change_or_none(part: str, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index: Any = with_gaps("pq,refine")
    before = fingerprint(index)
    changes = {
        "add": lambda: index.add(X[:60]),
        "remove": lambda: index.remove_ids(np.arange(90)),
    }
    inner = getattr(index, part)
    with monkeypatch.context() as patch:
        patch.setattr(inner, f"_after_{verb}", failing)
        with pytest.raises(MemoryError):
            changes[verb]()
    assert fingerprint(index) == before
    changes[verb]()
    other: Any = with_gaps("pq,refine")
    other.add(X[:60]) if verb == "add" else other.remove_ids(np.arange(90))
    assert fingerprint(index) == fingerprint(other)
    assert index.base_index.ntotal == index.refine_index.ntotal == index.ntotal


@pytest.mark.parametrize("kind", ["pq,refine", "opq,ivfpq,refine"])
def test_a_training_is_put_in_place_as_a_whole(kind: str) -> None:
    """Wherever it is cut off, the index is as before, or as after."""

    def put(index: Any, snapshot: Any) -> None:
        index._snapshot = snapshot

    def made() -> tuple[Any, Any]:
        index: Any = MAKE[kind]("euclidean")
        return index, index._after_train(index._snapshot, X, False)

    index, snapshot = made()
    right = [fingerprint(index)]
    events = fail(lambda: put(index, snapshot), KeyboardInterrupt, -1, "lines")
    right.append(fingerprint(index))
    seen = []
    for at in range(events):
        index, snapshot = made()
        fail(lambda: put(index, snapshot), KeyboardInterrupt, at, "lines")  # noqa: B023
        seen.append(right.index(fingerprint(index)))
        index.train(X)
        assert fingerprint(index) == right[1]
    assert seen[0] == 0 and seen[-1] == 1


def test_a_graph_is_not_changed_under_searches() -> None:
    """A copy of a graph is made, also where the last change was cut off before its end."""
    index = IndexRefine(IndexHNSW(D, 8, 40))
    index.add(ROWS[:300])
    older = IndexHNSW(D, 8, 40)._snapshot
    index.base_index._snapshot = older  # as an interrupt may leave it
    graph = index._snapshot.base.graph
    index.add(ROWS[300:])
    assert len(graph) == 300 and index._snapshot.base.graph is not graph


def test_files(tmp_path: Path) -> None:
    index = with_gaps("opq,ivfpq,refine", "cosine")
    index.save(tmp_path / "index")
    again = load_index(tmp_path / "index")
    assert fingerprint(again) == fingerprint(index) and isinstance(again, IndexRefine)
    parameters, arrays = index.state()
    assert {name.split(".")[0] for name in arrays} == {"base", "refine"}
    wrong: list[tuple[dict[str, Any], dict[str, Array], str]] = [
        ({}, {"refine.ids": arrays["refine.ids"] + 1}, "must hold all ids of base_index"),
        (
            {},
            {"refine.ids": arrays["refine.ids"][1:], "refine.rows": arrays["refine.rows"][1:]},
            "refine_index.ntotal=139 must be >= base_index.ntotal=140",
        ),
        ({}, {"refine.rows": arrays["refine.rows"][:, :-1].copy()}, "rows of shape"),
        ({"class": "IndexRefine"}, {}, "damaged IndexRefine"),
        ({"k_factor": 0.1}, {}, "k_factor=0.1 must be >= 1"),
        ({"next_id": -4}, {}, "next_id=-4 must be >= 0"),
    ]
    for changed, others, message in wrong:
        state = parameters | changed, arrays | others
        index_file.write(tmp_path / "index", "IndexRefine", *state)
        with pytest.raises(ValueError, match=message):
            load_index(tmp_path / "index")


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
