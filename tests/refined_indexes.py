"""Refined indexes of the same vectors for the tests, and exact search among these."""

from __future__ import annotations

from typing import Any

import numpy as np
from small_indexes import D

from flash_kmeans_mlx.index import IndexFlat, index_factory

RNG = np.random.default_rng(0)
N = 640
ROWS = RNG.standard_normal((N, D)).astype(np.float32)
ROWS[::7] = ROWS[3]  # of equally near vectors, the lowest ids come first
IDS = RNG.permutation(5 * N)[:N]
QUERIES = np.concatenate([ROWS[:4], RNG.standard_normal((9, D)).astype(np.float32)])
DESCRIPTIONS = ["PQ4x3", "IVF5,PQ4x4fs", "OPQ4,IVF5,PQ4x3", "IVF5,Flat", "HNSW8", "Flat"]


def refined(description: str, metric: str = "euclidean", backend: str | None = None) -> Any:
    index = index_factory(D, f"{description},RFlat", metric, backend=backend)
    index.train(ROWS)
    index.add(ROWS, IDS)
    return index


def flat(metric: str = "euclidean", backend: str | None = None) -> IndexFlat:
    index = IndexFlat(D, metric, backend=backend)
    index.add(ROWS, IDS)
    return index


def same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
