"""Scans of inverted lists on every backend against float64 brute force, by `backends.scan_lists` itself.

A new backend joins by its entry in `backends.BACKENDS`. Larger indexes are searched in tests/index/test_ivf.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import METRICS, Array, every_backend, every_metric

from flash_kmeans_mlx.backends import scan_lists
from flash_kmeans_mlx.index.lists import InvertedLists
from flash_kmeans_mlx.metrics import PROXIMITIES

D, NLIST = 6, 5
EMPTY = 3  # a list without rows


def with_inverse_norms(x: Array, metric: str) -> Array:
    """Return the rows as IVF indexes keep them: followed by 1 / norm for "cosine", 0 without a direction."""
    if metric != "cosine":
        return x
    norm = np.linalg.norm(x.astype(np.float64), axis=1)
    inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    return np.concatenate([x, inverse[:, None].astype(np.float32)], axis=1)


def filled(x: Array, owner: Array, ids: Array, metric: str) -> InvertedLists:
    lists = InvertedLists(NLIST, D + (metric == "cosine"), np.float32)
    return lists.added(owner, with_inverse_norms(x, metric), ids)


def brute_force(
    queries: Array, x: Array, owner: Array, ids: Array, probes: Array, k: int, metric: str
) -> tuple[Array, Array]:
    """Return (Q, k) distances and ids by the definition: by distance, then by id; inf and -1 where there is no row."""
    distances = np.full((len(queries), k), np.inf)
    found = np.full((len(queries), k), -1)
    for i, query in enumerate(queries.astype(np.float64)):
        mine = np.isin(owner, probes[i])
        value = PROXIMITIES[metric].distances(query, x[mine].astype(np.float64))
        order = np.lexsort([ids[mine], value])[:k]
        distances[i, : len(order)] = value[order]
        found[i, : len(order)] = ids[mine][order]
    return distances, found


def problem(n: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Return rows (N, D) float32, their lists (N,) and ids (N,) in no order; list EMPTY gets none."""
    rng = np.random.default_rng([seed, n])
    owner = rng.choice([number for number in range(NLIST) if number != EMPTY], n)
    ids = rng.permutation(10 * n)[:n]
    return rng.standard_normal((n, D)).astype(np.float32), owner, ids


def check(
    queries: Array,
    rows: tuple[Array, Array, Array],
    probes: Array,
    k: int,
    metric: str,
    backend: str,
) -> tuple[Array, Array]:
    """Assert that a scan finds what brute force does, distances up to rounding of the float64 sums."""
    lists = filled(*rows, metric)
    found = scan_lists(backend, lists, PROXIMITIES[metric], queries, probes, k)
    distances, ids = brute_force(queries, *rows, probes, k, metric)
    assert found[0].shape == found[1].shape == (len(queries), k)
    assert found[0].dtype == np.float64 and found[1].dtype == np.int64
    np.testing.assert_array_equal(found[1], ids)
    np.testing.assert_allclose(found[0], distances, rtol=1e-12, atol=1e-14)
    return found


@every_backend
@every_metric
@pytest.mark.parametrize(("n", "k"), [(300, 7), (300, 1), (40, 40), (1500, 60)])
def test_the_nearest_rows_of_some_lists(n: int, k: int, metric: str, backend: str) -> None:
    rng = np.random.default_rng(n)
    queries = rng.standard_normal((9, D)).astype(np.float32)
    probes = np.stack([rng.permutation(NLIST)[:2] for _ in queries])
    check(queries, problem(n), probes, k, metric, backend)


@every_backend
@every_metric
def test_fewer_rows_than_k(metric: str, backend: str) -> None:
    x, owner, ids = problem(12)
    queries = x[:4] + np.float32(0.5)
    probes = np.tile(np.arange(NLIST), (4, 1))
    found = check(queries, (x, owner, ids), probes, 20, metric, backend)
    assert (found[1][:, 12:] == -1).all() and np.isposinf(found[0][:, 12:]).all()


@every_backend
@every_metric
def test_empty_lists(metric: str, backend: str) -> None:
    x, owner, ids = problem(60)
    queries = x[:3] + np.float32(0.5)
    found = check(queries, (x, owner, ids), np.full((3, 1), EMPTY), 4, metric, backend)
    assert (found[1] == -1).all()
    beside = np.array([[EMPTY, 0], [1, EMPTY], [EMPTY, 2]])
    check(queries, (x, owner, ids), beside, 4, metric, backend)


@every_backend
@every_metric
@pytest.mark.parametrize("k", [1, 5, 50])
def test_ties_go_to_the_lowest_id(k: int, metric: str, backend: str) -> None:
    """Every row many times over, in several lists, with ids in no order."""
    _, owner, ids = problem(600)
    rng = np.random.default_rng(1)
    few = rng.integers(-2, 3, (6, D)).astype(np.float32)
    x = few[rng.integers(len(few), size=600)]
    probes = np.tile(np.arange(NLIST), (len(few), 1))
    check(few, (x, owner, ids), probes, k, metric, backend)


@every_backend
@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric != "euclidean"])
def test_zero_rows(metric: str, backend: str) -> None:
    """A zero row or query is at distance 1 for cosine and 0 for dot: ids decide."""
    x, owner, ids = problem(90)
    x[::3] = 0
    queries = np.concatenate([np.zeros((1, D), np.float32), x[1:3], -x[1:3]])
    probes = np.tile(np.arange(NLIST), (len(queries), 1))
    check(queries, (x, owner, ids), probes, 90, metric, backend)


@every_backend
@every_metric
def test_far_rows(metric: str, backend: str) -> None:
    """Rows that float32 products confuse are ranked in float64."""
    x, owner, ids = problem(400)
    far = (300 + x).astype(np.float32)
    probes = np.tile(np.arange(NLIST), (8, 1))
    check(far[:8], (far, owner, ids), probes, 10, metric, backend)


@every_backend
def test_lists_that_grew_and_shrank(backend: str) -> None:
    """A backend does not use the copy that it keeps of a list once the list has changed."""
    x, owner, ids = problem(400)
    proximity = PROXIMITIES["euclidean"]
    queries = x[:5] + np.float32(0.1)
    probes = np.tile(np.arange(NLIST), (5, 1))
    lists = InvertedLists(NLIST, D, np.float32).added(owner[:200], x[:200], ids[:200])
    scan_lists(backend, lists, proximity, queries, probes, 5)
    lists = lists.added(owner[200:], x[200:], ids[200:])
    scan_lists(backend, lists, proximity, queries, probes, 5)
    lists = lists.removed(lists.find(ids[::2]))
    found = scan_lists(backend, lists, proximity, queries, probes, 5)
    left = x[1::2], owner[1::2], ids[1::2]
    np.testing.assert_array_equal(found[1], brute_force(queries, *left, probes, 5, "euclidean")[1])
