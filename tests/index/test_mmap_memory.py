"""Mapped indexes read what a search looks at, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from memory import peak

from flash_kmeans_mlx.index import Index, IndexFlat, IndexIVFFlat, IndexPQ, IndexRefine, load_index

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
    """An index of 16 MB or more for a share of 1; less for a larger one."""
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
    index = with_rows(lists, ROWS // share)
    if kind == "refined":  # the vectors of a list follow one another
        flat = IndexFlat(D)
        flat.add(np.zeros((index.ntotal, D), np.float32))
        return IndexRefine(index, flat)
    return index


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
@pytest.mark.parametrize(
    ("kind", "nprobe"), [("flat", 1), ("codes", 1), ("ivf", 1), ("ivf", LISTS), ("refined", 1)]
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
    assert (searched < AROUND) == (kind in ("ivf", "refined") and nprobe == 1)


@pytest.mark.parametrize("kind", ["flat", "codes", "ivf", "refined"])
def test_opening_takes_little_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    index = large_index(kind, 1)
    index.save(path)
    # The list and the next block of each block of 16 vectors: 8 bytes.
    assert peak(lambda: load_index(path, mmap=True)) < index.ntotal + (1 << 16)
