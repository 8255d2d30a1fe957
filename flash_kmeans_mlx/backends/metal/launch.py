"""Launch configurations: pure functions of shapes, dtypes and device facts. Nothing here touches a device.

Register counts are estimates for the arrays a kernel declares, in 32-bit registers of a lane. Nobody has compiled these
kernels for an Apple GPU yet; `Tiles.registers` exists so that no configuration grows past what a thread is said to have.
"""

from __future__ import annotations

from dataclasses import dataclass

from .device import MAX_ROWS, SIMD, Device, Launch, ceil_div, power_of_two

__all__ = [
    "Dense",
    "PointTiles",
    "Rows",
    "Segments",
    "Sort",
    "Tiles",
    "argmax_rows",
    "assign_configs",
    "assign_launch",
    "dense_launch",
    "score_rows",
    "segments",
    "sort",
    "topk_config",
    "topk_launch",
    "topk_rows_launch",
]

MAX_REGISTERS = 104  # leaves 24 of 128 for addresses
SMALL_D = 8  # up to here one thread holds whole points
DENSE_CLUSTERS = 64  # up to here sums need no sort
TABLE = 8192  # buckets of a sort by one digit: 32 KiB of uint32
FUSED_K = 32  # entries of a list of topk: one a lane
LEAST_ROWS = 64  # of a product
CHUNKS = (
    2048  # of sorted rows at most, up to N = 2**23: enough for the widest GPU, and few to add up
)


@dataclass(frozen=True)
class Tiles:
    """The template arguments of Scores: `scores.metal` says what they mean."""

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
        """Two buffers of centroids and bias."""
        return 2 * 4 * (self.bk * (self.centroids + 8) + self.centroids)

    @property
    def top_bytes(self) -> int:
        """What topk needs beside them: scratch and lists."""
        return 4 * self.nsg * 8 * self.centroids + 8 * self.rows * FUSED_K

    def registers(self) -> int:
        """Estimate: rows of x (two chunks where they are streamed), accumulators, staged centroids, running best, operand."""
        held = (self.res or 2) * self.bk // 8 * self.rb * 2
        staged = self.centroids * self.bk // self.threads + 1
        return held + self.rb * self.cb * 2 + staged + self.rb * 2 + 2


@dataclass(frozen=True)
class PointTiles:
    """D <= 8: `points` points a thread, `centroids` of them in threadgroup memory at a time."""

    d: int
    points: int = 4
    centroids: int = 256
    threads: int = 128

    @property
    def rows(self) -> int:
        return self.points * self.threads

    @property
    def tile_bytes(self) -> int:
        return 4 * self.centroids * (self.d + 1)

    def registers(self) -> int:
        return self.points * (self.d + 2) + self.d + 1


@dataclass(frozen=True)
class Rows:
    """A kernel over rows of scores."""

    lanes: int
    width: int
    launch: Launch


@dataclass(frozen=True)
class Sort:
    """One pass of a counting sort per digit: (buckets, shift, mask); `table` is the threadgroup table's length."""

    digits: tuple[tuple[int, int, int], ...]
    table: int
    chunk: int
    chunks: int
    launch: Launch


@dataclass(frozen=True)
class Segments:
    """Sums over sorted rows: `lanes` share a row, `width` features each; clusters up to `whole` rows are summed whole."""

    lanes: int
    width: int
    nsg: int
    chunk: int
    whole: int
    chunks: int
    sum_chunks: Launch
    sum_clusters: Launch


@dataclass(frozen=True)
class Dense:
    """Sums without a sort."""

    lanes: int
    nsg: int
    table: int
    chunk: int
    chunks: int
    launch: Launch


def assign_configs(d: int) -> tuple[Tiles | PointTiles, ...]:
    """The candidates for points of d features, the one to take without a measurement first."""
    if d <= SMALL_D:
        return (PointTiles(d),)
    if d <= 32:
        res = 1 if d <= 16 else 2
        return Tiles(4, 4, 4, 16, res), Tiles(8, 2, 8, 16, res)
    if d <= 64:
        return Tiles(4, 2, 8, 16, 4), Tiles(8, 2, 8, 16, 4)
    if d <= 128:
        return Tiles(4, 2, 4, 16, 8), Tiles(8, 2, 4, 32, 4)
    return Tiles(8, 2, 8, 16, 0), Tiles(4, 2, 8, 16, 0)


def assign_launch(config: Tiles | PointTiles, b: int, n: int, k: int, device: Device) -> Launch:
    """Threadgroups (row tiles, B, parts of K): parts where the rows alone leave cores without work."""
    return _row_tiles(config, b, n, _parts(config, b, n, k, device), config.tile_bytes)


def topk_config(d: int, *, narrow: bool = False) -> Tiles:
    """`narrow`: an input may be in `constant` memory, so loads are of one element."""
    res = 0 if d > 64 else 1 if d <= 16 else 2 if d <= 32 else 4
    return Tiles(2, 2, 4, 16, res, 1 if narrow else 4)


def topk_launch(config: Tiles, b: int, n: int, k: int, device: Device) -> Launch:
    """Launch of the fused topk."""
    return _row_tiles(
        config, b, n, _parts(config, b, n, k, device), config.tile_bytes + config.top_bytes
    )


def _parts(config: Tiles | PointTiles, b: int, n: int, k: int, device: Device) -> int:
    groups = b * ceil_div(n, config.rows)
    return max(
        1, min(ceil_div(device.threadgroups, groups), ceil_div(k, config.centroids) // 4, 32)
    )


def _row_tiles(
    config: Tiles | PointTiles, b: int, n: int, parts: int, threadgroup_bytes: int
) -> Launch:
    return Launch(
        (ceil_div(n, config.rows) * config.threads, b, parts),
        (config.threads, 1, 1),
        threadgroup_bytes,
    )


def argmax_rows(rows: int, k: int, itemsize: int) -> Rows:
    """Loads of 16 bytes; a short row gets few lanes."""
    _check_rows(rows)
    lanes = 32 if k > 64 else 8 if k > 8 else 2
    width = 1 if rows * k < 8 else 16 // itemsize
    return Rows(lanes, width, Launch((ceil_div(rows * lanes, 128) * 128, 1, 1), (128, 1, 1)))


def score_rows(k: int, device: Device) -> int:
    """Rows whose scores exist at a time under the addmm strategy: as many as stay in the GPU's cache, but no crawl."""
    return min(max(LEAST_ROWS, device.cache_bytes // (4 * k)), MAX_ROWS)


def topk_rows_launch(rows: int, m: int) -> Rows:
    """Launch of topk over rows of scores."""
    _check_rows(rows)
    return Rows(
        SIMD, 1 if rows * m < 8 else 4, Launch((ceil_div(rows, 4) * 128, 1, 1), (128, 1, 1))
    )


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows must be <= {MAX_ROWS} in one launch; cut them")


def sort(b: int, n: int, k: int) -> Sort:
    """Up to 8192 clusters by the whole label, above by two digits. The counts of the chunks are at most a few bytes a row."""
    if k <= TABLE:
        digits = ((k, 0, 2**32 - 1),)
    else:
        bits = ((k - 1).bit_length() + 1) // 2
        digits = ((1 << bits, 0, (1 << bits) - 1), (ceil_div(k, 1 << bits), bits, 2**32 - 1))
    buckets = max(digit[0] for digit in digits)
    table = next(size for size in (256, 2048, TABLE) if buckets <= size)
    chunk = min(max(1024, 2 * power_of_two(buckets)), TABLE)
    chunks = ceil_div(n, chunk)
    return Sort(
        digits, table, chunk, chunks, Launch((chunks * SIMD, b, 1), (SIMD, 1, 1), 4 * table)
    )


def segments(b: int, n: int, k: int, d: int, *, narrow: bool = False) -> Segments:
    """Chunks of sorted rows, so many that they feed the GPU and so few that adding them up is short."""
    width = 1 if narrow or d < 4 else 4
    lanes = _lanes(d, width)
    blocks = ceil_div(d, lanes * width)
    nsg = 4
    chunk = min(max(256, power_of_two(ceil_div(n, CHUNKS))), 4096)
    chunks = ceil_div(n, chunk)
    threads = nsg * SIMD
    return Segments(
        lanes,
        width,
        nsg,
        chunk,
        nsg * chunk,
        chunks,
        Launch((ceil_div(chunks, nsg) * threads, blocks, b), (threads, 1, 1)),
        Launch((k * threads, blocks, b), (threads, 1, 1), 4 * nsg * (lanes * width + 1)),
    )


def dense_launch(b: int, n: int, k: int, d: int) -> Dense:
    """Chunks of 32 rows a cluster: the partial sums are then a thirty-second of x."""
    table = max(16, power_of_two(k))
    lanes = _lanes(d, 1)
    slices = ceil_div(d, lanes)
    nsg = min(128 // table, slices)
    chunk = 32 * table
    chunks = ceil_div(n, chunk)
    launch = Launch(
        (chunks * SIMD * nsg, ceil_div(slices, nsg), b), (SIMD * nsg, 1, 1), 4 * SIMD * table * nsg
    )
    return Dense(lanes, nsg, table, chunk, chunks, launch)


def _lanes(columns: int, width: int) -> int:
    return min(SIMD, power_of_two(ceil_div(columns, width)))
