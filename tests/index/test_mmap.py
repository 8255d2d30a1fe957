"""Indexes that are mapped from files: the same results, nothing changed, and only what a search looks at is read."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Array
from memory import peak
from small_indexes import MAKE, X, fingerprint, trained, with_gaps

from flash_kmeans_mlx.files import models
from flash_kmeans_mlx.index import (
    EmbeddingStore,
    Index,
    IndexFlat,
    IndexIVFFlat,
    IndexPQ,
    deserialize_index,
    index_file,
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


# Damaged files. Their sums are not checked, so a change of any byte gets as far as it can.


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], pad: int = 0) -> None:
    """Change the header of a file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 + pad)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    for kind in MAKE:
        with_gaps(kind).save(path)
        content = path.read_bytes()
        for length in (0, 7, 8, 100, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"cannot load '.*index': "):
                load_index(path, mmap=True)
        path.write_bytes(content + b"more")
        with pytest.raises(ValueError, match="4 bytes follow its last array"):
            load_index(path, mmap=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": lambda counts: counts[:-1]}, "counts of shape .4,. do not fit 5 lists"),
        ({"counts": lambda counts: counts + 16}, "counts of shape .5,. do not fit 5 lists"),
        ({"counts": lambda counts: -counts}, "counts of shape .5,. do not fit 5 lists"),
        ({"counts": lambda counts: counts + 2**62}, "a list of .* vectors must have <= 192"),
        ({"counts": lambda counts: counts.astype(np.float64)}, "counts of shape"),
        ({"counts": lambda counts: counts[:0]}, "zero-size array"),
        ({"ids": lambda ids: ids[1:]}, "counts of shape .5,. do not fit 5 lists of 11 blocks"),
        ({"ids": np.ravel}, "ids of shape .192,. and dtype int64 must be"),
        ({"ids": lambda ids: ids.astype(np.float64)}, "ids of shape .* and dtype float64 must be"),
        ({"payload": lambda rows: rows[1:]}, "payload of shape .11, 8, 16. .* must be .12, 8, 16."),
        ({"payload": lambda rows: rows[:, 1:]}, "payload of shape .12, 7, 16."),
        ({"payload": lambda rows: rows.view(np.uint32)}, "payload .* dtype uint32 must be"),
        ({"centroids": lambda rows: rows * np.nan}, "centroids of shape"),
        ({"payload": None}, "damaged IndexIVFFlat .'payload'"),
        ({"ids": None}, "damaged IndexIVFFlat .'ids'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    changes: dict[str, Callable[[Array], Array] | None], message: str, tmp_path: Path
) -> None:
    own, arrays = with_gaps("ivf").state()
    for name, change in changes.items():
        array = arrays.pop(name)
        if change is not None:
            arrays[name] = np.ascontiguousarray(change(array))
    index_file.write(tmp_path / "index", "IndexIVFFlat", own, arrays)
    with pytest.raises(ValueError, match=rf"cannot load '.*index': .*{message}"):
        load_index(tmp_path / "index", mmap=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": lambda ids: ids[1:]}, "rows of shape .140, 8. do not fit d=8, .139,. ids"),
        ({"ids": lambda ids: ids.astype(np.float64)}, "rows of shape"),
        ({"rows": lambda rows: rows.astype(np.float64)}, "rows of shape"),
        ({"rows": lambda rows: rows[:, 1:]}, "rows of shape .140, 7. do not fit d=8"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    changes: dict[str, Callable[[Array], Array]], message: str, tmp_path: Path
) -> None:
    own, arrays = with_gaps("flat").state()
    for name, change in changes.items():
        arrays[name] = np.ascontiguousarray(change(arrays[name]))
    index_file.write(tmp_path / "index", "IndexFlat", own, arrays)
    with pytest.raises(ValueError, match=rf"cannot load '.*index': .*{message}"):
        load_index(tmp_path / "index", mmap=True)


def test_more_blocks_than_scans_can_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gaps("ivf").save(tmp_path / "index")
    monkeypatch.setattr("flash_kmeans_mlx.index.lists.MOST_BLOCKS", 11)
    with pytest.raises(ValueError, match="must be up to 11 blocks of 16"):
        load_index(tmp_path / "index", mmap=True)


def test_arrays_that_are_not_aligned_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with_gaps("ivf").save(path)
    rewritten(path, lambda header: None, pad=1)
    with pytest.raises(ValueError, match=r"array '.*' is not aligned"):
        load_index(path, mmap=True)


def test_shapes_that_overflow(tmp_path: Path) -> None:
    path = tmp_path / "index"
    trained("ivf").save(path)

    def change(header: dict[str, Any]) -> None:
        header["payload"]["shape"] = [0, 1 << 47, 1 << 47]

    rewritten(path, change)
    with pytest.raises(ValueError, match="array 'payload' cannot have the shape"):
        load_index(path, mmap=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "hnsw"])
def test_any_damage_ends_in_an_error_or_in_results(kind: str, tmp_path: Path) -> None:
    """Never in a crash."""
    path = tmp_path / "index"
    with_gaps(kind).save(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(len(kind))
    refused = 0
    for trial in range(300):
        damaged = bytearray(content)
        end = header if trial % 2 else len(content)
        for at in rng.integers(end, size=rng.choice([1, 3, 200])).tolist():
            digit = trial % 4 == 1
            damaged[at] = rng.choice(list(b"0123456789")) if digit else rng.integers(256)
        path.write_bytes(damaged)
        try:
            index = load_index(path, mmap=True)
            assert index.search(QUERIES[:2], 3)[1].shape == (2, 3)
        except (ValueError, OSError):
            refused += 1
    assert 100 < refused < 300


# Memory.

LISTS, ROWS, D = 16, 4096, 64
MEASURE = """
import re, sys
import numpy as np
from flash_kmeans_mlx.index import load_index

def mapped():
    return int(re.search(r"RssFile:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

path, small, nprobe = sys.argv[1:]
index = load_index(small)
query = np.ones((1, index.d), np.float32)
index.search(query, 5, nprobe=int(nprobe))  # loads code
sizes = [mapped()]
index = load_index(path, mmap=True)
sizes.append(mapped())
index.search(query, 5, nprobe=int(nprobe))
sizes.append(mapped())
print(*np.diff(sizes))
"""
# The system maps some pages around those that are read, 2 MB at most.
AROUND = 4 << 20


def with_rows(index: IndexIVFFlat | IndexPQ, n: int) -> Index:
    """The index with n random rows in each of its lists."""
    rng = np.random.default_rng(0)
    lists = index.lists
    labels = np.repeat(np.arange(len(lists.counts)), n)
    rows = rng.integers(256, size=(len(labels), lists.payload.shape[1]))
    rows = rows.astype(lists.payload.dtype)
    lists = lists.added(labels, rows, np.arange(len(labels)))
    index._snapshot = index._snapshot._replace(lists=lists)
    return index


def large_index(kind: str, share: int) -> Index:
    """An index of 16 to 24 MB for a share of 1; less for a larger one."""
    rng = np.random.default_rng(0)
    if kind == "flat":  # with more bytes of ids than of vectors
        flat = IndexFlat(1)
        flat.add(rng.standard_normal(((1 << 21) // share, 1)).astype(np.float32))
        return flat
    if kind == "codes":
        codes = IndexPQ(D, 16, 4, niter=1)
        codes.train(rng.standard_normal((1000, D)).astype(np.float32))
        return with_rows(codes, (1 << 17) // share)
    lists = IndexIVFFlat(D, LISTS)
    centroids = 8 * np.eye(LISTS, D, dtype=np.float32)
    lists._snapshot = lists._snapshot._replace(centroids=centroids)
    return with_rows(lists, ROWS // share)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
@pytest.mark.parametrize(
    ("kind", "nprobe"), [("flat", 1), ("codes", 1), ("ivf", 1), ("ivf", LISTS)]
)
def test_what_is_read(kind: str, nprobe: int, tmp_path: Path) -> None:
    """Nothing but sizes when an index is opened, then the lists that a search looks at."""
    path, small = tmp_path / "index", tmp_path / "small"
    large_index(kind, 1).save(path)
    large_index(kind, 512).save(small)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(small), str(nprobe)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    opened, searched = (int(size) for size in done.stdout.split())
    assert opened < AROUND
    # One list has 1 MB. The measure sees what is read: of all others, the larger part.
    assert (searched < AROUND) == ((kind, nprobe) == ("ivf", 1))


@pytest.mark.parametrize("kind", ["flat", "codes", "ivf"])
def test_opening_takes_little_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    index = large_index(kind, 1)
    index.save(path)
    # The list and the next block of each block of 16 vectors: 8 bytes.
    assert peak(lambda: load_index(path, mmap=True)) < index.ntotal + (1 << 16)
