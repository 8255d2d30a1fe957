"""How the CPU backend cuts a problem: a pure function of sizes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from flash_kmeans_mlx.backends.cpu.plan import Plan, plan

SHAPES = ((1, 1, 1), (1, 29, 3), (3, 211, 17), (256, 500, 16), (1, 100_000, 128), (1, 273_280, 3), (32, 20_000, 64))
CLUSTERS = (1, 2, 64, 513, 1000)
CASES = [(s, k) for s, k in itertools.product(SHAPES, CLUSTERS) if k <= s[1]]
every_case = pytest.mark.parametrize(("shape", "k"), CASES, ids=str)


def cut(shape: tuple[int, int, int], k: int, threads: int = 4, max_bytes: int = 0, arrays: int = 4, blas: bool = False) -> Plan:
    return plan(
        shape=shape,
        given_shape=shape,
        n_clusters=k,
        point_arrays=arrays,
        tables=6,
        threads=threads,
        max_bytes=max_bytes,
        blas=blas,
    )


@every_case
def test_sizes_make_sense(shape: tuple[int, int, int], k: int) -> None:
    b, n, d = shape
    found = cut(shape, k)
    assert min(found.tile, found.block, found.shards, found.group, found.threads) >= 1
    assert found.looped == (n * k * d < 300_000_000)
    assert found.lanes and found.tile % 64 == 0
    assert cut(shape, k, blas=True).lanes == (d <= 16 or found.looped)
    assert found.shards <= -(-n // 512) and found.group <= b and found.threads <= 4
    assert not found.team or (found.looped and b < found.threads)


@every_case
def test_threads_change_nothing_but_themselves(shape: tuple[int, int, int], k: int) -> None:
    assert len({bits(cut(shape, k, threads=t)) for t in (1, 2, 5, 64)}) == 1


def bits(p: Plan) -> Plan:
    """What the bits of a result depend on."""
    return replace(p, threads=0, group=0, team=False, resident=False, spare=0)


@every_case
def test_threads_change_no_bits_under_a_cap(shape: tuple[int, int, int], k: int) -> None:
    """Tiles, blocks and shards fix the order of every sum: with less memory there may be fewer, but not by thread."""
    for extra in (1, 2, 4, 16, 64, 256):
        try:
            plans = [cut(shape, k, threads=t, max_bytes=least(shape, k) + (extra << 20)) for t in (1, 2, 5, 64)]
        except ValueError:
            continue
        assert len({bits(p) for p in plans}) == 1


def least(shape: tuple[int, int, int], k: int) -> int:
    """The smallest cap that is accepted, to 1 KiB."""
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
    with pytest.raises(ValueError, match=r"max_mem_gb=1e-09 must be >= \S+ GB, the least that x.shape=") as caught:
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
        assert (tight.looped, tight.lanes, tight.tile) == (wide.looped, wide.lanes, wide.tile)
        assert tight.shards <= wide.shards and tight.threads <= wide.threads


def test_more_arrays_per_point_need_more_memory() -> None:
    shape, k = (1, 100_000, 128), 1000
    low = least(shape, k)
    cut(shape, k, max_bytes=low)
    with pytest.raises(ValueError, match=r"x.shape=\(1, 100000, 128\) with n_clusters=1000 needs on the cpu backend"):
        cut(shape, k, max_bytes=low, arrays=6)
