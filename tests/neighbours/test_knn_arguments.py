"""Wrong arguments of a search are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact_neighbours import points

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.neighbours.search import Search


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (np.ones((2, 3)), np.ones((5, 4)), 1),
            {},
            ValueError,
            r"data must have shape \(N, D\)=\(N, 3\), got \(5, 4\) \(queries",
        ),
        (
            (np.ones((2, 3)), np.ones((1, 5, 3)), 1),
            {},
            ValueError,
            r"data must have shape \(N, D\)=\(N, 3\), got \(1, 5, 3\)",
        ),
        (
            (np.ones((2, 2, 3)), np.ones((1, 5, 3)), 1),
            {},
            ValueError,
            r"data must have shape \(B, N, D\)=\(2, N, 3\), got",
        ),
        (
            (np.ones(3), np.ones((5, 3)), 1),
            {},
            ValueError,
            r"queries must have shape \(N, D\) or \(B, N, D\), got 1 dimensions",
        ),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 6),
            {},
            ValueError,
            r"k=6 must be <= N=5 \(data.shape=\(5, 3\)\)",
        ),
        (
            (np.ones((5, 3)), np.ones((5, 3)), 5),
            {"exclude_self": True},
            ValueError,
            r"k=5 must be <= N - 1=4",
        ),
        (
            (np.ones((4, 3)), np.ones((5, 3)), 2),
            {"exclude_self": True},
            ValueError,
            r"queries that are the data, got queries",
        ),
        ((np.ones((2, 3)), np.ones((5, 3)), 0), {}, ValueError, r"k=0 must be >= 1"),
        ((np.ones((2, 3)), np.ones((5, 3)), 1.5), {}, TypeError, r"k=1.5 must be an integer"),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 1),
            {"metric": "l2"},
            ValueError,
            r"metric='l2' must be one of 'euclidean', 'cosine'",
        ),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 1),
            {"exclude_self": 1},
            TypeError,
            r"exclude_self=1 must be True or False",
        ),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 1),
            {"max_mem_gb": -1},
            ValueError,
            r"max_mem_gb=-1 must be finite and >= 0",
        ),
        (
            (np.ones((2, 3)), np.ones((5, 3)), 1),
            {"backend": "gpu"},
            ValueError,
            r"backend='gpu' must be one of",
        ),
        (
            (np.full((2, 3), np.nan), np.ones((5, 3)), 1),
            {},
            ValueError,
            r"queries must be finite, got NaN or Inf",
        ),
        (
            (np.ones((2, 3)), np.full((5, 3), 1e300), 1),
            {},
            ValueError,
            r"data must fit in float32, got a magnitude of 1e\+300",
        ),
    ],
)
def test_wrong_arguments(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fk.knn(*arguments, **options)


def test_a_search_of_too_few_rows() -> None:
    with Search(points(3, 2), 5, exclude_self=True) as search:
        search.add(points(5, 2), 0)
        with pytest.raises(ValueError, match=r"k=5 must be <= N - 1=4 \(queries.shape=\(3, 2\)\)"):
            search.result()


def test_a_chunk_of_too_many_rows() -> None:
    rows = np.broadcast_to(
        np.zeros((1, 2), np.float32), (1 << 32, 2)
    )  # all of them one row in memory
    with (
        Search(points(3, 2), 5) as search,
        pytest.raises(ValueError, match="fewer than 4294967296 rows at a time, got 4294967296"),
    ):
        search.add(rows, 0)
