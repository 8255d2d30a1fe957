"""Launches fit the limits of Metal and cover every row, feature and cluster, for any shape.

They are pure functions, so no device is needed.
"""

from __future__ import annotations

import itertools

import pytest

from flash_kmeans_mlx.backends.metal import device, launch, sums_launch
from flash_kmeans_mlx.backends.metal.device import Device, Launch
from flash_kmeans_mlx.backends.metal.launch import PointTiles, Tiles

DIMS = (1, 2, 3, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 784, 4096)
COUNTS = (1, 2, 7, 64, 65, 1000, 8192, 8193, 2**20)
ROWS = (1, 33, 1000, 10**6, device.MAX_POINTS)
DEVICES = tuple(Device(f"applegpu_g16{size}") for size in "pgsd")


@pytest.mark.parametrize("d", DIMS)
def test_tiles_fit(d: int) -> None:
    for tiles in (
        *launch.assign_tiles(d),
        launch.topk_tiles(d),
        launch.topk_tiles(d, narrow=True),
    ):
        assert tiles.registers() <= launch.MAX_REGISTERS
        assert tiles.threads <= device.MAX_THREADS
        if isinstance(tiles, PointTiles):
            assert tiles.d == d <= launch.SMALL_D
            continue
        assert (
            tiles.centroids * tiles.bk % (tiles.threads * tiles.vec) == 0
        )  # Scores asserts it too
        assert tiles.centroids <= tiles.threads  # each stages at most one bias
        assert tiles.centroids % 32 == 0 and tiles.bk in (16, 32)
        assert tiles.res == 0 or tiles.res * tiles.bk >= d
    assert launch.topk_tiles(d).centroids % device.SIMD == 0  # lists take 32 candidates at a time


def test_devices() -> None:
    def facts(name: str) -> tuple[int, int]:
        gpu = Device(name)
        return gpu.threadgroups // 8, gpu.cache_bytes >> 20

    assert facts("applegpu_g13g") == (10, 4)
    assert facts("applegpu_g13s") == (32, 24)
    assert facts("applegpu_g16s") == facts("applegpu_g17s") == (16, 12)
    assert facts("applegpu_g13d") == (64, 48)
    # Nobody knows them.
    for name in ("applegpu_g18x", "paravirtual", ""):
        assert facts(name) == facts("applegpu_g15p")
    assert [Device(f"applegpu_g{g}g").rounds_products for g in (13, 16, 17, 18)] == [0, 0, 1, 1]
    assert Device("paravirtual").rounds_products


def test_a_launch_computes_a_limited_number_of_products() -> None:
    for k, d in itertools.product(COUNTS, DIMS):
        rows = launch.launch_rows(k, d)
        assert rows * k * d <= launch.MAX_PRODUCTS or rows == launch.LEAST_ROWS
        assert rows % 64 == 0


def test_registers_of_known_tiles() -> None:
    assert Tiles(4, 2, 8, 32, 2).registers() == 87
    assert Tiles(4, 2, 4, 32, 4).registers() == 95
    assert Tiles(8, 2, 8, 32, 0).registers() == 79


@pytest.mark.parametrize("d", DIMS)
def test_assign_covers_every_row_and_part(d: int) -> None:
    for n, k, gpu, b in itertools.product(ROWS, COUNTS, DEVICES, (1, 3)):
        for tiles in launch.assign_tiles(d):
            assign = launch.assign_launch(tiles, b, n, k, gpu)
            row_tiles = assign.grid[0] // assign.threadgroup[0]
            parts = assign.grid[2]
            assert assign.grid[0] % assign.threadgroup[0] == 0
            assert (row_tiles - 1) * tiles.rows < n <= row_tiles * tiles.rows
            assert assign.grid[1] == b
            assert parts == 1 or parts * tiles.centroids <= k
        launch.topk_launch(launch.topk_tiles(d), b, n, k, gpu)


def test_small_problems_split_the_centroids() -> None:
    tiles = launch.assign_tiles(64)[0]
    assert launch.assign_launch(tiles, 1, 33, 10**5, DEVICES[2]).grid[2] > 1
    assert launch.assign_launch(tiles, 1, 10**6, 10**5, DEVICES[2]).grid[2] == 1


@pytest.mark.parametrize("k", COUNTS)
def test_sort_sees_every_label_and_row(k: int) -> None:
    for n in ROWS:
        sort = sums_launch.sort_launch(3, n, k)
        assert (sort.chunks - 1) * sort.chunk_rows < n <= sort.chunks * sort.chunk_rows
        assert max(digit.buckets for digit in sort.digits) <= sort.table <= sums_launch.TABLE
        assert len(sort.digits) == (1 if k <= sums_launch.TABLE else 2)
        for label in {0, k // 2, k - 1}:
            values = [(label >> digit.shift) & digit.mask for digit in sort.digits]
            assert (
                sum(v << digit.shift for v, digit in zip(values, sort.digits, strict=True)) == label
            )
            assert all(v < digit.buckets for v, digit in zip(values, sort.digits, strict=True))


@pytest.mark.parametrize("d", DIMS)
def test_sums_cover_every_row_and_feature(d: int) -> None:
    for n, k, narrow in itertools.product(ROWS, COUNTS, (False, True)):
        sums = sums_launch.sorted_sums_launch(3, n, k, d, narrow=narrow)
        assert sums.chunks * sums.chunk_rows >= n
        assert sums.sum_chunks.grid[0] >= sums.chunks * device.SIMD
        assert sums.sum_chunks.grid[1] * sums.lanes * sums.width >= d
        assert sums.sum_clusters.grid == (k * sums.nsg * device.SIMD, sums.sum_chunks.grid[1], 3)
    for n, k in itertools.product(ROWS, (1, 17, 64)):
        dense = sums_launch.dense_sums_launch(3, n, k, d)
        assert dense.chunks * dense.chunk_rows >= n
        assert dense.table >= k
        assert dense.sum_dense.grid[1] * dense.nsg * dense.lanes >= d


def test_pipelines_are_bounded() -> None:
    """However many shapes there are, few sets of template arguments come of them."""
    dims = range(1, 5000)
    assert len({tiles for d in dims[8:] for tiles in launch.assign_tiles(d)}) <= 10
    topk = {launch.topk_tiles(d, narrow=narrow) for d in dims for narrow in (False, True)}
    assert len(topk) <= 8
    shapes = itertools.product((1, 10**3, 10**6), (65, 10**4), range(1, 300))
    sums = [sums_launch.sorted_sums_launch(1, n, k, d) for n, k, d in shapes]
    assert len({(one.lanes, one.width) for one in sums}) <= 9
    assert len({sums_launch.sort_launch(1, 10**6, k).table for k in range(1, 20000)}) == 3


def test_rows_of_scores() -> None:
    assert launch.argmax_launch(10, 1000, 4).width == 4
    assert launch.argmax_launch(10, 1000, 2).width == 8
    assert launch.argmax_launch(1, 7, 4).width == 1  # fewer than 8 elements: `constant` memory
    assert launch.argmax_launch(device.MAX_ROWS, 1000, 4).launch.grid[0] <= device.MAX_GRID
    for too_many in (
        lambda: launch.argmax_launch(2**26, 2, 4),
        lambda: launch.top_of_rows_launch(2**26, 2),
    ):
        with pytest.raises(ValueError, match=r"67108864 rows must be <= 67108860"):
            too_many()


@pytest.mark.parametrize(
    ("grid", "threadgroup", "size", "message"),
    [
        ((2048, 1, 1), (2048, 1, 1), 0, r"2048 threads must be <= 1024"),
        ((32, 1, 1), (32, 1, 1), 32772, r"32772 bytes .* must be <= 32768"),
        ((2**31, 1, 1), (32, 1, 1), 0, r"2147483648.* must be in \[1, 2147483647\]"),
        ((0, 1, 1), (32, 1, 1), 0, r"must be in \[1"),
    ],
)
def test_launch_refuses(
    grid: tuple[int, int, int], threadgroup: tuple[int, int, int], size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Launch(grid, threadgroup, size)


def test_supports() -> None:
    assert device.supports(3, 1000, 65, 130, "bfloat16") is None
    assert device.supports(1, 1, 1, 1, "float32") is None
    assert "dtype=float64" in str(device.supports(1, 10, 2, 3, "float64"))
    assert "N=2147483647" in str(device.supports(1, 2**31 - 1, 2, 3, "float32"))
    assert "K=8388609" in str(device.supports(1, 2**25, 2**23 + 1, 3, "float32"))
    assert "must all be >= 1" in str(device.supports(1, 10, 0, 3, "float32"))
    assert "B=65536" in str(device.supports(65536, 10, 2, 3, "float32"))


@pytest.mark.parametrize(
    "shape", [(3, device.MAX_POINTS, device.MAX_CLUSTERS, 4096), (65535, 1, 1, 1)]
)
def test_what_is_supported_can_be_launched(shape: tuple[int, int, int, int]) -> None:
    b, n, k, d = shape
    assert device.supports(b, n, k, d, "float32") is None
    for tiles in launch.assign_tiles(d):
        launch.assign_launch(tiles, b, n, k, DEVICES[3])
    launch.topk_launch(launch.topk_tiles(d), b, n, k, DEVICES[3])
    sums_launch.sort_launch(b, n, k)
    sums_launch.sorted_sums_launch(b, n, k, d)
    sums_launch.dense_sums_launch(b, n, 64, d)
