"""Filters of searches against brute force: as if the index held no other vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from exact_neighbours import METRICS
from helpers import BACKENDS, Array
from small_indexes import MAKE, D, trained

from flash_kmeans_mlx.index import Index, IndexFlat, IndexIVFFlat, filters, flat
from flash_kmeans_mlx.index.base import restore_index
from flash_kmeans_mlx.index.filters import allowed

RNG = np.random.default_rng(0)
# Rows on a grid, so that many distances are equal.
X = RNG.integers(-3, 4, (10_000, D)).astype(np.float32)
QUERIES = X[:6] + RNG.integers(-1, 2, (6, D)).astype(np.float32)
IDS = np.sort(RNG.choice(30_000, len(X), replace=False))
FRACTIONS = (0.0001, 0.01, 0.5, 1.0)


def filled(kind: str, metric: str, n: int = len(X)) -> Index:
    index = IndexFlat(D, metric) if kind == "flat" else trained(kind, metric)
    order = RNG.permutation(n)
    index.add(X[order], IDS[order])
    return index


def chosen(fraction: float, n: int = len(X)) -> Array:
    return np.sort(RNG.choice(IDS[:n], max(1, round(fraction * n)), replace=False))


def mask_of(ids: Array) -> Array:
    mask = np.zeros(int(ids.max(initial=-1)) + 1, bool)
    mask[ids] = True
    return mask


def without_others(index: Index, kept: Array) -> Index:
    """The same index after all other vectors are removed."""
    one = restore_index(type(index).__name__, *index.state())
    one.remove_ids(np.setdiff1d(IDS, kept))
    return one


def same(found: tuple[Array, ...], expected: tuple[Array, ...], *, codes: bool) -> None:
    """Results are equal; where codes are searched, rounding of look-ups may decide at the end."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if codes and one.dtype == np.float32:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        elif not codes:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize(
    ("kind", "metric"),
    [("flat", metric) for metric in METRICS]
    + [(kind, metric) for kind in ("ivf", "pq", "ivfpq") for metric in METRICS[:3]]
    + [(kind, "euclidean") for kind in MAKE if kind.startswith("opq") or "refine" in kind],
)
def test_as_if_there_were_no_others(kind: str, metric: str, fraction: float) -> None:
    index = filled(kind, metric)
    kept = chosen(fraction)
    codes = "pq" in kind and "refine" not in kind
    expected = without_others(index, kept)
    found = expected.search(QUERIES, 10)
    others = np.setdiff1d(np.arange(31_000), kept)
    options: dict[str, Any]
    for options in (
        {"ids": kept},
        {"ids": mask_of(kept)},
        {"exclude": others},
        {"exclude": mask_of(others)},
        {"ids": [*kept.tolist(), 30_500, -3], "exclude": [30_500, 40_000]},
    ):
        same(index.search(QUERIES, 10, **options), found, codes=codes)
        if codes:
            assert np.isin(index.search(QUERIES, 10, **options)[1], [-1, *kept.tolist()]).all()
    radius = float(np.median(found[0][:, min(9, len(kept) - 1)]))
    limited = index.range_search(QUERIES, radius, ids=kept)
    if not codes:
        same(limited, expected.range_search(QUERIES, radius), codes=codes)
    assert np.isin(limited[2], kept).all()


@pytest.mark.parametrize("kind", ["ivf", "ivfpq", "opq,ivfpq"])
@pytest.mark.parametrize("fraction", [0.01, 0.5])
def test_the_same_lists_are_looked_at(kind: str, fraction: float) -> None:
    index: Any = filled(kind, "euclidean", 5000)
    kept = chosen(fraction, 5000)
    expected: Any = without_others(index, kept)
    for nprobe in (1, 2):
        found = index.search(QUERIES, len(kept), nprobe=nprobe, ids=kept)
        other = expected.search(QUERIES, len(kept), nprobe=nprobe)
        same(found, other, codes="pq" in kind)
        assert (found[1] == -1).sum() == (other[1] == -1).sum() > 0
    if kind == "ivf":
        lims = index.range_search(QUERIES, 40.0, nprobe=1, exclude=kept)[0]
        assert lims[-1] < index.range_search(QUERIES, 40.0, exclude=kept)[0][-1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["flat", "ivf", "pq", "ivfpq"])
def test_on_every_backend(kind: str, backend: str) -> None:
    n = 120 if backend == "metal" else 400
    index = filled(kind, "euclidean", n)
    expected: dict[float, Any] = {}
    index.backend = "reference"
    for fraction in (0.1, 0.5):
        kept = chosen(fraction, n)
        expected[fraction] = kept, index.search(QUERIES[:3], 7, ids=kept)
    index.backend = backend
    for kept, found in expected.values():
        same(index.search(QUERIES[:3], 7, ids=kept), found, codes="pq" in kind)
        assert np.isin(index.search(QUERIES[:3], 7, ids=kept)[1], kept).all()


def test_filters_that_follow_the_distance() -> None:
    """All of the nearest 60% are forbidden: searches among all for a few more do not suffice."""
    for index in (filled("flat", "euclidean"), filled("ivf", "euclidean")):
        near = index.search(QUERIES[:1], 6_000)[1][0]
        kept = np.setdiff1d(IDS, near)
        expected = without_others(index, kept)
        for queries in (QUERIES[:1], np.repeat(QUERIES, 20, axis=0)):
            same(index.search(queries, 8, ids=kept), expected.search(queries, 8), codes=False)


def test_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "PIECE", 7 * 4 * D)
    index = filled("flat", "euclidean")
    kept = chosen(0.01)
    expected = without_others(index, kept)
    for k in (3, 40, 300):
        same(index.search(QUERIES, k, ids=kept), expected.search(QUERIES, k), codes=False)


def test_no_vectors_are_copied_where_most_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled("flat", "euclidean")
    monkeypatch.setattr(IndexFlat, "_search_places", None)
    assert 5 not in index.search(X[:1], 10, exclude=[5])[1]
    index.search(QUERIES, 10, ids=IDS[::2])
    with pytest.raises(TypeError):
        index.search(QUERIES, 10, ids=IDS[::100])


@pytest.mark.parametrize("make", [lambda: IndexFlat(D), lambda: IndexIVFFlat(D, 4, nprobe=4)])
def test_nothing_is_allowed(make: Callable[[], Index]) -> None:
    index: Any = make()
    index.train(X[:200])
    for n in (0, 200):
        if n:
            index.add(X[:n])
        for options in ({"ids": []}, {"ids": [700]}, {"exclude": range(200)}, {"ids": range(0)}):
            distances, ids = index.search(QUERIES, 3, **options)
            assert (ids == -1).all() and np.isinf(distances).all() and ids.shape == (6, 3)
            assert index.range_search(QUERIES, 9.0, **options)[0].tolist() == [0] * 7


@pytest.mark.parametrize(
    "given",
    [
        range(10, 50),
        range(10**30),
        range(-5, 10**30, 7),
        range(50, 3, -4),
        range(60, -100, -1),
        range(30, 31),
        range(3, 10**40, 10**30),
        range(-(10**30), 60, 10**20),
        range(9, 2),
        range(2**63 - 5, 2**70),
    ],
)
def test_ranges(given: range) -> None:
    held = np.array([0, 3, 9, 10, 11, 30, 46, 49, 50, 60, 2**62, 2**63 - 2])
    expected = [i in given for i in held.tolist()]
    assert allowed(held, given, None).tolist() == expected
    assert allowed(held, None, given).tolist() == [not one for one in expected]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([0.5], TypeError, "must be integers, got dtype float64"),
        ([[1]], ValueError, r"must have shape \(N,\), got \(1, 1\)"),
        (np.ones((2, 2), bool), ValueError, r"must have shape \(L,\) as a mask over ids, got"),
        ("all", TypeError, "must be integers, got dtype"),
        ([2**64], ValueError, "must be >= 0 and < 2"),
    ],
)
def test_wrong_filters(given: Any, error: type[Exception], message: str) -> None:
    index = filled("flat", "euclidean", 50)
    for name in ("ids", "exclude"):
        with pytest.raises(error, match=f"^{name} {message}"):
            index.search(QUERIES, 3, **{name: given})
        with pytest.raises(error, match=f"^{name} {message}"):
            index.range_search(QUERIES, 3.0, **{name: given})


def test_searching_while_adding_and_removing() -> None:
    index: Any = IndexIVFFlat(D, 5, nprobe=5)
    index.train(X[:1000])
    index.add(X[:1000], np.arange(1000))
    done, wrong = threading.Event(), []

    def search() -> None:
        while not done.is_set():
            for options in ({"ids": range(0, 2000, 20)}, {"exclude": range(1, 2000, 2)}):
                distances, ids = index.search(QUERIES, 20, **options)
                if (ids % 2).any() or (ids < 0).any() or (np.diff(distances) < 0).any():
                    wrong.append(ids)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        index.add(X[1000:1400], np.arange(1000, 1400))
        index.remove_ids(np.arange(1000, 1400))
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_rare_vector_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are not allowed are not searched where few are."""
    seen = []
    search = IndexFlat._search_places

    def spy(*args: Any) -> Any:
        seen.append(len(args[-1]))
        return search(*args)

    monkeypatch.setattr(IndexFlat, "_search_places", spy)
    filled("flat", "euclidean").search(QUERIES, 5, ids=IDS[: len(IDS) // filters.RARE])
    assert seen == [len(IDS) // filters.RARE]
