"""Fits, assignments and predictions of points that are read in each pass: the bits are those of the same points in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import vector_files as files
from helpers import FITS, every_metric
from memory import check_cap, stated_need

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.shards.source import open_source

WRITERS = {
    ".npy": files.npy,
    ".safetensors": files.safetensors,
    ".fvecs": files.vecs,
    ".parquet": files.parquet,
    ".arrow": files.arrow,
}
SUFFIXES = tuple(WRITERS)


class Chunks:
    """Chunks of an array, anew in every pass."""

    def __init__(self, x: np.ndarray, rows: int = 700) -> None:
        self.x, self.rows = x, rows

    def __iter__(self) -> Iterator[np.ndarray]:
        for lo in range(0, len(self.x), self.rows):
            yield self.x[lo : lo + self.rows]


def write(path: Path, x: np.ndarray) -> Path:
    """Write x in the format of the path's suffix."""
    WRITERS[path.suffix](path, x, dtype="float32", rows=1000)
    return path


def points(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Return (N, D) float32: clusters of several sizes."""
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((30, d), np.float32)
    return centres[rng.integers(30, size=n) ** 2 % 30] + rng.standard_normal((n, d), np.float32)


def same(a: Any, b: Any) -> None:
    found, wanted = helpers.bits(a), helpers.bits(b)
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@every_metric
def test_every_format(suffix: str, metric: str, tmp_path: Path) -> None:
    x = points(9000, 33)
    path = write(tmp_path / f"x{suffix}", x)
    fit = FITS[metric]
    result = fit(path, 40, 6)
    assert result.backend == "cpu"
    same(result, fit(x, 40, 6, backend="cpu"))
    labels = fk.assign(path, result.centroids, metric)
    np.testing.assert_array_equal(labels, result.labels)


@pytest.mark.parametrize("empty", ["farthest", "split", "keep"])
@every_metric
def test_empty_clusters_and_weights(metric: str, empty: str, tmp_path: Path) -> None:
    x = points(5000, 12)
    weights = np.random.default_rng(1).integers(0, 3, len(x)).astype(np.float32)
    np.save(tmp_path / "weights.npy", weights)
    start = np.where(np.arange(30)[:, None] % 2, 1000 * x[:30], x[:30])
    options = {"init_centroids": start, "empty": empty, "max_iters": 7}
    wanted = FITS[metric](x, 30, backend="cpu", sample_weight=weights, **options)
    same(FITS[metric](Chunks(x), 30, sample_weight=tmp_path / "weights.npy", **options), wanted)


@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
def test_every_init(init: str) -> None:
    x = points(4000, 9)  # few enough for k-means++ to see all
    for n_init in (1, 3):
        wanted = fk.batch_kmeans_Euclid(x, 20, 4, init=init, n_init=n_init, backend="cpu")
        same(fk.batch_kmeans_Euclid(Chunks(x), 20, 4, init=init, n_init=n_init), wanted)


@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_plusplus_on_a_sample(weighted: bool) -> None:
    """It is about as good as on all points, and never draws a point of weight zero."""
    x = points(30_000, 8)
    weights = (np.arange(len(x)) % 10 == 0).astype(np.float32) if weighted else None
    sampled = fk.batch_kmeans_Euclid(Chunks(x), 10, 0, init="k-means++", sample_weight=weights)
    whole = fk.batch_kmeans_Euclid(x, 10, 0, init="k-means++", sample_weight=weights)
    assert sampled.inertia < 1.3 * whole.inertia
    index = [int(np.flatnonzero((x == c).all(1))[0]) for c in sampled.centroids]
    assert len(set(index)) == 10
    assert weights is None or weights[index].all()


def test_several_files_and_names(tmp_path: Path) -> None:
    x = points(6000, 20)
    for i, part in enumerate(np.split(x, [100, 3333])):
        write(tmp_path / f"part-{i}{SUFFIXES[i]}", part)
    wanted = fk.batch_kmeans_Euclid(x, 25, 5, backend="cpu")
    for source in (tmp_path, tmp_path / "part-*", sorted(map(str, tmp_path.iterdir()))):
        same(fk.batch_kmeans_Euclid(source, 25, 5), wanted)


def test_the_estimator(tmp_path: Path) -> None:
    x = points(5000, 7)
    np.save(tmp_path / "x.npy", x)
    path = str(tmp_path / "x.npy")
    model = fk.FlashKMeans(7, 20, backend="cpu").fit(path)
    wanted = fk.FlashKMeans(7, 20, backend="cpu").fit(x)
    np.testing.assert_array_equal(model.centroids, wanted.centroids)
    np.testing.assert_array_equal(model.predict(path), wanted.labels_)
    assert model.score(path) == wanted.score(x) == -model.inertia_
    np.testing.assert_array_equal(model.transform(path), wanted.transform(x))


def test_labels_in_a_file(tmp_path: Path) -> None:
    x = points(5000, 7)
    path = tmp_path / "labels.npy"
    for given, n_init in ((x, 1), (Chunks(x), 1), (Chunks(x), 2)):
        wanted = fk.batch_kmeans_Euclid(x, 9, n_init=n_init, backend="cpu")
        result = fk.batch_kmeans_Euclid(given, 9, n_init=n_init, backend="cpu", labels_path=path)
        same(result, wanted)
        assert isinstance(result.labels, np.memmap)
        np.testing.assert_array_equal(np.load(path), wanted.labels)
    batch = fk.batch_kmeans_Euclid(x.reshape(5, 1000, 7), 9, labels_path=path)
    np.testing.assert_array_equal(np.load(path), batch.labels)


def test_labels_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def stop(_: Any) -> None:
        raise InterruptedError

    x = points(500, 7)
    with pytest.raises(InterruptedError):
        fk.batch_kmeans_Euclid(x, 9, labels_path=tmp_path / "labels.npy", callback=stop)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        fk.batch_kmeans_Euclid(x, 9, labels_path=tmp_path / "missing" / "labels.npy", callback=stop)
    with pytest.raises(ValueError, match=r"must end in \.npy"):
        fk.batch_kmeans_Euclid(x, 9, labels_path=tmp_path / "labels.bin", callback=stop)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_value_that_is_not_finite_is_named(suffix: str, tmp_path: Path) -> None:
    x = points(20_000, 5)
    x[12_345, 3] = np.nan
    path = write(tmp_path / f"x{suffix}", x)
    write(tmp_path / f"w{suffix}", x[:5000])
    with pytest.raises(ValueError, match=rf"NaN or Inf in '.*x\{suffix}.*', row 12345 "):
        fk.batch_kmeans_Euclid([tmp_path / f"w{suffix}", path], 5)


def test_a_value_beyond_float32_is_named() -> None:
    x = points(3000, 5).astype(np.float64)
    x[2222, 3] = 1e39
    with pytest.raises(ValueError, match=r"magnitude of 1e\+39 in chunk 3, row 122 "):
        fk.batch_kmeans_Euclid(Chunks(x), 5)


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, points(20_000, 16))

    def cut(iteration: Any) -> None:
        if iteration.n_iter == 2:
            os.truncate(path, 600_000)

    with pytest.raises(ValueError, match=r"x\.npy': it (ended|is truncated)"):
        fk.batch_kmeans_Euclid(path, 50, callback=cut)


def test_arguments_that_do_not_fit() -> None:
    x = points(300, 4)
    with pytest.raises(fk.BackendUnavailableError, match="'portable' can't fit points"):
        fk.batch_kmeans_Euclid(Chunks(x), 3, backend="portable")
    with pytest.raises(ValueError, match="dtype='float16' must be None for points"):
        fk.batch_kmeans_Euclid(Chunks(x), 3, dtype="float16")
    with pytest.raises(TypeError, match="yields its rows only once"):
        fk.batch_kmeans_Euclid(iter(Chunks(x)), 3)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(N,\)=\(300,\)"):
        fk.batch_kmeans_Euclid(Chunks(x), 3, sample_weight=np.ones(299))
    with pytest.raises(ValueError, match="n_clusters=301 must be <= N=300"):
        fk.batch_kmeans_Euclid(Chunks(x), 301)
    with pytest.raises(FileNotFoundError):
        fk.batch_kmeans_Euclid("missing.npy", 3)


@pytest.mark.parametrize(
    ("metric", "init"),
    [
        *(("euclidean", init) for init in ("random", "k-means++", "k-means||", "far")),
        ("cosine", "k-means||"),
        ("dot", "far"),
    ],
)
def test_a_cap(init: str, metric: str, tmp_path: Path) -> None:
    x = points(60_000, 16)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "w.npy", np.random.default_rng(0).random(len(x), np.float32))
    start = np.where(np.arange(90)[:, None] % 2, 1000 * x[:90], x[:90]) if init == "far" else init
    for options in ({}, {"sample_weight": np.load(tmp_path / "w.npy"), "empty": "split"}):
        result = check_cap(
            lambda cap, options=options: FITS[metric](
                tmp_path / "x.npy", 90, 3, init=start, max_mem_gb=cap, **options
            )
        )
        wanted = FITS[metric](Chunks(x), 90, 3, init=start, **options)
        same(result, wanted)


def test_a_cap_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Labels in a file, 64 MB of points, and a few MB of memory."""
    path = tmp_path / "x.npy"
    x = np.lib.format.open_memmap(path, "w+", np.float32, (1_000_000, 16))
    x[...] = np.random.default_rng(0).standard_normal((10_000, 16), np.float32).repeat(100, 0)
    x.flush()
    del x

    def call(cap: float) -> Any:
        labels = tmp_path / "labels.npy"
        return fk.batch_kmeans_Euclid(path, 8, 2, max_mem_gb=cap, labels_path=labels)

    assert stated_need(call) < 3e-3
    check_cap(call)


def test_a_source_is_kept_as_it_is() -> None:
    x = points(2000, 4)
    source = open_source(Chunks(x))
    for _ in range(2):
        same(fk.batch_kmeans_Euclid(source, 5), fk.batch_kmeans_Euclid(x, 5, backend="cpu"))
    assert re.match("x, a Chunks of 3 chunks", str(source))
