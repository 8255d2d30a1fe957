"""Launches of the kernels as pure functions of shapes, dtypes and facts of the GPU.

Nothing here touches a device, so all of it is tested without one. Register counts are estimates for
the arrays that a kernel declares, in 32-bit registers of a lane. Nobody has compiled these kernels
for an Apple GPU yet; `Tiles.registers` exists so that no configuration grows past what a thread is
said to have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .device import MAX_ROWS, SIMD, Device, Launch, ceil_div

__all__ = [
    "PointTiles",
    "RowsLaunch",
    "Tiles",
    "argmax_launch",
    "assign_launch",
    "assign_tiles",
    "cuts",
    "launch_rows",
    "score_rows",
    "top_of_rows_launch",
    "topk_launch",
    "topk_tiles",
]

MAX_REGISTERS = 104  # leaves 24 of 128 for addresses
SMALL_D = 8  # up to here one thread holds whole points
FUSED_K = 32  # entries of a list of topk: one a lane
LEAST_ROWS = 64  # of a product
# Multiply-adds of a launch. macOS ends command buffers that take seconds, and Ctrl-C waits for
# them; the slowest GPU, of 2 TFLOP/s, is done with so many in 0.2 s.
MAX_PRODUCTS = 150 * 10**9


@dataclass(frozen=True)
class Tiles:
    """The template arguments of Scores, explained in `kernels/metal/scores.metal`."""

    nsg: int
    rb: int
    cb: int
    bk: int
    res: int
    vec: int = 4

    @property
    def rows(self) -> int:
        return self.nsg * self.rb * 8

    @property
    def centroids(self) -> int:
        return self.cb * 8

    @property
    def threads(self) -> int:
        return self.nsg * SIMD

    @property
    def tile_bytes(self) -> int:
        """Threadgroup memory of centroids and bias."""
        return 4 * (self.bk * (self.centroids + 8) + 32 + self.centroids)

    @property
    def list_bytes(self) -> int:
        """Threadgroup memory of the scratch and the lists of topk."""
        return 4 * self.nsg * 8 * self.centroids + 8 * self.rows * FUSED_K

    def registers(self) -> int:
        """Return an estimate of the registers of a lane."""
        points = (self.res or 2) * self.bk // 8 * self.rb * 2  # two chunks where they are streamed
        accumulators = self.rb * self.cb * 2
        staged = self.centroids * self.bk // self.threads + 1
        best = self.rb * 2
        operand = 2
        return points + accumulators + staged + best + operand


@dataclass(frozen=True)
class PointTiles:
    """The template arguments of assign_points, for D <= 8.

    Attributes:
        d: Features.
        points: Points of a thread.
        centroids: Centroids in threadgroup memory at a time.
        threads: Threads of a threadgroup.
    """

    d: int
    points: int = 4
    centroids: int = 256
    threads: int = 128

    @property
    def rows(self) -> int:
        return self.points * self.threads

    @property
    def tile_bytes(self) -> int:
        return 16 * self.centroids * (self.d // 4 + 1)

    def registers(self) -> int:
        return self.points * (self.d + 2) + 4 * (self.d // 4 + 1)


@dataclass(frozen=True)
class RowsLaunch:
    """A kernel over rows of scores: `lanes` lanes share a row and load `width` scores at a time."""

    lanes: int
    width: int
    launch: Launch


def assign_tiles(d: int) -> tuple[Tiles | PointTiles, ...]:
    """Return the candidates for points of d features; the first needs no measurement.

    Chunks are of 32 features from D = 17 on: a line of memory is 128 bytes.
    """
    if d <= SMALL_D:
        return (PointTiles(d),)
    if d <= 16:
        return Tiles(4, 4, 4, 16, 1), Tiles(8, 2, 8, 16, 1)
    if d <= 32:
        return Tiles(4, 4, 4, 32, 1), Tiles(8, 4, 4, 32, 1)
    if d <= 64:
        return Tiles(4, 3, 4, 32, 2), Tiles(8, 2, 8, 32, 2)
    if d <= 128:
        return Tiles(4, 2, 4, 32, 4), Tiles(8, 2, 4, 32, 4)
    return Tiles(8, 2, 8, 32, 0), Tiles(4, 2, 8, 32, 0)


def assign_launch(tiles: Tiles | PointTiles, b: int, n: int, k: int, device: Device) -> Launch:
    """Return a grid of threadgroups (row tiles, B, parts of K).

    K is cut into parts where the rows alone leave cores without work.
    """
    return _row_tiles(tiles, b, n, _parts(tiles, b, n, k, device), tiles.tile_bytes)


def launch_rows(k: int, d: int) -> int:
    """Return the most rows of a launch that computes scores of k centroids."""
    return max(LEAST_ROWS, MAX_PRODUCTS // (k * d) // 512 * 512)


def cuts(b: int, n: int, k: int, d: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of the batch and of its points (B, N, D), each for one launch."""
    rows = launch_rows(k, d)
    together = max(1, rows // n)
    for i in range(0, b, together):
        for lo in range(0, n, rows):
            yield slice(i, i + together), slice(lo, lo + rows)


def topk_tiles(d: int, *, narrow: bool = False) -> Tiles:
    """Return the tiles of top_rows; with `narrow`, an input may be in `constant` memory.

    Loads are then of one element.
    """
    bk = 16 if d <= 16 else 32
    res = 0 if d > 64 else ceil_div(d, bk)
    return Tiles(2, 2, 4, bk, res, 1 if narrow else 4)


def topk_launch(tiles: Tiles, b: int, n: int, k: int, device: Device) -> Launch:
    """Return the launch of top_rows, with the grid of `assign_launch`."""
    parts = _parts(tiles, b, n, k, device)
    return _row_tiles(tiles, b, n, parts, tiles.tile_bytes + tiles.list_bytes)


def _parts(tiles: Tiles | PointTiles, b: int, n: int, k: int, device: Device) -> int:
    groups = b * ceil_div(n, tiles.rows)
    wanted = ceil_div(device.threadgroups, groups)
    return max(1, min(wanted, ceil_div(k, tiles.centroids) // 4, 32))


def _row_tiles(
    tiles: Tiles | PointTiles, b: int, n: int, parts: int, threadgroup_bytes: int
) -> Launch:
    grid = (ceil_div(n, tiles.rows) * tiles.threads, b, parts)
    return Launch(grid, (tiles.threads, 1, 1), threadgroup_bytes)


def argmax_launch(rows: int, k: int, itemsize: int) -> RowsLaunch:
    """Return the launch of argmax: loads of 16 bytes, and few lanes for a short row."""
    _check_rows(rows)
    lanes = 32 if k > 64 else 8 if k > 8 else 2
    width = 1 if rows * k < 8 else 16 // itemsize
    return RowsLaunch(lanes, width, Launch((ceil_div(rows * lanes, 128) * 128, 1, 1), (128, 1, 1)))


def top_of_rows_launch(rows: int, m: int) -> RowsLaunch:
    """Return the launch of topk over rows of m scores."""
    _check_rows(rows)
    width = 1 if rows * m < 8 else 4
    return RowsLaunch(SIMD, width, Launch((ceil_div(rows, 4) * 128, 1, 1), (128, 1, 1)))


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows must be <= {MAX_ROWS} in one launch; cut them")


def score_rows(k: int, device: Device) -> int:
    """Return the number of rows whose scores exist at a time under the addmm strategy.

    As many as stay in the GPU's cache, but not so few that products become slow.
    """
    return min(max(LEAST_ROWS, device.cache_bytes // (4 * k)), MAX_ROWS)
