"""Scans of product-quantized codes on every backend against float64 brute force, by `backends.scan_codes` itself.

A new backend joins by its entry in `backends.BACKENDS`. Trained indexes are searched in tests/index/test_pq.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import Array, every_backend, every_metric

from flash_kmeans_mlx.backends import scan_codes
from flash_kmeans_mlx.backends.codes import ProductCoding, pack
from flash_kmeans_mlx.index.lists import InvertedLists
from flash_kmeans_mlx.metrics import PROXIMITIES

D, M, NLIST = 6, 3, 4
EMPTY = 2  # a list without rows


def coding(nbits: int, residual: bool, *, whole: bool = False) -> ProductCoding:
    """Return codebooks and centroids of normal, or of small whole numbers."""
    rng = np.random.default_rng([nbits, residual])
    shape = M, 1 << nbits, D // M
    books = rng.integers(-2, 3, shape) if whole else rng.standard_normal(shape)
    centroids = rng.integers(-2, 3, (NLIST, D)) if whole else 3 * rng.standard_normal((NLIST, D))
    if not residual:
        centroids = np.zeros((NLIST, D))
    return ProductCoding(
        codebooks=books.astype(np.float32),
        nbits=nbits,
        centroids=centroids.astype(np.float32),
        residual=residual,
    )


class Codes:
    """Random codes in lists.

    Attributes:
        coding: Their meaning.
        rows: (N, D) float64, the vectors that they stand for.
        owner: (N,) their lists; none is in list EMPTY.
        ids: (N,) in no order.
        lists: They hold the codes.
    """

    def __init__(
        self, coding: ProductCoding, n: int, metric: str, labels: Array | None = None
    ) -> None:
        rng = np.random.default_rng(n)
        if labels is None:
            labels = rng.integers(1 << coding.nbits, size=(n, M))
        codes = pack(labels.astype(np.uint8), coding.nbits)
        self.coding = coding
        self.metric = metric
        self.owner = rng.choice([number for number in range(NLIST) if number != EMPTY], n)
        self.ids = rng.permutation(10 * n)[:n]
        self.rows = coding.decode(codes, self.owner).astype(np.float64)
        payload = coding.with_terms(codes, self.owner, PROXIMITIES[metric])
        lists = InvertedLists(NLIST, payload.shape[1], np.uint8)
        self.lists = lists.added(self.owner, payload, self.ids)

    def check(
        self, queries: Array, probes: Array, k: int, backend: str, *, exact: bool = False
    ) -> tuple[Array, Array]:
        """Assert that the k nearest are found, as far as sums of look-ups in float32 can tell.

        Args:
            queries: (Q, D) float32.
            probes: (Q, P) lists.
            k: Neighbours of every query.
            backend: Where.
            exact: Whether sums round nothing, so that ids decide among equal distances.
        """
        proximity = PROXIMITIES[self.metric]
        found = scan_codes(backend, self.lists, self.coding, proximity, queries, probes, k)
        assert found[0].shape == found[1].shape == (len(queries), k)
        assert found[0].dtype == np.float64 and found[1].dtype == np.int64
        for i, query in enumerate(queries.astype(np.float64)):
            mine = np.flatnonzero(np.isin(self.owner, probes[i]))
            value = proximity.distances(query, self.rows[mine])
            order = np.lexsort([self.ids[mine], value])[:k]
            n = len(order)
            assert (found[1][i, n:] == -1).all() and np.isposinf(found[0][i, n:]).all()
            assert len(set(found[1][i, :n].tolist())) == n
            if exact:
                np.testing.assert_array_equal(found[1][i, :n], self.ids[mine][order])
            size = (np.linalg.norm(query) + np.linalg.norm(self.rows, axis=1).max()) ** 2
            room = 2.0**-20 * (1 if self.metric == "cosine" else size)
            np.testing.assert_allclose(found[0][i, :n], value[order], rtol=0, atol=room)
            place = {int(number): j for j, number in enumerate(self.ids[mine])}
            own = value[[place[int(number)] for number in found[1][i, :n]]]
            np.testing.assert_allclose(found[0][i, :n], own, rtol=1e-6, atol=room)
        return found


def normal(n: int) -> Array:
    return np.random.default_rng(n).standard_normal((n, D)).astype(np.float32)


def every_list(queries: Array) -> Array:
    return np.tile(np.arange(NLIST), (len(queries), 1))


residual_or_not = pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])


@every_backend
@every_metric
@residual_or_not
@pytest.mark.parametrize("nbits", [4, 8])
def test_the_nearest_codes(nbits: int, residual: bool, metric: str, backend: str) -> None:
    queries = normal(7)
    rng = np.random.default_rng(0)
    probes = np.stack([rng.permutation(NLIST)[:2] for _ in queries])
    codes = Codes(coding(nbits, residual), 500, metric)
    for k in (1, 40):
        codes.check(queries, probes, k, backend)
        codes.check(queries, every_list(queries), k, backend)


@every_backend
@every_metric
@residual_or_not
def test_fewer_codes_than_k_and_empty_lists(residual: bool, metric: str, backend: str) -> None:
    queries = normal(3)
    codes = Codes(coding(4, residual), 12, metric)
    codes.check(queries, every_list(queries), 20, backend)
    found = codes.check(queries, np.full((3, 1), EMPTY), 4, backend)
    assert (found[1] == -1).all()


@every_backend
@residual_or_not
@pytest.mark.parametrize("metric", ["euclidean", "dot"])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_ties_go_to_the_lowest_id(k: int, metric: str, residual: bool, backend: str) -> None:
    """Whole numbers, whose sums round nothing: many rows have equal distances."""
    rng = np.random.default_rng(2)
    queries = rng.integers(-2, 3, (6, D)).astype(np.float32)
    labels = rng.integers(4, size=(600, M))  # four words of a book, so that codes repeat
    codes = Codes(coding(4, residual, whole=True), 600, metric, labels)
    codes.check(queries, every_list(queries), k, backend, exact=True)


@every_backend
@residual_or_not
def test_zero_rows_have_cosine_distance_one(residual: bool, backend: str) -> None:
    how = coding(4, residual)
    how.codebooks[:, 0] = 0
    how.centroids[:] = 0
    labels = np.random.default_rng(3).integers(16, size=(80, M))
    labels[::4] = 0
    codes = Codes(how, 80, "cosine", labels)
    queries = np.concatenate([np.zeros((1, D), np.float32), normal(3)])
    found = codes.check(queries, every_list(queries), 80, backend)
    assert (found[0][0] == 1).all()
    np.testing.assert_array_equal(found[1][0], np.sort(codes.ids))


@every_backend
def test_the_same_lists_with_other_codebooks(backend: str) -> None:
    """What a backend keeps of lists does not outlive the meaning of their codes."""
    queries = normal(3)
    before = Codes(coding(4, residual=False), 100, "euclidean")
    before.check(queries, every_list(queries), 5, backend)
    books = 2 - before.coding.codebooks
    after = Codes(replace(before.coding, codebooks=books), 100, "euclidean")
    np.testing.assert_array_equal(after.lists.payload, before.lists.payload)
    after.lists = before.lists
    after.check(queries, every_list(queries), 5, backend)
