"""`Neighbours` of every backend against float64 brute force: one chunk of rows, asked as a search asks it.

A new backend joins by its entry in `backends.BACKENDS`. Whole searches are in tests/neighbours/test_knn.py.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from exact_neighbours import METRICS
from helpers import Array, every_backend, to_float64

from flash_kmeans_mlx import validation
from flash_kmeans_mlx.backends import Request, measure_rows, open_neighbours
from flash_kmeans_mlx.backends.neighbours import NOTHING, Found, Neighbours
from flash_kmeans_mlx.metrics import PROXIMITIES

every_distance = pytest.mark.parametrize("metric", METRICS)


def search(
    queries: Any, k: int, metric: str, backend: str, *, exclude_self: bool = False, cap: int = 0
) -> Neighbours:
    """Return a search for queries (B, Q, D), as `Search` opens it."""
    x = validation.data(queries, name="queries").x
    request = Request(
        queries=x,
        shape=tuple(queries.shape),
        k=k,
        proximity=PROXIMITIES[metric],
        exclude_self=exclude_self,
        max_bytes=cap,
        bytes_in_use=0,
    )
    return open_neighbours(backend, request)


def nearest(
    searching: Neighbours, data: Any, offset: int = 0, before: Found | None = None
) -> Found:
    with searching as opened:
        return opened.nearest(validation.data(data, name="data").x, offset, before)


def brute_force(
    queries: Any, data: Any, k: int, metric: str, skipped: Array | None = None
) -> Found:
    """Return (B, Q, m) float64 distances and indices, m = min(k, M), by distance, then by index.

    Args:
        queries: (B, Q, D).
        data: (B, M, D).
        k: Neighbours of every query.
        metric: The distance.
        skipped: (Q,) the row that a query may not get, -1 for none.
    """
    q, x = to_float64(queries), to_float64(data)
    value = np.stack([PROXIMITIES[metric].distances(a, b) for a, b in zip(q, x, strict=True)])
    if skipped is not None:
        row = np.flatnonzero(skipped >= 0)
        value[:, row, skipped[row]] = np.inf
    order = np.argsort(value, axis=-1, kind="stable")[..., :k]
    distances = np.take_along_axis(value, order, -1)
    return distances, np.where(np.isinf(distances), NOTHING, order)


def check(found: Found, expected: Found) -> None:
    """Assert equal indices, and distances up to rounding of the float64 sums."""
    assert found[0].dtype == np.float64 and found[1].dtype == np.int64
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12, atol=1e-14)


def rows(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@every_backend
@every_distance
@pytest.mark.parametrize(
    ("b", "q", "n", "d", "k"), [(1, 9, 120, 5, 7), (2, 5, 61, 19, 1), (1, 3, 6, 4, 9)]
)
def test_the_nearest_rows(
    b: int, q: int, n: int, d: int, k: int, metric: str, backend: str
) -> None:
    """K may be larger than the chunk, which then comes back whole."""
    queries, data = rows(b, q, d), rows(b, n, d)
    found = nearest(search(queries, k, metric, backend), data)
    assert found[0].shape == found[1].shape == (b, q, min(k, n))
    check(found, brute_force(queries, data, k, metric))


@every_backend
@every_distance
def test_ties_go_to_the_lowest_index(metric: str, backend: str) -> None:
    data = np.random.default_rng(0).integers(-1, 2, (1, 90, 3)).astype(np.float32)
    queries = data[:, :12]
    for k in (1, 20):
        found = nearest(search(queries, k, metric, backend), data)
        check(found, brute_force(queries, data, k, metric))


@every_backend
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_zero_rows(metric: str, backend: str) -> None:
    """A zero row or query is at distance 1 for cosine and 0 for dot: the index decides."""
    data = rows(1, 40, 6)
    data[:, ::3] = 0
    queries = np.concatenate([np.zeros((1, 1, 6), np.float32), data[:, 1:4]], axis=1)
    found = nearest(search(queries, 40, metric, backend), data)
    check(found, brute_force(queries, data, 40, metric))


@every_backend
@every_distance
@pytest.mark.parametrize("offset", [0, 25, 50, 35, 200])
def test_nobody_is_their_own_neighbour(offset: int, metric: str, backend: str) -> None:
    """`exclude_self` skips row i of all data for query i, wherever the chunk begins; a duplicate is not oneself."""
    queries, data = rows(1, 40, 5), rows(1, 30, 5)
    both = np.arange(max(0, offset), min(40, offset + 30))
    data[:, both - offset] = queries[:, both]
    data[:, -1] = data[:, 0]
    searching = search(queries, 30, metric, backend, exclude_self=True)
    skipped = searching.skipped(offset, 30)
    assert np.flatnonzero(skipped >= 0).tolist() == both.tolist()
    found = nearest(searching, data, offset)
    check(found, brute_force(queries, data, 30, metric, skipped))


@every_backend
@every_distance
def test_rows_beyond_what_was_found_before_may_be_left_out(metric: str, backend: str) -> None:
    """Merged with the result of other chunks, a chunk gives what all rows give."""
    queries, data = rows(2, 7, 5), rows(2, 90, 5)
    whole = brute_force(queries, data, 6, metric)
    first = brute_force(queries, data[:, :50], 6, metric)
    searching = search(queries, 6, metric, backend)
    distances, index = nearest(searching, data[:, 50:], 50, first)
    assert distances.shape == index.shape == (2, 7, 6)
    missing = index == NOTHING
    np.testing.assert_array_equal(np.isposinf(distances), missing)
    assert (np.diff(missing.astype(int), axis=-1) >= 0).all(), "places without a row come last"
    np.add(index, 50, out=index, where=~missing)
    searching.merge(first, (distances, index))
    check(first, whole)


@every_backend
@every_distance
@pytest.mark.parametrize("kind", ["float64", "float16", "mlx"])
def test_rows_of_other_types_are_ranked_as_they_are(kind: str, metric: str, backend: str) -> None:
    """Digits that float32 drops tell rows of float64 apart."""
    rng = np.random.default_rng(0)
    data: Any = 1 + 1e-10 * rng.standard_normal((1, 60, 5))
    if kind != "float64":
        data = rng.standard_normal((1, 60, 5)).astype(np.float16)
    if kind == "mlx":
        data = mx.array(data).astype(mx.bfloat16)
    queries = data[:, :8]
    found = nearest(search(queries, 5, metric, backend), data)
    expected = brute_force(queries, data, 5, metric)
    if kind != "float64":
        check(found, expected)
        return
    # Sums of nearly equal terms: indices may differ where distances do not.
    own = PROXIMITIES[metric].distances(queries[0], data[0])
    rounding = 1e-14 if metric in ("cosine", "dot") else 1e-12 * expected[0].max()
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=rounding)
    np.testing.assert_allclose(
        np.take_along_axis(own, found[1][0], -1), expected[0][0], rtol=0, atol=rounding
    )


@every_backend
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(bad: float, backend: str) -> None:
    data = rows(1, 40, 5)
    data[0, 17, 3] = bad
    with pytest.raises(ValueError, match=r"^data must be finite, got NaN or Inf"):
        nearest(search(rows(1, 3, 5), 2, "euclidean", backend), data)


@every_backend
def test_a_cap_that_cannot_be_kept_is_refused(backend: str) -> None:
    with pytest.raises(
        ValueError, match=rf"queries.shape=\(1, 3, 5\) with k=2 needs on the {backend}"
    ):
        nearest(search(rows(1, 3, 5), 2, "euclidean", backend, cap=1), rows(1, 40, 5))


@every_backend
@every_distance
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (700, 90, 60)])
def test_distances_from_some_rows(shape: tuple[int, int, int], metric: str, backend: str) -> None:
    """They have the bits of a search, on all threads; no row is negative."""
    q, m, d = shape
    queries, data = rows(1, q, d), rows(1, 200, d)
    data[:, 7] = 0
    data[:, :3] = queries[:, :1]
    searched = queries if backend in ("cpu", "reference") else queries[:, :9]
    expected = nearest(search(searched, 200, metric, backend), data)
    every = np.empty(expected[0].shape[1:])
    np.put_along_axis(every, expected[1][0], expected[0][0], 1)
    places = np.random.default_rng(0).integers(-1, 200, (q, m))
    data.flags.writeable = False
    found = measure_rows(backend, PROXIMITIES[metric], queries[0], data[0], places)
    assert found.shape == (q, m) and found.dtype == np.float64
    assert (np.isposinf(found) == (places < 0)).all()
    places = places[: len(every)]
    wanted = np.where(places < 0, np.inf, np.take_along_axis(every, places, 1))
    np.testing.assert_array_equal(found[: len(every)], wanted)
