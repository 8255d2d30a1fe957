"""What Python does for a small fit, counted: it takes longer than the kernels."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import validation
from flash_kmeans_mlx.backends.cpu import blas
from flash_kmeans_mlx.kmeans import arguments
from flash_kmeans_mlx.kmeans import fit as fitting

X = np.random.default_rng(0).standard_normal((500, 16), np.float32)
# Calls of functions, in Python and in C, of one fit: some 390 with NumPy 2.4 on Python 3.11.
MOST_CALLS = 450


@contextmanager
def profiled(profile: Callable[..., None]) -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


def small_fit(x: np.ndarray = X, start: Any = X[:8]) -> fk.KMeansResult:
    return fk.batch_kmeans_Euclid(x, 8, max_iters=1, init_centroids=start, backend="cpu")


def calls_of(function: Callable[[], object]) -> int:
    """Return the number of calls that a function makes once all is imported and compiled."""
    events: list[str] = []
    function()
    function()
    with profiled(lambda _frame, event, _arg: events.append(event)):
        function()
    return sum(event in ("call", "c_call") for event in events)


@pytest.mark.skipif("FLASH_KMEANS_DEBUG" in os.environ, reason="kernels are Numba's then")
def test_a_small_fit_makes_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "1")
    assert calls_of(small_fit) < MOST_CALLS


@pytest.mark.skipif("FLASH_KMEANS_DEBUG" in os.environ, reason="kernels are Numba's then")
def test_more_iterations_or_elements_make_no_more_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "1")
    batch = np.stack([X[:300], X[200:]])

    def longer() -> None:
        fk.batch_kmeans_Euclid(X, 8, max_iters=20, init_centroids=X[:8], backend="cpu")

    assert calls_of(longer) < MOST_CALLS
    assert calls_of(lambda: small_fit(batch)) < MOST_CALLS + 60


def test_one_task_starts_no_thread_and_leaves_blas_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "2")

    def refuse(*_args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(blas, "_set_threads", refuse)
    monkeypatch.setattr(os, "cpu_count", refuse)
    small_fit()


def test_given_centroids_are_read_in_place_and_never_changed() -> None:
    data = validation.data(X)
    first = small_fit()
    before = first.centroids.copy()
    read = arguments.centroids(first.centroids, data, 8, "init_centroids", check_finite=True)
    assert np.shares_memory(read, first.centroids)
    second = small_fit(start=first.centroids)
    assert not np.shares_memory(second.centroids, first.centroids)
    np.testing.assert_array_equal(first.centroids, before)
    at_rest = fk.batch_kmeans_Euclid(X, 8, max_iters=0, init_centroids=first.centroids)
    assert not np.shares_memory(at_rest.centroids, first.centroids)


@pytest.mark.parametrize("argument", ["init", "init_centroids"])
def test_given_centroids_are_checked_once(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def check(*args: Any) -> np.ndarray:
        checked.append(args)
        return original(*args)

    original = arguments.centroids
    monkeypatch.setattr(fitting.arguments, "centroids", check)
    start: dict[str, Any] = {argument: X[:8]}
    fk.batch_kmeans_Euclid(X, 8, max_iters=1, **start)
    assert len(checked) == 1
