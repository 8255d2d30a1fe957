"""Launches of the sort and of the sums of clusters, as pure functions of shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .device import SIMD, Launch, ceil_div, power_of_two

__all__ = [
    "DenseSumsLaunch",
    "Digit",
    "SortLaunch",
    "SortedSumsLaunch",
    "dense_sums_launch",
    "scan_launch",
    "sort_launch",
    "sorted_sums_launch",
]

DENSE_CLUSTERS = 64  # up to here sums need no sort
TABLE = 8192  # buckets of a sort by one digit: 32 KiB of uint32
# Chunks of sorted rows, up to N = 2**23: enough for the widest GPU, and few to add up.
MAX_CHUNKS = 2048
LEAST_SORT_CHUNK = 1024  # rows
LEAST_SUM_CHUNK = 256  # rows
SCAN_SIMDGROUPS = 8  # of a threadgroup of scan_counts
JOIN_SIMDGROUPS = 8  # of a threadgroup of join_dense
WHOLE_LABEL = 2**32 - 1  # a mask that keeps all bits


class Digit(NamedTuple):
    """A digit of a label: (label >> shift) & mask, below `buckets`."""

    buckets: int
    shift: int
    mask: int


@dataclass(frozen=True)
class SortLaunch:
    """A counting sort: one pass per digit.

    Attributes:
        digits: The digits, the lowest first.
        table: Length of the table in threadgroup memory.
        chunk_rows: Rows of a chunk.
        chunks: Number of chunks.
        launch: The launch of a pass.
    """

    digits: tuple[Digit, ...]
    table: int
    chunk_rows: int
    chunks: int
    launch: Launch


@dataclass(frozen=True)
class SortedSumsLaunch:
    """Sums over sorted rows.

    Attributes:
        lanes: Lanes that share a row.
        width: Adjacent features of a lane.
        nsg: Simdgroups of a threadgroup.
        chunk_rows: Rows of a chunk.
        whole_rows: Clusters up to this many rows are summed whole.
        chunks: Number of chunks.
        sum_chunks: The launch of sum_chunks.
        sum_clusters: The launch of sum_clusters.
    """

    lanes: int
    width: int
    nsg: int
    chunk_rows: int
    whole_rows: int
    chunks: int
    sum_chunks: Launch
    sum_clusters: Launch


@dataclass(frozen=True)
class DenseSumsLaunch:
    """Sums without a sort.

    Attributes:
        lanes: Lanes that share a row.
        nsg: Simdgroups of a threadgroup.
        table: Clusters that the table of a simdgroup has room for.
        chunk_rows: Rows of a chunk.
        chunks: Number of chunks.
        sum_dense: The launch of sum_dense.
        join_dense: The launch of join_dense.
    """

    lanes: int
    nsg: int
    table: int
    chunk_rows: int
    chunks: int
    sum_dense: Launch
    join_dense: Launch


def sort_launch(b: int, n: int, k: int) -> SortLaunch:
    """Return a sort by the whole label up to 8192 clusters, by two digits above.

    The counts of the chunks take at most a few bytes a row.
    """
    if k <= TABLE:
        digits = (Digit(k, 0, WHOLE_LABEL),)
    else:
        bits = ((k - 1).bit_length() + 1) // 2
        low = Digit(1 << bits, 0, (1 << bits) - 1)
        digits = (low, Digit(ceil_div(k, 1 << bits), bits, WHOLE_LABEL))
    buckets = max(digit.buckets for digit in digits)
    table = next(size for size in (256, 2048, TABLE) if buckets <= size)
    chunk_rows = min(max(LEAST_SORT_CHUNK, 2 * power_of_two(buckets)), TABLE)
    chunks = ceil_div(n, chunk_rows)
    launch = Launch((chunks * SIMD, b, 1), (SIMD, 1, 1), 4 * table)
    return SortLaunch(digits, table, chunk_rows, chunks, launch)


def scan_launch(b: int) -> Launch:
    """Return the launch of scan_counts: a threadgroup per batch element."""
    threads = SCAN_SIMDGROUPS * SIMD
    return Launch((threads, b, 1), (threads, 1, 1), 4 * SCAN_SIMDGROUPS)


def sorted_sums_launch(b: int, n: int, k: int, d: int, *, narrow: bool = False) -> SortedSumsLaunch:
    """Return so many chunks of sorted rows that they feed the GPU, and few enough to add up fast.

    With `narrow`, an input may be in `constant` memory and loads are of one element.
    """
    width = 1 if narrow or d < 4 else 4
    lanes = _lanes(d, width)
    blocks = ceil_div(d, lanes * width)
    nsg = 4
    threads = nsg * SIMD
    chunk_rows = min(max(LEAST_SUM_CHUNK, power_of_two(ceil_div(n, MAX_CHUNKS))), 4096)
    chunks = ceil_div(n, chunk_rows)
    scratch_bytes = 4 * nsg * (lanes * width + 1)
    return SortedSumsLaunch(
        lanes=lanes,
        width=width,
        nsg=nsg,
        chunk_rows=chunk_rows,
        whole_rows=nsg * chunk_rows,
        chunks=chunks,
        sum_chunks=Launch((ceil_div(chunks, nsg) * threads, blocks, b), (threads, 1, 1)),
        sum_clusters=Launch((k * threads, blocks, b), (threads, 1, 1), scratch_bytes),
    )


def dense_sums_launch(b: int, n: int, k: int, d: int) -> DenseSumsLaunch:
    """Return chunks of 32 rows a cluster: the partial sums are then a thirty-second of x."""
    table = max(16, power_of_two(k))
    lanes = _lanes(d, 1)
    slices = ceil_div(d, lanes)
    nsg = min(128 // table, slices)
    chunk_rows = 32 * table
    chunks = ceil_div(n, chunk_rows)
    grid = (chunks * SIMD * nsg, ceil_div(slices, nsg), b)
    threads = JOIN_SIMDGROUPS * SIMD
    return DenseSumsLaunch(
        lanes=lanes,
        nsg=nsg,
        table=table,
        chunk_rows=chunk_rows,
        chunks=chunks,
        sum_dense=Launch(grid, (SIMD * nsg, 1, 1), 4 * SIMD * table * nsg),
        join_dense=Launch(
            (k * threads, slices, b), (threads, 1, 1), 4 * JOIN_SIMDGROUPS * (lanes + 2)
        ),
    )


def _lanes(columns: int, width: int) -> int:
    return min(SIMD, power_of_two(ceil_div(columns, width)))
