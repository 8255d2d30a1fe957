"""Changes and files of IndexRefine, whose two indexes stay together."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Array
from refined_indexes import IDS, QUERIES, ROWS, N, flat, refined, same
from small_indexes import MAKE, D, X, fingerprint, trained, with_gaps
from test_faults import fail

from flash_kmeans_mlx.index import (
    EmbeddingStore,
    IndexFlat,
    IndexHNSW,
    IndexPQ,
    IndexRefine,
    index_file,
    load_index,
)


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
