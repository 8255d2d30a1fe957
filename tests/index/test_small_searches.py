"""A search of one query does little beside its kernels: calls of Python functions are counted, not time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.cpu import neighbours as cpu_neighbours
from flash_kmeans_mlx.index import IndexFlat, IndexIVFFlat

X = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
# Calls of Python functions, about a quarter more than there are.
MOST = {"IndexIVFFlat": 80, "IndexFlat": 55, "knn": 90}


def n_calls(search: Callable[[], Any]) -> int:
    """Return how many Python functions a search calls, once its kernels are loaded."""
    search()
    calls = []

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        search()
    finally:
        sys.setprofile(before)
    return len(calls)


@pytest.fixture(scope="module")
def searches() -> dict[str, Callable[[], Any]]:
    ivf = IndexIVFFlat(16, 20, nprobe=4, backend="cpu")
    flat = IndexFlat(16, backend="cpu")
    for index in (ivf, flat):
        index.train(X)
        index.add(X)
    return {
        "IndexIVFFlat": lambda: ivf.search(X[:1], 10),
        "IndexFlat": lambda: flat.search(X[:1], 10),
        "knn": lambda: fk.knn(X[:1], X[:100], 1, backend="cpu"),
    }


@pytest.mark.parametrize("name", MOST)
def test_a_search_of_one_query_calls_few_functions(
    searches: dict[str, Callable[[], Any]], name: str
) -> None:
    assert n_calls(searches[name]) <= MOST[name]


@pytest.mark.parametrize("name", MOST)
def test_more_work_for_a_search_is_noticed(
    searches: dict[str, Callable[[], Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_neighbours, "few_are_faster", lambda *_: False)
    assert n_calls(searches[name]) > MOST[name]
