"""The plan by which the CPU backend cuts a problem: a pure function of sizes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import helpers
import numpy as np
import pytest

from flash_kmeans_mlx import batch_kmeans_Euclid
from flash_kmeans_mlx.backends.cpu.plan import Plan, plan, sizes
from flash_kmeans_mlx.backends.points import Problem
from flash_kmeans_mlx.metrics import EUCLIDEAN

SHAPES = (
    (1, 1, 1),
    (1, 29, 3),
    (3, 211, 17),
    (256, 500, 16),
    (1, 100_000, 128),
    (1, 273_280, 3),
    (32, 20_000, 64),
)
CLUSTERS = (1, 2, 64, 513, 1000)
CASES = [(s, k) for s, k in itertools.product(SHAPES, CLUSTERS) if k <= s[1]]
every_case = pytest.mark.parametrize(("shape", "k"), CASES, ids=str)


def cut(
    shape: tuple[int, int, int],
    k: int,
    threads: int = 4,
    max_bytes: int = 0,
    weighted: bool = False,
    bounded: bool = False,
) -> Plan:
    problem = Problem(
        x=np.broadcast_to(np.float32(0), shape),
        n_clusters=k,
        metric=EUCLIDEAN,
        given_shape=shape,
        weights=np.broadcast_to(np.float32(1), shape[:2]) if weighted else None,
        max_bytes=max_bytes,
        runs=1 + weighted,
        strategy="head" if bounded else None,
    )
    return plan(problem, threads)


@every_case
def test_sizes_make_sense(shape: tuple[int, int, int], k: int) -> None:
    b, n, d = shape
    found = cut(shape, k)
    assert min(found.tile, found.shards, found.flight, found.threads) >= 1
    assert found.looped == (n * k * d < 300_000_000) and not cut(shape, k, bounded=True).looped
    assert (
        found.shards <= -(-n // sizes.SHARD_ROWS)
        and found.flight <= b * found.shards
        and found.threads <= 4
    )
    assert not found.team or (found.looped and b < found.threads)


@pytest.mark.parametrize(
    "d", [1, 3, 127, 128, 129, 160, 192, 204, 256, 257, 341, 500, 768, 1025, 5000]
)
def test_shards_begin_where_tiles_do(d: int) -> None:
    """Where tiles are kept, no two shards share one; blocks of bytes are never shared."""
    kept = cut((1, 3000, d), 90_000 // d)
    assert kept.looped and kept.shards > 1
    assert not any(lo % kept.tile for lo in kept.cuts[:-1])
    found = cut((1, 6000, d), 400_000 // d)
    assert not found.looped and found.tile % sizes.TILE_ROWS == 0
    assert not any(lo % sizes.TILE_ROWS for lo in found.cuts[:-1])


@pytest.mark.parametrize("n", [2048, 2500, 3001, 5000, 9999, 10_000, 20_000, 50_000])
@pytest.mark.parametrize("threads", [2, 4])
def test_threads_have_about_as_much_to_do(n: int, threads: int) -> None:
    """Of threads that take one shard after another, the last ends little after the first."""
    busy = [0] * threads
    for lo, hi in itertools.pairwise(cut((1, n, 768), 256).cuts):
        busy[busy.index(min(busy))] += hi - lo
    assert n / max(busy) >= (0.92 if threads == 2 else 0.8) * threads


@pytest.mark.parametrize(
    ("n", "d"), [(6000, 160), (5000, 129), (3000, 204), (2600, 260), (2100, 341)]
)
def test_shards_that_keep_their_points(n: int, d: int) -> None:
    """Several shards in one kernel, with fewer than 512 rows a tile."""
    x, k = np.random.default_rng(1).normal(size=(n, d)).astype(np.float32), 50
    assert cut((1, n, d), k).shards > 1 and cut((1, n, d), k).looped
    fits = [batch_kmeans_Euclid(x, k, 8, init_centroids=x[:k], backend="cpu") for _ in range(2)]
    helpers.assert_labels_optimal(x, fits[0].centroids, fits[0].labels, "euclidean")
    np.testing.assert_array_equal(fits[0].labels, fits[1].labels)
    np.testing.assert_array_equal(fits[0].centroids, fits[1].centroids)


def bits(p: Plan) -> tuple[int, ...]:
    """Return the fields that the bits of a result depend on."""
    return p.cuts


@every_case
def test_only_sizes_decide_on_bits(shape: tuple[int, int, int], k: int) -> None:
    """Shards fix the order of every sum; threads, caps, the batch and the way of assigning leave them alone."""
    found = [cut(shape, k, threads=t, bounded=p) for t in (1, 2, 5, 64) for p in (False, True)]
    found += [cut((7, *shape[1:]), k)]
    low = least(shape, k)
    found += [
        cut(shape, k, threads=t, max_bytes=low + (extra << 20))
        for t in (1, 2, 5, 64)
        for extra in (0, 1, 4, 16, 64)
    ]
    assert len({bits(p) for p in found}) == 1


def least(shape: tuple[int, int, int], k: int) -> int:
    """Return the smallest cap that is accepted, to 1 KiB."""
    low, high = 0, 1 << 40
    while high - low > 1 << 10:
        middle = (low + high) // 2
        try:
            cut(shape, k, max_bytes=middle)
            high = middle
        except ValueError:
            low = middle
    return high


@every_case
def test_what_the_error_asks_for_is_enough(shape: tuple[int, int, int], k: int) -> None:
    with pytest.raises(
        ValueError, match=r"max_mem_gb=1e-09 must be >= \S+ GB, the least that x.shape="
    ) as caught:
        cut(shape, k, max_bytes=1)
    asked = float(str(caught.value).split(">= ")[1].split(" ")[0]) * 1e9
    assert cut(shape, k, max_bytes=int(1.005 * asked)).threads >= 1  # three digits are printed


@every_case
def test_a_wide_cap_is_no_cap(shape: tuple[int, int, int], k: int) -> None:
    assert replace(cut(shape, k, max_bytes=1 << 40), spare=0) == replace(cut(shape, k), spare=0)


@every_case
def test_a_tighter_cap_never_cuts_less(shape: tuple[int, int, int], k: int) -> None:
    low = least(shape, k)
    plans = [cut(shape, k, max_bytes=low + (extra << 20)) for extra in (0, 1, 4, 16, 64, 256, 1024)]
    for tight, wide in itertools.pairwise(plans):
        assert (tight.looped, tight.tile, tight.cuts) == (wide.looped, wide.tile, wide.cuts)
        assert tight.flight <= wide.flight and tight.threads <= wide.threads


def test_more_arrays_per_point_need_more_memory() -> None:
    shape, k = (1, 100_000, 128), 1000
    low = least(shape, k)
    cut(shape, k, max_bytes=low)
    with pytest.raises(
        ValueError,
        match=r"x.shape=\(1, 100000, 128\) with n_clusters=1000 needs on the cpu backend",
    ):
        cut(shape, k, max_bytes=low, weighted=True)
