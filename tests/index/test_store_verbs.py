"""The methods of a store as one tries them: ids of strings, one query, get, update and upsert."""

from __future__ import annotations

import datetime
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from small_indexes import D, X, trained

from flash_kmeans_mlx.index import EmbeddingStore, Index, IndexIVFFlat, growth
from flash_kmeans_mlx.index.lists import InvertedLists

NAMES = [f"page {i}" for i in range(300)]


def filled(strings: bool, index: Index | None = None) -> EmbeddingStore:
    one = EmbeddingStore("euclidean", index=index)
    one.add(
        X[:200], ids=NAMES[:200] if strings else None, metadata=[{"row": i} for i in range(200)]
    )
    one.add(X[200:250], ids=NAMES[200:250] if strings else None)
    return one


def name(strings: bool, *ids: int) -> list[Any]:
    return [NAMES[i] for i in ids] if strings else list(ids)


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("kind", [None, "ivf", "pq", "opq,ivfpq"])
def test_every_verb(kind: str | None, strings: bool, tmp_path: Path) -> None:
    one = filled(strings, None if kind is None else trained(kind))
    for again in range(2):
        assert len(one) == 250 and list(one) == name(strings, *range(250))
        assert name(strings, 3)[0] in one and name(strings, 260)[0] not in one
        assert (3 if strings else "page 3") not in one and 3.0 not in one and True not in one
        got = one.get(name(strings, 7, 3, 240))
        assert got.embeddings.shape == (3, D) and got.metadata == [{"row": 7}, {"row": 3}, None]
        if kind in (None, "ivf"):
            np.testing.assert_array_equal(got.embeddings, X[[7, 3, 240]])
            hits = one.search(X[:250], 1)
            assert [row[0] for row in hits.ids.tolist()] == name(strings, *range(250))
        if not again:
            one.save(tmp_path)
            one = EmbeddingStore.load(tmp_path)
    one.update(name(strings, 5, 4), embeddings=X[300:302])
    one.update(name(strings, 6), metadata=["new"])
    one.update(name(strings, 8), X[308:309], ["both"])
    one.upsert(name(strings, 290, 9, 291), X[309:312], [1, 2, 3])
    one.upsert(name(strings, 9, 10), X[311:313])
    assert one.delete(name(strings, 11, 270)) == 1 and len(one) == 251
    got = one.get(name(strings, 4, 5, 6, 8, 9, 10, 290, 291))
    assert got.metadata == [{"row": 4}, {"row": 5}, "new", "both", 2, {"row": 10}, 1, 3]
    if kind in (None, "ivf"):
        np.testing.assert_array_equal(got.embeddings, X[[301, 300, 6, 308, 311, 312, 309, 311]])
        hits = one.search(X[[300, 312, 11]], 1)
        assert [row[0] for row in hits.ids[:2].tolist()] == name(strings, 5, 10)
        assert hits.distances[2, 0] > 0 and hits.metadata[1] == [{"row": 10}]


@pytest.mark.parametrize("strings", [False, True])
def test_one_query_is_one_row(strings: bool) -> None:
    one = filled(strings)
    queries: list[Any] = [X[3], mx.array(X[3]), X[3].tolist(), tuple(X[3].tolist()), X[3:4]]
    for query in queries:
        hits = one.search(query, 2)
        assert tuple(hits.distances.shape) == tuple(hits.ids.shape) == (1, 2)
        assert np.asarray(hits.ids)[0, 0] == name(strings, 3)[0] and hits.metadata[0][0] == {
            "row": 3
        }
    assert isinstance(one.search(mx.array(X[3]), 2).distances, mx.array)
    few = one.search(X[3], 300).ids
    assert few.shape == (1, 300) and few[0, 270] == (None if strings else -1)


def test_one_id_is_a_list_of_one() -> None:
    one = filled(strings=True)
    assert one.get("page 7").metadata == [{"row": 7}] and one.delete("page 7") == 1
    one.update("page 8", metadata=["new"])
    one.upsert("page 7", X[7:8], metadata=["back"])
    assert one.get(["page 7", "page 8"]).metadata == ["back", "new"]
    assert EmbeddingStore().add(X[:1], ids="first").tolist() == ["first"]
    assert filled(strings=False).get(np.int64(7)).metadata == [{"row": 7}]
    assert one.get([]).embeddings.shape == (0, D) and one.add(
        X[:2], np.array(["x", "y"])
    ).tolist() == ["x", "y"]


def test_equal_distances_of_strings_keep_the_order_of_adding() -> None:
    one = EmbeddingStore("euclidean")
    one.add(np.ones((3, 2)), ids=["c", "a", "b"])
    one.upsert("a", np.ones((1, 2)))
    assert one.search([1.0, 1.0], 3).ids.tolist() == [["c", "a", "b"]]


@pytest.mark.filterwarnings("ignore:.*training vectors")
def test_strings_in_a_store_that_grows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(growth, "FIRST_LISTS_AT", 250)
    monkeypatch.setattr(growth, "LISTS_PER_PROBE", 1)
    one = EmbeddingStore("euclidean")
    for lo in range(0, 300, 100):
        one.add(X[lo : lo + 100], ids=NAMES[lo : lo + 100])
    one.save(tmp_path)
    for again in (one, EmbeddingStore.load(tmp_path)):
        assert isinstance(again.index, IndexIVFFlat)
        assert again.search(X[:300], 1).ids[:, 0].tolist() == NAMES


def test_a_store_without_embeddings_takes_either_kind() -> None:
    one = EmbeddingStore("euclidean")
    assert list(one) == [] and "a" not in one and one.delete(["a"]) == 0 and one.delete([3]) == 0
    one.add(X[:2], ids=["a", "b"])
    one.delete(["a", "b"])
    assert one.add(X[:2]).tolist() == [2, 3] and list(one) == [2, 3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.search(X[:1, :5], 1), ValueError, r"query must have shape .*, got \(1, 5\)"),
        (lambda s: s.search(X[0, :5], 1), ValueError, r"query must have shape .*, got \(1, 5\)"),
        (lambda s: s.search([[1.0], [2.0, 3.0]], 1), ValueError, "query must be a rectangular"),
        (lambda s: s.search(np.full(D, np.nan), 1), ValueError, "query must be finite"),
        (lambda s: s.search("text", 1), TypeError, "query must hold real numbers"),
        (
            lambda s: s.add(X[:1], ids=[3]),
            TypeError,
            "ids must be strings, as those that the store",
        ),
        (lambda s: s.add(X[:1]), TypeError, "ids must be strings, as those that the store holds"),
        (lambda s: s.upsert([3], X[:1]), TypeError, "ids must be strings, as those"),
        (lambda s: s.add(X[:1], ids=["page 3"]), ValueError, "ids must be new, got 'page 3'"),
        (lambda s: s.add(X[:2], ids=["a", "a"]), ValueError, "ids must be distinct, got 'a' more"),
        (
            lambda s: s.add(X[:2], ids=["a", 3]),
            TypeError,
            "ids must be all strings or all integers",
        ),
        (
            lambda s: s.add(X[:2], ids=["a"]),
            ValueError,
            r"ids must have shape \(N,\)=\(2,\), got \(1,\)",
        ),
        (
            lambda s: s.get(["page 3", "no"]),
            ValueError,
            "ids must be held by the store to get them, got 'no'",
        ),
        (lambda s: s.update(["no"], X[:1]), ValueError, "ids must be held by the store to update"),
        (lambda s: s.update(["page 3"]), ValueError, "update needs embeddings or metadata"),
        (lambda s: s.update(["page 3"], X[:2]), ValueError, r"ids must have shape \(N,\)=\(2,\)"),
        (
            lambda s: s.update(["page 3", "page 3"], metadata=[1, 2]),
            ValueError,
            "ids must be distinct",
        ),
        (
            lambda s: s.update(["page 3"], metadata=[1, 2]),
            ValueError,
            "metadata must have N=1 values, got 2",
        ),
        (
            lambda s: s.update(["page 3"], X[:1, :3]),
            ValueError,
            r"embeddings must have shape .*, got \(1, 3\)",
        ),
        (
            lambda s: s.add(X[:1], ["a"], {"a": 1}),
            TypeError,
            "metadata must be a list of N=1 values, one each, got a dict",
        ),
        (lambda s: s.add(X[:1], ["a"], "b"), TypeError, "metadata must be a list .* got a str"),
        (
            lambda s: s.add(X[:2], ["a", "b"], [{}, {"when": datetime.date(2026, 1, 1)}]),
            TypeError,
            r'metadata\[1\]\["when"\]: Object of type date is not JSON serializable; write it as text, with its isoformat',
        ),
        (
            lambda s: s.update("page 3", metadata=[{"a": [1, {"b": float("nan")}]}]),
            ValueError,
            r'metadata\[0\]\["a"\]\[1\]\["b"\]: Out of range float values',
        ),
        (
            lambda s: s.upsert("q", X[:1], [{"a": {1: 2}}]),
            TypeError,
            r'metadata\[0\]\["a"\]: the key 1 of',
        ),
        (lambda s: s.compact(), ValueError, "compact needs a store that was saved or loaded"),
    ],
)
def test_wrong_use(call: Any, error: type[Exception], message: str) -> None:
    one = filled(strings=True)
    with pytest.raises(error, match=message):
        call(one)
    assert len(one) == 250 and one.get("page 3").metadata == [{"row": 3}]


def test_what_is_no_id_is_not_in_a_store() -> None:
    for strings in (False, True):
        one = filled(strings)
        for other in (2**70, -1, 3.0, None, (3,), np.True_, ["page 3"], "page"):
            assert other not in one
        assert len(one.get([]).metadata) == one.delete([]) == 0
        one.update([], metadata=[])
    assert repr(one) == "EmbeddingStore(250 embeddings, metric='euclidean')"


def test_ids_of_other_libraries() -> None:
    pandas = pytest.importorskip("pandas")
    one = EmbeddingStore("euclidean")
    one.add(X[:3], ids=pandas.Series(["a", "b", "c"]), metadata=pandas.Series([1.0, 2.0, 3.0]))
    assert one.get(pandas.Index(["c", "a"])).metadata == [3, 1]
    assert filled(strings=False).delete(mx.array([3, 4])) == 2


def test_an_add_of_new_ids_sorts_no_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    for strings in (False, True):
        one = filled(strings, trained("ivf"))
        with monkeypatch.context() as patch:
            patch.setattr(InvertedLists, "sorted_ids", None)
            one.add(X[:2], ids=["x", "y"] if strings else None, metadata=[1, 2])
            one.search(X[:2], 3)
            with pytest.raises(TypeError):
                one.delete(name(strings, 3))


def test_integers_and_strings_do_not_mix() -> None:
    one = filled(strings=False)
    with pytest.raises(TypeError, match="ids must be integers, as those that the store holds"):
        one.add(X[:1], ids=["a"])
    with pytest.raises(ValueError, match="ids must be held by the store to get them, got 'a'"):
        one.get(["a"])
    with pytest.raises(ValueError, match="ids must be held by the store to get them, got 900"):
        one.get([900])


def test_max_memory_counts_what_is_replaced_once() -> None:
    one = EmbeddingStore(max_memory_gb=100 * (D * 4 + 8) / 1e9)
    one.add(X[:100])
    one.upsert(np.arange(100), X[100:200])
    one.update(np.arange(50), X[200:250])
    with pytest.raises(
        ValueError, match=r"max_memory_gb=4e-06 must be >= 4.04e-06 for 101 embeddings"
    ):
        one.upsert([5, 100], X[:2])
    assert len(one) == 100


def test_searches_see_an_update_whole() -> None:
    one = EmbeddingStore("euclidean")
    one.add(np.zeros((5, 3)), ids=list("abcde"), metadata=[0] * 5)
    done, wrong = threading.Event(), []

    def search() -> None:
        while not done.is_set():
            distances, _, metadata = one.search([0.0, 0.0, 0.0], 5)
            wrong.extend(
                (d, m) for d, m in zip(distances[0], metadata[0], strict=True) if d != 3 * m**2
            )

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(150):
        one.update(list("abc"), np.full((3, 3), i), metadata=[i] * 3)
        one.upsert(["d", f"new {i}"], np.full((2, 3), i), metadata=[i] * 2)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert one.get("a").metadata == [149]


def test_changes_of_the_index_by_others_are_seen() -> None:
    index = IndexIVFFlat(D, 4, nprobe=4)
    index.train(X)
    one = EmbeddingStore(index=index)
    one.add(X[:10])
    index.add(X[10:20])
    assert len(one) == 20 and one.search(X[15], 1).ids.tolist() == [[15]]
    one.add(X[20:30])
    assert index.ntotal == 30 and one.index is index
