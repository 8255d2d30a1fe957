"""Launch configurations: what they promise for any shape, without a device."""

from __future__ import annotations

import itertools

import pytest

from flash_kmeans_mlx.backends.metal import device, launch
from flash_kmeans_mlx.backends.metal.device import Device, Launch
from flash_kmeans_mlx.backends.metal.launch import PointTiles, Tiles

DIMS = (1, 2, 3, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 784, 4096)
COUNTS = (1, 2, 7, 64, 65, 1000, 8192, 8193, 2**20)
ROWS = (1, 33, 1000, 10**6, device.MAX_POINTS)
DEVICES = tuple(Device(f"applegpu_g16{size}") for size in "pgsd")


@pytest.mark.parametrize("d", DIMS)
def test_tiles_fit(d: int) -> None:
    for tiles in (
        *launch.assign_configs(d),
        launch.topk_config(d),
        launch.topk_config(d, narrow=True),
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
        assert tiles.res == 0 or tiles.res * tiles.bk >= d
    assert launch.topk_config(d).centroids % device.SIMD == 0  # lists take 32 candidates at a time


def test_registers_of_known_tiles() -> None:
    assert Tiles(4, 2, 8, 16, 4).registers() == 79
    assert Tiles(4, 2, 4, 16, 8).registers() == 91
    assert Tiles(8, 2, 8, 16, 0).registers() == 59


@pytest.mark.parametrize("d", DIMS)
def test_assign_covers_every_row_and_part(d: int) -> None:
    for n, k, gpu, b in itertools.product(ROWS, COUNTS, DEVICES, (1, 3)):
        for config in launch.assign_configs(d):
            plan = launch.assign_launch(config, b, n, k, gpu)
            tiles, parts = plan.grid[0] // plan.threadgroup[0], plan.grid[2]
            assert plan.grid[0] % plan.threadgroup[0] == 0
            assert (tiles - 1) * config.rows < n <= tiles * config.rows
            assert plan.grid[1] == b
            assert parts == 1 or parts * config.centroids <= k
        launch.topk_launch(launch.topk_config(d), b, n, k, gpu)


def test_small_problems_split_the_centroids() -> None:
    config = launch.assign_configs(64)[0]
    assert launch.assign_launch(config, 1, 33, 10**5, DEVICES[2]).grid[2] > 1
    assert launch.assign_launch(config, 1, 10**6, 10**5, DEVICES[2]).grid[2] == 1


@pytest.mark.parametrize("k", COUNTS)
def test_sort_sees_every_label_and_row(k: int) -> None:
    for n in ROWS:
        plan = launch.sort(3, n, k)
        assert (plan.chunks - 1) * plan.chunk < n <= plan.chunks * plan.chunk
        assert max(digit[0] for digit in plan.digits) <= plan.table <= launch.TABLE
        assert len(plan.digits) == (1 if k <= launch.TABLE else 2)
        for label in {0, k // 2, k - 1}:
            value = sum(((label >> shift) & mask) << shift for _, shift, mask in plan.digits)
            assert value == label
            assert all((label >> shift) & mask < buckets for buckets, shift, mask in plan.digits)


@pytest.mark.parametrize("d", DIMS)
def test_sums_cover_every_row_and_feature(d: int) -> None:
    for n, k, narrow in itertools.product(ROWS, COUNTS, (False, True)):
        plan = launch.segments(3, n, k, d, narrow=narrow)
        assert plan.chunks * plan.chunk >= n
        assert plan.sum_chunks.grid[0] >= plan.chunks * device.SIMD
        assert plan.sum_chunks.grid[1] * plan.lanes * plan.width >= d
        assert plan.sum_clusters.grid == (k * plan.nsg * device.SIMD, plan.sum_chunks.grid[1], 3)
    for n, k in itertools.product(ROWS, (1, 17, 64)):
        dense = launch.dense_launch(3, n, k, d)
        assert dense.chunks * dense.chunk >= n
        assert dense.table >= k
        assert dense.launch.grid[1] * dense.nsg * dense.lanes >= d


def test_pipelines_are_bounded() -> None:
    """However many shapes are seen, few sets of template arguments come of them."""
    assert len({config for d in range(9, 5000) for config in launch.assign_configs(d)}) <= 10
    assert (
        len(
            {
                launch.topk_config(d, narrow=narrow)
                for d in range(1, 5000)
                for narrow in (False, True)
            }
        )
        <= 8
    )
    shapes = itertools.product((1, 10**3, 10**6), (65, 10**4), range(1, 300))
    assert (
        len({(p.lanes, p.width) for p in (launch.segments(1, n, k, d) for n, k, d in shapes)}) <= 9
    )
    assert len({launch.sort(1, 10**6, k).table for k in range(1, 20000)}) == 3


def test_rows_of_scores() -> None:
    assert launch.argmax_rows(10, 1000, 4).width == 4
    assert launch.argmax_rows(10, 1000, 2).width == 8
    assert launch.argmax_rows(1, 7, 4).width == 1  # fewer than 8 elements: `constant` memory
    assert launch.argmax_rows(device.MAX_ROWS, 1000, 4).launch.grid[0] <= device.MAX_GRID
    for plan in (
        lambda: launch.argmax_rows(2**26, 2, 4),
        lambda: launch.topk_rows_launch(2**26, 2),
    ):
        with pytest.raises(ValueError, match=r"67108864 rows must be <= 67108860"):
            plan()


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
    for config in launch.assign_configs(d):
        launch.assign_launch(config, b, n, k, DEVICES[3])
    launch.topk_launch(launch.topk_config(d), b, n, k, DEVICES[3])
    launch.sort(b, n, k)
    launch.segments(b, n, k, d)
    launch.dense_launch(b, n, 64, d)
