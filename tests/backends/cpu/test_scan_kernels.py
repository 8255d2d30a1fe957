"""Scans of inverted lists on the CPU: candidates, and when their distances are computed."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import every_metric
from numba import njit

from flash_kmeans_mlx.backends.cpu import kernels, scan
from flash_kmeans_mlx.index import IndexIVFFlat

RNG = np.random.default_rng
LIMIT = kernels.scan._limit  # which only compiled code can call


@njit
def limit_of(scores, mask, keep):
    return LIMIT(scores, mask, keep)


@pytest.mark.parametrize("kind", ["plain", "equal", "few", "far", "huge", "lost"])
def test_a_limit_is_reached_by_as_many_as_are_kept(kind: str) -> None:
    rng = RNG(0)
    for keep in (1, 3, 12, 40, 64, 65):
        for marked in (64, 63, 30, 1, 0):
            scores = -np.square(rng.standard_normal(64)).astype(np.float32)
            scores = {
                "plain": scores,
                "equal": np.full(64, -2, np.float32),
                "few": np.rint(scores),
                "far": scores - np.float32(1e6),
                "huge": scores * np.float32(1e37),
                "lost": np.where(scores < -1, -np.inf, np.inf).astype(np.float32),
            }[kind]
            chosen = rng.permutation(64)[:marked]
            mask = int(np.bitwise_or.reduce(np.uint64(1) << chosen.astype(np.uint64), initial=0))
            mask = np.uint64(mask).astype(np.int64)
            reached = int((scores[chosen] >= limit_of(scores.copy(), mask, keep)).sum())
            assert reached >= min(keep, marked)
            if kind == "plain" and keep <= marked:
                assert reached <= keep + 12


@every_metric
@pytest.mark.parametrize("threads", ["1", "3"])
def test_results_do_not_depend_on_when_distances_are_computed(
    metric: str, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few lists are read at once, and their distances computed list by list; results are the same bits."""
    monkeypatch.setenv("FLASH_KMEANS_THREADS", threads)
    for seed in range(12):
        rng = RNG(seed)
        d = int(rng.integers(1, 90))
        n = int(rng.integers(300, 4000))
        x = rng.standard_normal((n, d)).astype(np.float32)
        if seed % 3 == 1:
            x = np.rint(x)  # ties, and rows of zeros
        if seed % 3 == 2:
            x = (x[rng.integers(40, size=n)] + 100).astype(np.float32)
        index = IndexIVFFlat(d, 7, metric, backend="cpu", niter=2)
        index.train(x)
        index.add(x, rng.permutation(n))
        index.remove_ids(np.arange(0, n, 5))
        queries = x[rng.integers(n, size=int(rng.choice([1, 2, 70, 300])))]
        for k, nprobe in ((1, 1), (10, 2), (60, 3), (200, 4), (240, 2), (10, 7)):
            found = []
            for most, dims in ((10_000, 0), (-1, 0), (-1, 10_000)):
                monkeypatch.setattr(scan, "MAX_TOGETHER", most)
                monkeypatch.setattr(scan, "BY_LIST_DIMS", dims)
                found.append(index.search(queries, k, nprobe=nprobe))
            for distances, ids in found[1:]:
                np.testing.assert_array_equal(distances, found[0][0])
                np.testing.assert_array_equal(ids, found[0][1])
