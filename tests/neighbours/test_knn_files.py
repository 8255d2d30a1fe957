"""Neighbours from files: those of the arrays in memory, whatever the chunks and passes, and never more memory than the cap."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exact_neighbours import METRICS
from memory import peak
from vector_files import npy, safetensors, vecs

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.files import open_vectors
from flash_kmeans_mlx.neighbours import files as streamed
from flash_kmeans_mlx.neighbours.files import search_files
from flash_kmeans_mlx.progress import Bar

RNG = np.random.default_rng(0)
DATA = RNG.integers(0, 6, (500, 7)).astype(np.float32)  # with ties
QUERIES = RNG.standard_normal((40, 7)).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    np.save(tmp_path / "q.npy", QUERIES)
    np.save(tmp_path / "x.npy", DATA)
    return tmp_path / "q.npy", tmp_path / "x.npy"


def assert_same(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("metric", METRICS)
def test_files_give_what_arrays_give(
    files: tuple[Path, Path], metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "CHUNK_BYTES", 28 * 64)
    monkeypatch.setattr(streamed, "CHUNK_ROWS_PER_K", 1)
    q, x = files
    expected = fk.knn(QUERIES, DATA, 9, metric)
    for queries, data in (
        (q, x),
        (str(q), DATA),
        (QUERIES, x),
        (np.load(q, mmap_mode="r"), np.load(x, mmap_mode="r")),
    ):
        found = fk.knn(queries, data, 9, metric)
        assert_same(found, expected)
        assert [str(a.dtype) for a in found] == ["float32", "int64"]
    assert_same(fk.KNN(x, metric).query(QUERIES, 9), expected)


@pytest.mark.parametrize("batch", [70, 499, 500])
@pytest.mark.parametrize("rows", [37, 64, 500])
def test_chunks_and_passes_change_nothing(
    files: tuple[Path, Path], rows: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "_plan", lambda *_: streamed.SearchPlan(rows, batch))
    _, x = files
    progress = Bar()
    monkeypatch.setattr(streamed, "open_progress", lambda: progress)
    found = search_files(x, x, 5, exclude_self=True)
    assert_same((found.distances, found.indices), fk.knn(DATA, DATA, 5, exclude_self=True))
    assert found.batch_size == batch and found.backend == "cpu"
    assert progress.done == progress.total == -(-500 // batch) * 500


STORED = [
    (npy, "float16"),
    (npy, "uint8"),
    (safetensors, "bfloat16"),
    (safetensors, "float32"),
    (vecs, "float32"),
    (vecs, "uint8"),
]


@pytest.mark.parametrize(("writer", "dtype"), STORED)
def test_stored_types(tmp_path: Path, writer: Any, dtype: str) -> None:
    x = (
        (DATA.view(np.uint32) >> 16).astype(np.uint16)
        if dtype == "bfloat16"
        else DATA.astype(dtype)
    )
    suffix = {
        npy: ".npy",
        safetensors: ".safetensors",
        vecs: ".bvecs" if dtype == "uint8" else ".fvecs",
    }[writer]
    path = tmp_path / f"x{suffix}"
    writer(path, x, dtype=dtype)
    source = f"{path}::vectors" if writer is safetensors else path
    assert_same(fk.knn(QUERIES, source, 4), fk.knn(QUERIES, DATA, 4))


def test_mlx_queries_get_mlx_results(files: tuple[Path, Path]) -> None:
    found = fk.knn(mx.array(QUERIES), files[1], 3)
    assert all(isinstance(array, mx.array) for array in found)
    assert_same(found, fk.knn(QUERIES, DATA, 3))


@pytest.mark.parametrize("kind", ["path", "map"])
@pytest.mark.parametrize(
    ("q", "n", "d", "k"), [(100, 60_000, 96, 10), (4000, 20_000, 32, 40), (1500, 4000, 256, 300)]
)
def test_memory_stays_under_the_cap(
    tmp_path: Path, q: int, n: int, d: int, k: int, kind: str
) -> None:
    x = np.random.default_rng(0).random((max(q, n), d), np.float32)
    np.save(tmp_path / "q.npy", x[:q])
    np.save(tmp_path / "x.npy", x[:n])
    del x
    queries, data = (
        np.load(tmp_path / name, mmap_mode="r") if kind == "map" else tmp_path / name
        for name in ("q.npy", "x.npy")
    )
    fk.knn(queries, data, 1)  # loads code
    caps = [(12 * q * k + (24 << 20)) / 1e9, (12 * q * k + (40 << 20)) / 1e9, 0.5]
    found = []
    for cap in caps:
        assert (
            peak(lambda cap=cap: found.append(fk.knn(queries, data, k, max_mem_gb=cap)))
            <= cap * 1e9
        )
        assert_same(found[-1], found[0])
    with pytest.raises(ValueError, match=r"^max_mem_gb=1e-05 must be >= "):
        fk.knn(queries, data, k, max_mem_gb=1e-5)


def test_what_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    q, x = files
    with pytest.raises(ValueError, match=r"^k=501 must be <= N=500 \(data.shape=\(500, 7\)\)$"):
        fk.knn(q, x, 501)
    with pytest.raises(ValueError, match=r"^k=500 must be <= N - 1=499"):
        fk.knn(x, x, 500, exclude_self=True)
    with pytest.raises(ValueError, match=r"queries\.shape=\(40, 7\) and data\.shape=\(500, 7\)"):
        fk.knn(q, x, 3, exclude_self=True)
    with pytest.raises(
        ValueError, match=r"the same D, got queries\.shape=\(40, 6\) and data\.shape=\(500, 7\)"
    ):
        fk.knn(QUERIES[:, :6], x, 3)
    with pytest.raises(
        ValueError, match=r"data must have shape \(N, D\) beside a file, got \(2, 40, 7\)"
    ):
        fk.knn(q, np.stack([QUERIES, QUERIES]), 3)
    with pytest.raises(fk.VectorFileError, match="unknown"):
        fk.knn(tmp_path / "q.npy", __file__, 3)
    np.save(tmp_path / "nan.npy", np.where(DATA == 5, np.nan, DATA))
    with pytest.raises(ValueError, match="must be finite, got NaN"):
        fk.knn(q, tmp_path / "nan.npy", 3)


def test_no_thread_is_left_after_an_error(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "_plan", lambda *_: streamed.SearchPlan(10, 40))

    class Stop(Bar):
        def advance(self, amount: float) -> None:
            if amount:
                raise KeyboardInterrupt

    monkeypatch.setattr(streamed, "open_progress", Stop)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        search_files(*files, 3)
    assert threading.active_count() <= before


def test_a_batched_memory_map_is_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.stack([DATA, DATA + 1]))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same(fk.knn(x[:, :9], x, 3), fk.knn(np.array(x[:, :9]), np.array(x), 3))
    with pytest.raises(ValueError, match="it has 3 dimensions"):
        open_vectors(x)
