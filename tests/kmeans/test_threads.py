"""Threads: ours end with the fit, the caller's may fit at once, and BLAS keeps the setting it had."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, backends_but, bits
from threadpoolctl import threadpool_info, threadpool_limits

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.cpu.workers import thread_count

RNG = np.random.default_rng(0)
SMALL = RNG.standard_normal((900, 8), np.float32)
LARGE = RNG.standard_normal((21_000, 24), np.float32)  # with K=22, N * K * D > 1e7: over threads


@pytest.fixture
def blas_threads() -> Iterator[int]:
    """Set BLAS to a number of threads that the package would not choose."""
    fk.batch_kmeans_Euclid(SMALL, 2, 1, backend="cpu")  # loads the library
    with threadpool_limits(3, "blas"):
        yield 3


def blas() -> set[int]:
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    # Faiss has its own.
    return {library["num_threads"] for library in libraries if "faiss" not in library["filepath"]}


def ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("flash-kmeans")]


@pytest.mark.parametrize("library", [np.asarray, mx.array], ids=["numpy", "mlx"])
@pytest.mark.parametrize("backend", backends_but("metal"))
def test_fits_at_once_give_the_bits_of_fits_in_turn(backend: str, library: Any) -> None:
    points = [SMALL[: 800 + i] for i in range(8)]
    if backend == "cpu":
        points += [LARGE[: 20_000 + i] for i in range(8)]
    jobs = [
        (library(x), 22, metric, init)
        for x, metric, init in zip(points, 6 * [*FITS], 8 * ["random", "k-means++"], strict=False)
    ]

    def fit(job: tuple[Any, int, str, str]) -> tuple[dict[str, bytes], bytes]:
        x, k, metric, init = job
        result = FITS[metric](x, k, 4, init=init, backend=backend)
        labels = fk.assign(x, result.centroids, metric, backend=backend)
        return bits(result), np.array(labels).tobytes()

    want = [fit(job) for job in jobs]
    for _ in range(2):
        with ThreadPoolExecutor(len(jobs)) as pool:
            assert list(pool.map(fit, jobs)) == want
    assert ours() == []


def test_one_model_predicts_from_several_threads() -> None:
    model = fk.FlashKMeans(k=22, niter=2, init="random").fit(LARGE)
    want = model.predict(LARGE)
    with ThreadPoolExecutor(6) as pool:
        for labels in pool.map(lambda _: model.predict(LARGE), range(12)):
            np.testing.assert_array_equal(labels, want)


@pytest.mark.parametrize("metric", FITS)
def test_the_number_of_threads_changes_no_bit(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = np.stack([SMALL, SMALL[::-1], 2 * SMALL])
    weights = np.random.default_rng(0).random(len(LARGE), np.float32)
    jobs = [
        (LARGE, {"init": "k-means++", "sample_weight": weights}),
        (LARGE, {"init": "k-means||"}),
        (
            np.stack([LARGE, -LARGE]),
            {"empty": "split", "init_centroids": np.concatenate([LARGE[:11], LARGE[:11] + 90])},
        ),
        (batch, {"init": "k-means++", "n_init": 2}),
    ]
    seen = []
    for threads in (1, 2, 5):
        monkeypatch.setenv("FLASH_KMEANS_THREADS", str(threads))
        results = [FITS[metric](x, 22, 4, backend="cpu", **options) for x, options in jobs]
        seen.append([bits(result) for result in results])
    assert seen[0] == seen[1] == seen[2]


def test_threads_exist_only_inside_a_fit(
    blas_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "4")
    seen = []

    def init(x: Any, n_clusters: int, _: Any) -> Any:
        seen.append((len(ours()), blas()))
        return x[:n_clusters]

    # The norms are computed before the seeding.
    fk.batch_kmeans_Cosine(LARGE, 22, 2, init=init, strategy="head", backend="cpu")
    ((threads, setting),) = seen
    assert 1 <= threads <= 3  # the caller is the fourth
    assert setting == {1}
    assert (ours(), blas()) == ([], {blas_threads})


@pytest.mark.parametrize("x", [SMALL, LARGE], ids=["small", "large"])
def test_nothing_is_left_after_an_error(
    x: np.ndarray, blas_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "4")

    def broken(*_: Any) -> Any:
        raise RuntimeError("the caller's own")

    bad = x.copy()
    bad[-1] = np.nan
    calls = [
        lambda: fk.batch_kmeans_Cosine(x, 22, init=broken, backend="cpu"),
        lambda: fk.batch_kmeans_Cosine(x, 22, init=lambda *_: x[:3], backend="cpu"),
        lambda: fk.batch_kmeans_Cosine(bad, 22, backend="cpu"),
        lambda: fk.batch_kmeans_Cosine(x, 22, max_mem_gb=1e-9, backend="cpu"),
    ]
    before = threading.active_count()
    for call in calls:
        with pytest.raises((RuntimeError, ValueError), match=r"own|must"):
            call()
        assert (ours(), blas(), threading.active_count()) == ([], {blas_threads}, before)


def test_blas_keeps_its_setting_while_fits_overlap_and_fail(blas_threads: int) -> None:
    barrier = threading.Barrier(6)

    def init(x: Any, n_clusters: int, rng: Any) -> Any:
        turn = barrier.wait(60)  # all six are inside
        assert blas() == {1}
        barrier.wait(60)
        if turn % 2:
            raise RuntimeError("half of them fail")
        return x[rng.choice(len(x), n_clusters, replace=False)]

    with ThreadPoolExecutor(6) as pool:
        futures = [
            pool.submit(
                fk.batch_kmeans_Euclid, LARGE, 22, 3, init=init, strategy="head", backend="cpu"
            )
            for _ in range(6)
        ]
        errors = [f.exception() for f in futures]
    assert sorted(str(e) for e in errors if e) == 3 * ["half of them fail"]
    assert (ours(), blas()) == ([], {blas_threads})


def test_the_last_fit_to_leave_restores_blas() -> None:
    code = """
import threading
import numpy as np
import scipy.linalg.cython_blas  # Numba loads its BLAS
import flash_kmeans_mlx as fk
from threadpoolctl import threadpool_info

blas = lambda: [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]
before = blas()
inside, left, done = threading.Event(), threading.Event(), threading.Event()

def first(x, n_clusters, _):
    second.start()
    assert inside.wait(60)
    return x[:n_clusters]

def last(x, n_clusters, _):
    inside.set()
    assert left.wait(60)
    return x[:n_clusters]

def fit(init, after, until=None):
    fk.batch_kmeans_Euclid(np.eye(9), 3, init=init, strategy="head", backend="cpu")
    after.set()
    assert until is None or until.wait(60)  # the thread that came first is still there

finished = threading.Event()
one = threading.Thread(target=fit, args=(first, left, finished))
second = threading.Thread(target=fit, args=(last, done))
one.start()
assert done.wait(60)
during = blas()
finished.set()
one.join()
second.join()
assert during == blas() == before, (before, during, blas())
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "3"}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, env=environment, timeout=120
    )


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux's")
def test_a_sandbox_may_forbid_choosing_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.standard_normal((5000, 64), np.float32)
    want = fk.batch_kmeans_Euclid(x, 50, 3, backend="cpu")
    asked = []

    def refuse(_pid: int, cpus: set[int]) -> None:
        asked.append(cpus)
        raise PermissionError

    monkeypatch.setenv("FLASH_KMEANS_THREADS", "2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    got = fk.batch_kmeans_Euclid(x, 50, 3, backend="cpu")
    assert asked and got.labels.tobytes() == want.labels.tobytes()


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " ", "1e2", "²"])
def test_a_bad_number_of_threads(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", value)
    for x in (SMALL, LARGE):
        with pytest.raises(
            ValueError, match=rf"^FLASH_KMEANS_THREADS={value!r} must be a whole number >= 1$"
        ):
            fk.batch_kmeans_Euclid(x, 22, backend="cpu")


@pytest.mark.parametrize("value", [str(10**9), "9" * 5000])
def test_the_number_of_threads_is_bounded(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", value)
    assert thread_count() == 8 * (os.cpu_count() or 1)
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "0003")
    assert thread_count() == 3


def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "")
    assert fk.batch_kmeans_Euclid(SMALL, 3, backend="cpu").backend == "cpu"
