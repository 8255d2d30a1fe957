"""Kernels select the best candidates without spare ones beyond k; sizes of searches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from exact_neighbours import SCIPY
from scipy.spatial.distance import cdist

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.cpu import neighbours as topk
from flash_kmeans_mlx.backends.cpu.tasks import SearchSizes


@pytest.mark.parametrize("spare", [0, 1, 40])
@pytest.mark.parametrize("k", [1, 2, 7, 33])
@pytest.mark.parametrize("d", [1, 6])
def test_the_best_are_kept(d: int, k: int, spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = topk.search_sizes

    def bare(*sizes: Any) -> SearchSizes:
        return replace(original(*sizes), keep=k, capacity=k + spare)

    monkeypatch.setattr(topk, "search_sizes", bare)
    rng = np.random.default_rng(0)
    for n, q in ((40, 5), (1000, 70)):
        rows, queries = (rng.integers(-9, 10, (m, d)).astype(np.float32) for m in (n, q))
        for metric, name in SCIPY.items():
            # Nearer and nearer: every row is a candidate.
            nearer = rows[np.argsort(-np.abs(rows).sum(1))]
            for data in (rows, nearer):
                _, indices = fk.knn(queries, data, k, metric, backend="cpu")
                expected = np.argsort(cdist(queries, data, name), axis=1, kind="stable")[:, :k]
                np.testing.assert_array_equal(indices, expected)


def test_sizes() -> None:
    many = topk.search_sizes(1, 10_000, 10_000, 100, 10, 2, 1 << 62)
    assert many.shards == 1 and many.threads == 2 and many.keep == many.capacity == 12
    few = topk.search_sizes(1, 1, 1_000_000, 128, 100, 2, 1 << 62)
    assert few.shards == 4 and few.group == 1 and few.capacity == 2 * few.keep
    assert topk.search_sizes(1, 10, 100, 5, 3, 8, 1 << 62).threads == 1
    everything = topk.search_sizes(1, 5, 5000, 3, 5000, 2, 1 << 62)
    assert everything.keep == 5000 < everything.capacity <= 10_000
    for room in (200_000, 1_000_000, 10_000_000):
        tight = topk.search_sizes(2, 10_000, 10_000, 16, 10, 4, room)
        assert tight.threads * tight.thread_bytes(16) <= room
