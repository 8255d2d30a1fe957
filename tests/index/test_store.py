"""The store: ids and metadata with their embeddings, growth, files."""

from __future__ import annotations

import errno
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exact_neighbours import truth
from helpers import digits

from flash_kmeans_mlx.files import atomic
from flash_kmeans_mlx.index import (
    EmbeddingStore,
    IndexFlat,
    IndexIVFFlat,
    IndexPQ,
    growth,
    index_file,
    load_index,
)

X = digits()


def filled() -> EmbeddingStore:
    one = EmbeddingStore()
    one.add(X[:500], metadata=[{"row": i} for i in range(500)])
    one.add(X[500:600], ids=np.arange(1000, 1100))
    return one


def test_what_is_added_is_found() -> None:
    one = filled()
    hits = one.search(X[[3, 550]], 4)
    expected = np.argsort(
        truth(X[[3, 550]].astype(np.float64), X[:600].astype(np.float64), "cosine"), axis=1
    )[:, :4]
    np.testing.assert_array_equal(hits.ids, expected + 500 * (expected >= 500))
    assert hits.metadata == [
        [{"row": i} if i < 500 else None for i in row] for row in expected.tolist()
    ]
    assert one.add(mx.array(X[:2])).tolist() == [1100, 1101] and len(one) == 602
    assert isinstance(one.search(mx.array(X[:2]), 3).ids, mx.array)


def test_what_is_deleted_is_not() -> None:
    one = filled()
    assert one.delete([3, 4, 1050, 7000]) == 3 and len(one) == 597
    assert not np.isin(one.search(X[:600], 5).ids, [3, 4, 1050]).any()
    one.add(X[3:4], ids=[3])
    hits = one.search(X[3:4], 1)
    assert hits.ids == [[3]] and hits.metadata == [[None]], "metadata went with its embedding"


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_it_grows_from_flat_to_lists(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "FIRST_LISTS_AT", 8000)
    monkeypatch.setattr(growth, "NEW_LISTS_AFTER", 2)
    x = np.random.default_rng(0).standard_normal((20_000, 8)).astype(np.float32)
    one, sizes = EmbeddingStore(metric), []
    for lo in range(0, len(x), 2000):
        one.add(x[lo : lo + 2000], metadata=list(range(lo, lo + 2000)))
        sizes.append(one.index.nlist if isinstance(one.index, IndexIVFFlat) else 0)
    assert sizes == [0] * 3 + [178] * 4 + [252] * 3, "from 8,000 on, and again with twice as many"
    flat = IndexFlat(8, metric)
    flat.add(x)
    hits, expected = one.search(x[:500], 10), flat.search(x[:500], 10)[1]
    recall = np.mean(
        [len({*a} & {*b}) / 10 for a, b in zip(hits.ids.tolist(), expected.tolist(), strict=True)]
    )
    # Long vectors have large products wherever they lie.
    assert recall > (0.8 if metric == "dot" else 0.9)
    assert hits.metadata == hits.ids.tolist()
    assert one.delete(np.arange(0, 20_000, 2)) == 10_000 and one.add(x[:1]).tolist() == [20_000]


def test_an_index_of_ones_own() -> None:
    index = IndexIVFFlat(64, 8, "euclidean", 8)
    with pytest.raises(ValueError, match="index must be trained"):
        EmbeddingStore(index=index)
    index.train(X)
    one = EmbeddingStore(index=index)
    one.add(X)
    assert one.metric == "euclidean" and one.index is index
    np.testing.assert_array_equal(one.search(X[:9], 1).ids[:, 0], np.arange(9))


def test_searches_see_embeddings_with_their_metadata() -> None:
    one, end, wrong = EmbeddingStore("euclidean"), time.monotonic() + 1, []
    one.add(X[:100], metadata=[0] * 100)

    def search() -> None:
        while time.monotonic() < end:
            hits = one.search(X[:100], 2)
            wrong.extend(note for row in hits.metadata for note in row if note is None)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
        one.add(X[:50], ids=np.arange(200, 250), metadata=[rounds] * 50)
        one.delete(np.arange(200, 250))
    for thread in threads:
        thread.join()
    assert not wrong and rounds > 10


def test_a_cap_of_memory() -> None:
    one = EmbeddingStore(max_memory_gb=1000 * (64 * 4 + 8) / 1e9)
    one.add(X[:600])
    with pytest.raises(
        ValueError, match=r"max_memory_gb=0.000264 must be >= 0.000317 for 1200 embeddings"
    ):
        one.add(X[600:1200])
    one.add(X[600:1000])
    assert len(one) == 1000


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, path = filled(), tmp_path / "some" / "store"
    for _ in range(2):
        one.save(path)
        assert {file.name for file in path.iterdir()} == {"store.safetensors", "store.lock"}
    again = EmbeddingStore.load(path)
    assert again.metric == "cosine" and isinstance(again.index, IndexFlat)
    first, second = one.search(X[:50], 3), again.search(X[:50], 3)
    np.testing.assert_array_equal(first.ids, second.ids)
    assert first.metadata == second.metadata
    monkeypatch.setattr(growth, "FIRST_LISTS_AT", 7000)
    assert again.add(np.random.default_rng(0).random((6400, 64))).tolist() == list(
        range(1100, 7500)
    )
    assert isinstance(again.index, IndexIVFFlat), "it still grows"


def test_a_crash_keeps_the_previous_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = filled()
    one.save(tmp_path)
    one.add(X[600:], metadata=["new"] * (len(X) - 600))

    def crash(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", crash)
        with pytest.raises(OSError, match=r"No space left on device: .*store\.safetensors"):
            one.save(tmp_path)
    assert len(EmbeddingStore.load(tmp_path)) == 600
    one.save(tmp_path)
    assert len(EmbeddingStore.load(tmp_path)) == len(X) and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grows": 1}, "grows=1 must be True or False"),
        ({"seed": -1}, "seed=-1 must be >= 0"),
        ({"max_memory_gb": "1"}, "max_memory_gb='1' must be a number"),
        ({"class": "IndexIVFFlat"}, "'nlist'"),
        ({"class": "EmbeddingStore"}, "no class of indexes is called 'EmbeddingStore'"),
        ({"class": ["IndexFlat"]}, "unhashable"),
        (
            {"index": {"d": 64, "metric": "cosine", "next_id": 1e30}},
            "next_id=1e.30 must be an integer",
        ),
        (
            {"index": {"d": 10**15, "metric": "cosine", "next_id": 0}},
            "rows of shape .600, 64. do not fit d=1000000000000000",
        ),
        ({"index": []}, "list indices"),
        ({"metadata": b"[]"}, "no JSON object"),
        ({"metadata": b'{"-1": 3}'}, "ids of metadata must be >= 0"),
        ({"metadata": b'{"x": 3}'}, "invalid literal"),
        ({"metadata": b'{"1": ' + b"[" * 100_000}, ""),
    ],
)
def test_a_damaged_store_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    filled().save(tmp_path)
    file = tmp_path / "store.safetensors"
    name, head, arrays = index_file.read(file)
    if "metadata" in change:
        arrays["metadata"] = np.frombuffer(change["metadata"], np.uint8)
    index_file.write(
        file, name, head | {key: change[key] for key in change if key != "metadata"}, arrays
    )
    with pytest.raises(ValueError, match=f"cannot load '.*': .*{message}.*; save it again"):
        EmbeddingStore.load(tmp_path)


def test_a_store_that_cannot_grow_is_refused(tmp_path: Path) -> None:
    index = IndexPQ(64, 8, 4)
    index.train(X)
    one = EmbeddingStore(index=index)
    one.add(X[:50])
    one.save(tmp_path)
    assert isinstance(EmbeddingStore.load(tmp_path).index, IndexPQ)
    name, head, arrays = index_file.read(tmp_path / "store.safetensors")
    index_file.write(tmp_path / "store.safetensors", name, head | {"grows": True}, arrays)
    with pytest.raises(ValueError, match="an IndexPQ does not grow"):
        EmbeddingStore.load(tmp_path)


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"store\.safetensors"):
        EmbeddingStore.load(tmp_path)
    filled().index.save(tmp_path / "store.safetensors")  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(ValueError, match=r"cannot load '.*': it holds an IndexFlat"):
        EmbeddingStore.load(tmp_path)
    filled().save(tmp_path)
    with pytest.raises(ValueError, match="no class of indexes is called 'EmbeddingStore'"):
        load_index(tmp_path / "store.safetensors")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("note", "error", "message"),
    [
        (nested(101), ValueError, "lists and dicts must be nested at most 100 deep"),
        ({"a": ({"b": nested(98)},)}, ValueError, "nested at most 100 deep"),
        (nested(100_000), ValueError, "nested at most 100 deep"),
        (CIRCLE, ValueError, "Circular reference"),
        (float("nan"), ValueError, "not JSON compliant"),
        ([1, {"x": -np.inf}], ValueError, "not JSON compliant"),
        ({1: "a"}, TypeError, "the key 1 of a dict must be a string"),
        ({"a": [{None: 3}]}, TypeError, "the key None of a dict must be a string"),
        ({(1, 2): 3}, TypeError, "keys must be str"),
        ([-(10**5000)], ValueError, "digits"),
        (b"bytes", TypeError, "bytes is not JSON serializable"),
        (np.float32(1), TypeError, "float32 is not JSON serializable"),
    ],
    ids=range(12),
)
def test_metadata_that_cannot_be_saved_is_refused_at_once(
    note: Any, error: type[Exception], message: str
) -> None:
    one = filled()
    with pytest.raises(error, match=f"metadata must be values that JSON can hold: .*{message}"):
        one.add(X[:2], metadata=["fine", note])
    assert len(one) == 600 and one.add(X[:1]).tolist() == [1100]


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="this Python has no limit")
def test_integers_that_other_processes_could_not_read(tmp_path: Path) -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(ValueError, match="an integer has more than 4300 digits"):
            filled().add(X[:1], metadata=[-(10**4300)])
        one = EmbeddingStore()
        one.add(X[:1], metadata=[-(10**4299)])
    finally:
        sys.set_int_max_str_digits(limit)
    one.save(tmp_path)
    assert EmbeddingStore.load(tmp_path)._current.read().metadata == {0: -(10**4299)}


def test_metadata_at_the_bounds_come_back(tmp_path: Path) -> None:
    notes = [
        nested(100),
        {"a": [{"b": nested(97)}]},
        10**4299,
        -(10**4299),
        "\ud800 \0 é",
        1e308,
        "9" * 5000,
        [(1, 2)],
        True,
    ]
    one = EmbeddingStore()
    one.add(X[: len(notes)], metadata=notes)
    one.save(tmp_path)
    found = EmbeddingStore.load(tmp_path)._current.read().metadata
    assert [found[i] for i in range(len(notes))] == [*notes[:-2], [[1, 2]], True]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda _: EmbeddingStore().search(X, 1),
            ValueError,
            "search needs a store that holds embeddings: call add first",
        ),
        (
            lambda _: EmbeddingStore().save("nowhere"),
            ValueError,
            "save needs a store that holds embeddings: call add first",
        ),
        (
            lambda _: EmbeddingStore("l1"),
            ValueError,
            "metric='l1' must be one of 'euclidean', 'cosine', 'dot'",
        ),
        (
            lambda _: EmbeddingStore(max_memory_gb=-1),
            ValueError,
            "max_memory_gb=-1 must be finite and >= 0",
        ),
        (
            lambda s: s.add(X[:2], metadata=["one"]),
            ValueError,
            r"metadata must have N=2 values, got 1 \(embeddings.shape=\(2, 64\)\)",
        ),
        (lambda s: s.add(X[:1], metadata=[{1, 2}]), TypeError, "set is not JSON serializable"),
        (lambda s: s.add(X[:1], metadata=[float("nan")]), ValueError, "not JSON compliant"),
        (
            lambda s: s.add(X[:2, :5]),
            ValueError,
            r"embeddings must have shape \(N, D\)=\(N, 64\), got \(2, 5\)",
        ),
        (
            lambda s: s.add(X[:2], ids=[5, 5]),
            ValueError,
            "ids must be distinct, got 5 more than once",
        ),
        (
            lambda s: s.add(X[:1], ids=[5]),
            ValueError,
            "ids must be new, got 5, which the index holds",
        ),
    ],
)
def test_wrong_use(call: Any, error: type[Exception], message: str) -> None:
    one = filled()
    with pytest.raises(error, match=message):
        call(one)
    assert len(one) == 600 and one.search(X[5:6], 1).metadata == [[{"row": 5}]]
