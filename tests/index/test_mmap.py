"""Indexes that are mapped from files: the same results, and nothing changes them."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_indexes import MAKE, X, fingerprint, trained, with_gaps

from flash_kmeans_mlx.files import models
from flash_kmeans_mlx.index import (
    EmbeddingStore,
    Index,
    IndexFlat,
    IndexIVFFlat,
    deserialize_index,
    load_index,
    serialize_index,
)
from flash_kmeans_mlx.index.faiss_words import set_backend

CASES = [(kind, metric) for kind in MAKE for metric in Index.metrics]
CASES += [("flat", metric) for metric in IndexFlat.metrics if metric not in Index.metrics]
QUERIES = X[-9:]
FILTERS: list[dict[str, Any]] = [
    {},
    {"ids": np.array([1, 2, 1003, 1004, 5])},
    {"exclude": range(0, 1020, 2)},
]


def mapped(index: Index, path: Path) -> Index:
    index.save(path)
    return load_index(path, mmap=True)


def seen(index: Index, metric: str) -> list[bytes]:
    """Bits of what searches and look-ups return."""
    radius = 0.5 if metric == "dot" else 2.0
    results = [
        *(array for options in FILTERS for array in index.search(QUERIES, 6, **options)),
        *index.search(QUERIES[:1], 300),
        *(array for options in FILTERS for array in index.range_search(QUERIES, radius, **options)),
        *index.search_and_reconstruct(QUERIES, 3),
        index.reconstruct_batch([1039, 1, 2]),
    ]
    return [np.asarray(array).tobytes() for array in results]


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_results_are_those_of_the_index_in_memory(kind: str, metric: str, tmp_path: Path) -> None:
    index, path = with_gaps(kind, metric), tmp_path / "index"
    again = mapped(index, path)
    assert type(again) is type(index) and fingerprint(again) == fingerprint(index)
    for backend in ("cpu", "portable", "reference"):
        for one in (index, again):
            set_backend(one, backend)
        assert seen(again, metric) == seen(index, metric), backend


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_copies_are_in_memory(kind: str, metric: str, tmp_path: Path) -> None:
    index, path = with_gaps(kind, metric), tmp_path / "index"
    again = mapped(index, path)
    again.save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    copies = [
        copy.deepcopy(again),
        pickle.loads(pickle.dumps(again)),
        deserialize_index(serialize_index(again)),
        load_index(tmp_path / "copy"),
    ]
    before = fingerprint(again)
    for change in (lambda i: i.add(X[200:260]), lambda i: i.remove_ids(np.arange(150))):
        for one in (index, *copies):
            change(one)
    for one in copies:
        assert fingerprint(one) == fingerprint(index)
    assert fingerprint(again) == before
    assert fingerprint(copy.copy(again)) == before
    with pytest.raises(ValueError, match="an index that is mapped"):
        copy.copy(again).add(X)


CHANGES: dict[str, Callable[[Index], object]] = {
    "add": lambda index: index.add(X[:3]),
    "add nothing": lambda index: index.add(X[:0]),
    "remove": lambda index: index.remove_ids([1]),
    "reset": lambda index: index.reset(),
    "update": lambda index: index.update_vectors([1], X[:1]),
}


@pytest.mark.parametrize("kind", MAKE)
def test_changes_are_refused(kind: str, tmp_path: Path) -> None:
    index = with_gaps(kind)
    again = mapped(index, tmp_path / "index")
    other = trained(kind)
    other.add(X[:5], np.arange(5000, 5005))
    words = r"an index that is mapped from a file can't be changed: load it without mmap=True"
    changes = [
        *CHANGES.values(),
        lambda index: index.merge_from(other),
        other.merge_from,
        lambda index: other.copy_subset_to(index, 0, 0, 10**6),
        lambda index: EmbeddingStore(index=index),
    ]
    if kind not in ("flat", "hnsw"):  # which learn nothing
        changes.append(lambda index: index.train(X))
    inner = getattr(again, "index", None)
    for change in changes:
        with pytest.raises(ValueError, match=words):
            change(again)
    if inner is not None:
        with pytest.raises(ValueError, match=words):
            inner.add(X[:3])
    assert fingerprint(again) == fingerprint(index) and other.ntotal == 5
    again.copy_subset_to(other, 0, 0, 10)
    np.testing.assert_array_equal(other.reconstruct(1), index.reconstruct(1))


@pytest.mark.parametrize("kind", MAKE)
def test_indexes_without_vectors(kind: str, tmp_path: Path) -> None:
    for index in (MAKE[kind]("euclidean"), trained(kind)):
        again = mapped(index, tmp_path / "index")
        assert again.ntotal == 0 and again.is_trained == index.is_trained
        if again.is_trained:
            assert (again.search(X[:3], 2)[1] == -1).all()


def test_load_of_a_class(tmp_path: Path) -> None:
    with_gaps("ivf").save(tmp_path / "index")
    assert IndexIVFFlat.load(tmp_path / "index", mmap=True).ntotal == 140
    with pytest.raises(ValueError, match="it holds an IndexIVFFlat, not an IndexFlat"):
        IndexFlat.load(tmp_path / "index", mmap=True)
    with pytest.raises(TypeError, match="mmap=1 must be True or False"):
        load_index(tmp_path / "index", mmap=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", MAKE)
def test_a_file_that_is_replaced_while_it_is_mapped(kind: str, tmp_path: Path) -> None:
    index, path = with_gaps(kind), tmp_path / "index"
    again = mapped(index, path)
    again.save(path)
    assert fingerprint(again) == fingerprint(index)
    other = trained(kind)
    other.add(X[:9])
    other.save(path)
    assert fingerprint(again) == fingerprint(index)
    assert fingerprint(load_index(path, mmap=True)) == fingerprint(other)


def test_removed_rows_stay_in_no_file(tmp_path: Path) -> None:
    index, path = trained("ivf"), tmp_path / "index"
    index.add(np.full((50, 8), 7.25), np.arange(50) + (77 << 40))
    index.add(X[:20], np.arange(20))
    index.remove_ids(np.arange(50) + (77 << 40))
    index.save(path)
    content = path.read_bytes()
    assert np.float32(7.25).tobytes() not in content
    assert models.read(path)[0]["ids"].max() == 19
    load_index(path).save(path)
    assert path.read_bytes() == content


def test_big_endian_machines_do_not_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gaps("flat").save(tmp_path / "index")
    monkeypatch.setattr(models.sys, "byteorder", "big")
    with pytest.raises(ValueError, match="only little-endian machines map files"):
        load_index(tmp_path / "index", mmap=True)


PROCESS = """
import sys
import numpy as np
from flash_kmeans_mlx.index import load_index

index = load_index(sys.argv[1], mmap=True)
print("ready", flush=True)
sys.stdin.readline()
print(index.search(np.load(sys.argv[2]), 6)[1].tolist())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is mapped can't be replaced")
def test_two_processes_map_a_file(tmp_path: Path) -> None:
    index, path = with_gaps("ivf"), tmp_path / "index"
    index.save(path)
    np.save(tmp_path / "queries.npy", QUERIES)
    command = [sys.executable, "-c", PROCESS, str(path), str(tmp_path / "queries.npy")]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    IndexFlat(3).save(path)
    expected = f"{index.search(QUERIES, 6)[1].tolist()}\n"
    assert [process.communicate("go\n", timeout=60)[0] for process in both] == [expected] * 2
